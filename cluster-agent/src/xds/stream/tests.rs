use super::*;
use Kind::{Cluster, Endpoint, Listener, Route};

#[derive(Default)]
struct World(BTreeMap<(Kind, Arc<str>), Arc<Resource>>);

impl World {
    fn of(all: &[(Kind, &str, &str)]) -> Self {
        let mut world = Self::default();
        for (kind, name, body) in all {
            world.put(*kind, name, body);
        }
        world
    }
    fn put(&mut self, kind: Kind, name: &str, body: &str) {
        let resource = Resource::of_bytes(kind, name, bytes::Bytes::copy_from_slice(body.as_bytes()));
        self.0.insert((kind, name.into()), resource);
    }
    fn remove(&mut self, kind: Kind, name: &str) {
        self.0.remove(&(kind, name.into()));
    }
}
impl Resources for World {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.0.get(&(kind, name.into())).cloned()
    }
    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        self.0.keys().filter(|(k, _)| *k == kind).map(|(_, n)| Arc::clone(n)).collect()
    }
}

/// A stream under test with its clock; responses are shown as `kind: name=body … -removed`.
struct Bench {
    stream: Stream,
    world: World,
    now: Instant,
    last: BTreeMap<Kind, String>,
}

impl Bench {
    fn new(protocol: Protocol, world: World) -> Self {
        Self { stream: Stream::new(protocol), world, now: meshfed_runtime::clock::instant(), last: BTreeMap::new() }
    }
    fn ask(&mut self, kind: Kind, request: Request) -> Outcome {
        self.stream.request(kind, &request, &self.world, self.now).unwrap()
    }
    fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        let subscribe = names.iter().map(ToString::to_string).collect();
        let nonce = self.last.get(&kind).cloned().unwrap_or_default();
        self.ask(kind, Request { subscribe, nonce, ..Request::default() });
    }
    fn change(&mut self, kind: Kind, name: &str, body: Option<&str>) {
        match body {
            Some(body) => self.world.put(kind, name, body),
            None => self.world.remove(kind, name),
        }
        self.stream.mark(kind, &name.into());
    }
    fn poll(&mut self) -> Vec<String> {
        let responses = self.stream.poll(&self.world, self.now);
        let show = |r: &Response| {
            let mut text = format!("{}:", r.kind.as_str());
            for resource in &r.resources {
                text.push_str(&format!(" {}={}", resource.name, String::from_utf8_lossy(&resource.body)));
            }
            for removed in &r.removed {
                text.push_str(&format!(" -{removed}"));
            }
            text
        };
        for r in &responses {
            self.last.insert(r.kind, r.nonce.clone());
        }
        responses.iter().map(show).collect()
    }
    /// Answers the last response of a kind; in state of the world an answer repeats the names.
    fn answer(&mut self, kind: Kind, error: Option<&str>) -> Outcome {
        let nonce = self.last.get(&kind).cloned().unwrap_or_default();
        let subscribe = match self.stream.protocol {
            Protocol::Sotw => self.stream.subscribed(kind).map(ToString::to_string).collect(),
            Protocol::Delta => Vec::new(),
        };
        self.ask(kind, Request { subscribe, nonce, error: error.map(str::to_owned), ..Request::default() })
    }
    fn ack(&mut self, kind: Kind) {
        assert_eq!(self.answer(kind, None), Outcome::Acked);
    }
}

fn both(test: impl Fn(Protocol)) {
    test(Protocol::Sotw);
    test(Protocol::Delta);
}

/// Mutation seen to fail: `state.outstanding.is_some()` no longer returns from `poll_kind` (two responses under way).
#[test]
fn one_response_is_under_way_and_the_latest_body_wins() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::of(&[(Endpoint, "e", "1")]));
        b.subscribe(Endpoint, &["e"]);
        assert_eq!(b.poll(), ["eds: e=1"]);
        b.change(Endpoint, "e", Some("2"));
        b.change(Endpoint, "e", Some("3"));
        assert!(b.poll().is_empty());
        b.ack(Endpoint);
        assert_eq!(b.poll(), ["eds: e=3"]);
        b.ack(Endpoint);
        assert!(b.poll().is_empty() && b.stream.is_settled());
    });
}

/// Mutation seen to fail: `Held::Version(v, _) if *v == r.version` no longer counts as the same.
#[test]
fn a_change_back_is_no_change() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::of(&[(Endpoint, "e", "1")]));
        b.subscribe(Endpoint, &["e"]);
        b.poll();
        b.change(Endpoint, "e", Some("2"));
        b.change(Endpoint, "e", Some("1"));
        b.ack(Endpoint);
        assert!(b.poll().is_empty());
    });
}

/// Mutation seen to fail: in `answer`, the nonce is not compared.
#[test]
fn a_late_answer_is_ignored() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::of(&[(Endpoint, "e", "1")]));
        b.subscribe(Endpoint, &["e"]);
        b.poll();
        b.ack(Endpoint);
        b.change(Endpoint, "e", Some("2"));
        assert_eq!(b.poll(), ["eds: e=2"]);
        let names = if protocol == Protocol::Sotw { vec!["e".to_owned()] } else { Vec::new() };
        let late =
            Request { subscribe: names, nonce: "1".to_owned(), error: Some("old".to_owned()), ..Request::default() };
        assert_eq!(b.ask(Endpoint, late), Outcome::Noted);
        assert!(!b.stream.is_settled());
        b.ack(Endpoint);
        assert!(b.stream.is_settled());
    });
}

/// Mutation seen to fail: `retry_at` is `now` (a hot loop); `refused` is not filled (settled at once).
#[test]
fn a_refused_version_is_kept_back_until_it_changes_or_a_pause_is_over() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::of(&[(Listener, "in|1", "1"), (Listener, "in|2", "1")]));
        b.subscribe(Listener, &[]);
        assert_eq!(b.poll(), ["lds: in|1=1 in|2=1"]);
        let outcome = b.answer(Listener, Some("listener in|2: address in use"));
        assert_eq!(
            outcome,
            Outcome::Nacked { names: vec!["in|2".into()], error: "listener in|2: address in use".to_owned() }
        );
        assert!(b.poll().is_empty(), "no hot loop");
        assert!(!b.stream.is_settled());
        b.now += NACK_PAUSE;
        assert_eq!(b.poll(), [if protocol == Protocol::Sotw { "lds: in|1=1 in|2=1" } else { "lds: in|2=1" }]);
        b.answer(Listener, Some("in|2"));
        b.now += NACK_PAUSE;
        assert!(b.poll().is_empty(), "the pause is doubled");
        b.change(Listener, "in|2", Some("2"));
        assert_eq!(b.poll().len(), 1, "a new version goes at once");
        b.ack(Listener);
        assert!(b.stream.is_settled());
        assert_eq!(b.stream.deadline(), None);
    });
}

/// Mutation seen to fail: `must_wait` of `Kind::Route` without `Cluster`; `removals_must_wait` always false.
#[test]
fn make_before_break() {
    both(|protocol| {
        let start = [
            (Cluster, "outbound|old", "1"),
            (Endpoint, "outbound|old", "1"),
            (Listener, "l", "1"),
            (Route, "r", "old"),
        ];
        let mut b = Bench::new(protocol, World::of(&start));
        for (kind, names) in
            [(Cluster, vec![]), (Endpoint, vec!["outbound|old"]), (Listener, vec![]), (Route, vec!["r"])]
        {
            b.subscribe(kind, &names);
            assert_eq!(b.poll().len(), 1, "{kind:?}");
            b.ack(kind);
        }
        b.change(Cluster, "outbound|new", Some("1"));
        b.change(Endpoint, "outbound|new", Some("1"));
        b.change(Route, "r", Some("new"));
        b.change(Cluster, "outbound|old", None);
        // The new cluster goes first; the old one stays until no route names it.
        let first =
            if protocol == Protocol::Sotw { "cds: outbound|new=1 outbound|old=1" } else { "cds: outbound|new=1" };
        assert_eq!(b.poll(), [first]);
        assert!(b.poll().is_empty());
        b.ack(Cluster);
        assert!(b.poll().is_empty(), "routes wait for the endpoints of the new cluster");
        b.subscribe(
            Endpoint,
            &if protocol == Protocol::Sotw { vec!["outbound|old", "outbound|new"] } else { vec!["outbound|new"] },
        );
        assert_eq!(b.poll(), ["eds: outbound|new=1"]);
        b.ack(Endpoint);
        assert_eq!(b.poll(), ["rds: r=new"]);
        assert!(b.poll().is_empty(), "the old cluster waits for the routes");
        b.ack(Route);
        assert_eq!(b.poll(), [if protocol == Protocol::Sotw { "cds: outbound|new=1" } else { "cds: -outbound|old" }]);
        b.ack(Cluster);
        assert!(b.poll().is_empty());
    });
}

/// Mutation seen to fail: `impatient` is always false.
#[test]
fn patience_ends() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::of(&[(Cluster, "c", "1"), (Route, "r", "1")]));
        b.subscribe(Cluster, &[]);
        b.subscribe(Route, &["r"]);
        assert_eq!(b.poll().len(), 2, "a name that is asked for never waits");
        b.ack(Route);
        b.change(Route, "r", Some("2"));
        assert!(b.poll().is_empty(), "clusters are not acknowledged");
        assert_eq!(b.stream.deadline(), Some(b.now + ORDER_PATIENCE));
        b.now += ORDER_PATIENCE;
        assert_eq!(b.poll(), ["rds: r=2"]);
    });
}

/// Mutation seen to fail: `initial_resource_versions` are not read (everything is sent again).
#[test]
fn a_reconnect_sends_only_what_changed() {
    let world = World::of(&[(Cluster, "a", "1"), (Cluster, "b", "1"), (Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let held = |kind: Kind, names: &[&str]| -> BTreeMap<String, String> {
        names
            .iter()
            .map(|n| ((*n).to_owned(), world.get(kind, n).map_or_else(|| "gone".to_owned(), |r| r.version.to_string())))
            .collect()
    };
    let clusters =
        Request { held: held(Cluster, &["a", "b", "old"]), subscribe: vec!["*".to_owned()], ..Request::default() };
    let endpoints = Request {
        held: held(Endpoint, &["a", "b"]),
        subscribe: vec!["a".to_owned(), "b".to_owned()],
        ..Request::default()
    };
    let mut b = Bench::new(Protocol::Delta, world);
    b.world.put(Endpoint, "b", "2");
    b.ask(Cluster, clusters);
    b.ask(Endpoint, endpoints);
    assert_eq!(b.poll(), ["cds: -old", "eds: b=2"]);
    b.ack(Cluster);
    b.ack(Endpoint);
    assert!(b.stream.is_settled());
}

/// Mutation seen to fail: a name that is subscribed again keeps its held version (nothing is sent).
#[test]
fn delta_subscriptions() {
    let mut b = Bench::new(Protocol::Delta, World::of(&[(Endpoint, "e", "1")]));
    b.subscribe(Endpoint, &["e", "nobody"]);
    assert_eq!(b.poll(), ["eds: e=1 -nobody"], "what does not exist is said to be gone");
    b.ack(Endpoint);
    b.subscribe(Endpoint, &["e"]);
    assert_eq!(b.poll(), ["eds: e=1"], "asked for again, sent again");
    b.ack(Endpoint);
    b.change(Endpoint, "nobody", Some("1"));
    assert_eq!(b.poll(), ["eds: nobody=1"]);
    b.ack(Endpoint);
    b.ask(Endpoint, Request { unsubscribe: vec!["e".to_owned()], ..Request::default() });
    b.change(Endpoint, "e", Some("2"));
    b.change(Endpoint, "nobody", None);
    assert_eq!(b.poll(), ["eds: -nobody"]);
}

/// Mutation seen to fail: `wildcard` of a later empty list (after names) is true.
#[test]
fn sotw_names_replace_each_other() {
    let mut b =
        Bench::new(Protocol::Sotw, World::of(&[(Cluster, "a", "1"), (Cluster, "b", "1"), (Endpoint, "e", "1")]));
    b.subscribe(Cluster, &["a"]);
    assert_eq!(b.poll(), ["cds: a=1"]);
    b.ack(Cluster);
    b.change(Cluster, "b", Some("2"));
    assert!(b.poll().is_empty());
    b.subscribe(Cluster, &["b"]);
    assert_eq!(b.poll(), ["cds: b=2"]);
    b.ack(Cluster);
    b.subscribe(Cluster, &[]);
    b.change(Cluster, "b", Some("3"));
    assert!(b.poll().is_empty(), "no names any more is not all names");
    b.subscribe(Endpoint, &["e"]);
    assert_eq!(b.poll(), ["eds: e=1"]);
    // While our response is under way, a request for the response before it does not count.
    b.ask(Endpoint, Request { nonce: "0".to_owned(), ..Request::default() });
    b.ack(Endpoint);
    b.change(Endpoint, "e", Some("2"));
    assert_eq!(b.poll(), ["eds: e=2"]);
}

/// Mutation seen to fail: the first wildcard response of nothing is left out.
#[test]
fn nothing_is_an_answer_too() {
    both(|protocol| {
        let mut b = Bench::new(protocol, World::default());
        b.subscribe(Listener, &[]);
        assert_eq!(b.poll(), ["lds:"]);
        b.ack(Listener);
        assert!(b.poll().is_empty() && b.stream.has_listeners());
    });
}

/// Mutation seen to fail: the size is not counted (one response of 2 MiB).
#[test]
fn a_large_first_answer_goes_in_parts() {
    let body = "x".repeat(RESPONSE_BYTES / 3);
    let mut b = Bench::new(
        Protocol::Delta,
        World::of(&[(Cluster, "a", &body), (Cluster, "b", &body), (Cluster, "c", &body), (Cluster, "d", &body)]),
    );
    b.subscribe(Cluster, &[]);
    let mut sent = 0;
    for _ in 0..2 {
        let part = b.poll();
        assert_eq!(part.len(), 1);
        assert!(part[0].len() < RESPONSE_BYTES + 100);
        sent += part[0].matches('=').count();
        b.ack(Cluster);
    }
    assert_eq!(sent, 4);
    assert!(b.poll().is_empty());
}

/// Mutation seen to fail: `NAMES_PER_STREAM` as `usize::MAX`.
#[test]
fn subscriptions_have_a_limit() {
    let mut stream = Stream::new(Protocol::Delta);
    let subscribe = (0..=NAMES_PER_STREAM).map(|n| n.to_string()).collect();
    let error = stream.request(
        Endpoint,
        &Request { subscribe, ..Request::default() },
        &World::default(),
        meshfed_runtime::clock::instant(),
    );
    assert_eq!(error, Err(StreamError::TooManyNames { limit: NAMES_PER_STREAM, actual: NAMES_PER_STREAM + 1 }));
}
