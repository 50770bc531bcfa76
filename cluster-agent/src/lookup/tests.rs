use std::sync::Mutex;

use super::*;

type Answers = Arc<Mutex<BTreeMap<&'static str, Result<Vec<IpAddr>, &'static str>>>>;

struct Table(Answers);

impl Resolver for Table {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let answer = self.0.lock().unwrap().get(host).cloned();
        answer.unwrap_or(Err("no such name")).map_err(std::io::Error::other)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Mutations seen to fail: a failure is not tried again before the refresh; names that are gone are resolved on; `good`
/// is not saved.
#[tokio::test]
async fn names_are_resolved_again_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts.json");
    let table: Answers =
        Arc::new(Mutex::new(BTreeMap::from([("lb.example", Ok(vec![ip("10.0.0.2"), ip("10.0.0.1")]))])));
    // So far apart that a loaded machine does not take one for the other.
    let pauses = Pauses { refresh: Duration::from_millis(400), retry: Duration::from_millis(1) };
    let (hosts, seen) = watch::channel(BTreeSet::new());
    let (sender, mut answers) = mpsc::channel(LOOKUPS_MAX);
    let running = tasks::spawn("lookup", run(path.clone(), Table(Arc::clone(&table)), pauses, seen, sender));
    let both: BTreeSet<Arc<str>> = ["lb.example".into(), "nowhere.example".into()].into();
    hosts.send_replace(both);
    let mut first = [answers.recv().await.unwrap(), answers.recv().await.unwrap()];
    first.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(first[0].found, Ok(vec![ip("10.0.0.1"), ip("10.0.0.2")]));
    assert_eq!(first[1].found, Err("no such name".to_owned()));
    // The one that failed comes first, and then both in turn.
    assert_eq!(&*answers.recv().await.unwrap().host, "nowhere.example");
    table.lock().unwrap().insert("lb.example", Ok(vec![ip("10.0.0.3")]));
    // An answer that was under way already is the old one.
    while answers.recv().await.unwrap().found != Ok(vec![ip("10.0.0.3")]) {}
    hosts.send_replace(["lb.example".into()].into());
    // What was under way when the other name went is answered still.
    while &*answers.recv().await.unwrap().host != "lb.example" {}
    table.lock().unwrap().insert("lb.example", Err("the resolver is down"));
    loop {
        let lookup = answers.recv().await.unwrap();
        if lookup.found == Err("the resolver is down".to_owned()) {
            break;
        }
        assert_eq!(&*lookup.host, "lb.example");
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let want = BTreeMap::from([("lb.example".into(), vec![ip("10.0.0.3")])]);
    while load(&path) != want {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", load(&path));
        let _again = answers.recv().await;
    }
    running.abort();
}
