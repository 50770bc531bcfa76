//! Raw HTTP/2 frames over TLS: silence, floods, too many headers, a peer that never reads (SY4, SY5, SY9).

use tokio_rustls::client::TlsStream;

use super::*;
use crate::connection::ConnectionLimits;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without compression: literals, each with its name.
fn block(path: &str, more: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut literal = |name: &str, value: &str| {
        out.push(0);
        for text in [name, value] {
            // Strings of up to 126 bytes need one byte of length.
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    };
    for (name, value) in [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")] {
        literal(name, value);
    }
    more.iter().for_each(|(name, value)| literal(name, value));
    out
}

fn request(stream: u32, path: &str, more: &[(String, String)]) -> Vec<u8> {
    let ends = 1 | 4;
    frame(HEADERS, ends, stream, &block(path, more))
}

struct Raw(TlsStream<TcpStream>);

impl Raw {
    /// A TLS connection that has sent its preface and settings.
    async fn connect(s: &Server, store: &Arc<TrustStore>, settings: &[u8]) -> Self {
        let mut raw = Self::silent(s, store).await;
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        raw
    }
    /// A TLS connection, and nothing more.
    async fn silent(s: &Server, store: &Arc<TrustStore>) -> Self {
        let tls = tls::client_config(None, Arc::clone(store), anybody(), &[b"h2"]).unwrap();
        let tcp = TcpStream::connect(s.addr).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("federator").unwrap();
        Self(tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap())
    }
    /// Sends; that the server has closed shows when reading.
    async fn send(&mut self, bytes: &[u8]) {
        let _closed = self.0.write_all(bytes).await;
        let _closed = self.0.flush().await;
    }
    /// The next frame: type, stream, payload; none: closed.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        tokio::time::timeout(WAIT, self.0.read_exact(&mut head)).await.expect("a frame, or the end").ok()?;
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        tokio::time::timeout(WAIT, self.0.read_exact(&mut payload)).await.expect("its payload").ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }
    /// Reads to the end, and gives the number of frames of a kind.
    async fn count(&mut self, kind: u8) -> usize {
        let mut count = 0;
        while let Some((found, _, _)) = self.next().await {
            count += usize::from(found == kind);
        }
        count
    }
    /// Reads until a frame of that kind, and gives its payload.
    async fn until(&mut self, kind: u8) -> Vec<u8> {
        while let Some((found, _, payload)) = self.next().await {
            if found == kind {
                return payload;
            }
        }
        panic!("closed without a frame of type {kind}");
    }
}

impl Server {
    fn cut(&self, reason: &'static str) -> u64 {
        self.metrics.cut.get_or_create(&CutLabel { reason }).get()
    }
}

fn open(limits: Limits) -> (Server, Arc<TrustStore>, Forge) {
    let fleet = Forge::new("mesh.example");
    let store = trust(&[&fleet]);
    let s = server(fleet.identity(FEDERATOR), Arc::clone(&store), anybody(), ClientAuth::Optional, limits);
    (s, store, fleet)
}

/// Neither a silent connection nor one that dribbles a head keeps its place; one that has asked once does.
///
/// Mutation seen to fail: `first_request` not polled in `Guarded::check`; `END_HEADERS` not looked at in `Meter::count`.
#[tokio::test]
async fn a_first_request_comes_in_time_or_the_connection_ends() {
    let each = ConnectionLimits { first_request: Duration::from_millis(400), ..ConnectionLimits::default() };
    let (s, store, _) = open(Limits { each, ..Limits::default() });
    let mut asked = Raw::connect(&s, &store, &[]).await;
    asked.send(&request(1, "/who", &[])).await;
    asked.until(DATA).await;
    let mut silent = Raw::silent(&s, &store).await;
    let mut settled = Raw::connect(&s, &store, &[]).await;
    let mut dribbles = Raw::connect(&s, &store, &[]).await;
    dribbles.send(&frame(HEADERS, 0, 1, &block("/who", &[]))).await;
    for raw in [&mut silent, &mut settled, &mut dribbles] {
        raw.count(PING).await;
    }
    assert_eq!(s.cut("first_request_timeout"), 3);
    asked.send(&request(3, "/who", &[])).await;
    asked.until(DATA).await;
    drop(asked);
    s.stop().await;
}

/// Mutation seen to fail: `Flood::Control` never given; the credit for data left out (the honest client is cut);
/// `goaway` giving nothing.
#[tokio::test]
async fn pings_and_settings_are_answered_at_a_measured_rate() {
    let (s, store, _) = open(Limits::default());
    let mut honest = Raw::connect(&s, &store, &[]).await;
    // A client that estimates bandwidth sends one PING for each data frame: those are not counted.
    for n in 0..120 {
        honest.send(&request(2 * n + 1, "/who", &[])).await;
        honest.until(DATA).await;
        honest.send(&frame(PING, 0, 0, &[7; 8])).await;
        honest.until(PING).await;
    }
    for (kind, payload) in [(PING, &[1; 8][..]), (SETTINGS, &[])] {
        let mut flood = Raw::connect(&s, &store, &[]).await;
        flood.send(&request(1, "/who", &[])).await;
        flood.until(DATA).await;
        let before = s.cut("control_flood");
        flood.send(&frame(kind, 0, 0, payload).repeat(5000)).await;
        let (mut answered, mut goodbye) = (0, None);
        while let Some((found, _, payload)) = flood.next().await {
            answered += usize::from(found == kind);
            goodbye = goodbye.or_else(|| (found == GOAWAY).then_some(payload));
        }
        assert_eq!(goodbye, Some(vec![0, 0, 0, 1, 0, 0, 0, 0xb]), "the last stream, and ENHANCE_YOUR_CALM");
        assert!(answered < 200, "{answered} answers to 5000 frames of type {kind}");
        assert_eq!(s.cut("control_flood"), before + 1);
    }
    honest.send(&request(301, "/who", &[])).await;
    honest.until(DATA).await;
    drop(honest);
    s.stop().await;
}

/// Mutation seen to fail: `Flood::Resets` never given.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (s, store, _) = open(Limits::default());
    let mut flood = Raw::connect(&s, &store, &[]).await;
    for n in 0..1000 {
        let stream = 2 * n + 1;
        flood
            .send(&[request(stream, "/forever", &[]), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat())
            .await;
    }
    flood.count(DATA).await;
    assert_eq!(s.cut("reset_flood"), 1);
    s.stop().await;
}

/// What the server says of itself is what the limits say, and both sizes of a head are held to.
///
/// Mutation seen to fail: `HEADERS_MAX` not looked at; `http2_max_header_list_size` four times as large; `max_concurrent_streams`
/// left out.
#[tokio::test]
async fn limits_are_told_and_held() {
    let (s, store, _) = open(Limits::default());
    let mut raw = Raw::connect(&s, &store, &[]).await;
    let settings = raw.until(SETTINGS).await;
    let told: std::collections::BTreeMap<u16, u32> = settings
        .chunks(6)
        .map(|c| (u16::from_be_bytes([c[0], c[1]]), u32::from_be_bytes([c[2], c[3], c[4], c[5]])))
        .collect();
    assert_eq!((told[&3], told[&4], told[&6]), (100, 64 * 1024, 16 * 1024), "streams, window, header list: {told:?}");
    // The connection's window is 65535 and what is added to it.
    let added = raw.until(WINDOW_UPDATE).await;
    assert_eq!(u32::from_be_bytes(added.try_into().unwrap()) + 65_535, 1024 * 1024);
    let headers = |count: usize| (0..count).map(|n| (format!("x-{n}"), "v".to_owned())).collect::<Vec<_>>();
    raw.send(&request(1, "/who", &headers(90))).await;
    assert!(String::from_utf8(raw.until(DATA).await).unwrap().starts_with("nobody"));
    raw.send(&[request(3, "/who", &headers(101)), request(9, "/who", &headers(10))].concat()).await;
    loop {
        let (kind, stream, _) = raw.next().await.unwrap();
        assert_ne!((kind, stream), (DATA, 3), "101 headers were taken");
        if (kind, stream) == (DATA, 9) {
            break;
        }
    }
    // 150 headers of 120 bytes: 27 KiB decoded, each counted with 32 bytes more.
    let long: Vec<_> = (0..150).map(|n| (format!("x-{n}"), "v".repeat(114))).collect();
    let fat = block("/who", &long);
    let (first, rest) = fat.split_at(16_384);
    raw.send(&[frame(HEADERS, 1, 11, first), frame(9, 4, 11, rest)].concat()).await;
    let answer = loop {
        match raw.next().await {
            Some((DATA, 11, _)) => panic!("a head of 27 KiB was taken"),
            Some((_, 11, _)) => break "refused",
            Some(_) => {}
            None => break "closed",
        }
    };
    assert_eq!(answer, "refused", "the connection stays");
    raw.send(&request(13, "/who", &[])).await;
    raw.until(DATA).await;
    drop(raw);
    s.stop().await;
}

/// A peer that asks for much and reads nothing: its connection ends, and its answers are freed.
///
/// Mutation seen to fail: `Stalling` without its timer.
#[tokio::test]
async fn a_peer_that_does_not_read_is_cut() {
    let each = ConnectionLimits { write_stall: Duration::from_millis(400), ..ConnectionLimits::default() };
    let (s, store, _) = open(Limits { each, ..Limits::default() });
    // Windows wide open, so that only the socket holds the answers back.
    let window = [&[0, 4][..], &0x7fff_ffffu32.to_be_bytes()].concat();
    let mut raw = Raw::connect(&s, &store, &window).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes())).await;
    raw.send(&request(1, "/flood", &[])).await;
    until("write_stall", || s.cut("write_stall") == 1).await;
    until("closed", || s.metrics.open.get() == 0).await;
    drop(raw);
    s.stop().await;
}

/// A peer that reads the socket and answers PINGs but keeps its window shut is cut, too; one that is merely not sent
/// anything is not.
///
/// Mutation seen to fail: `streams.watch` left out of `guarded`; a wait begun although nothing was given.
#[tokio::test]
async fn a_peer_that_keeps_its_window_shut_is_cut() {
    let each = ConnectionLimits { write_stall: Duration::from_millis(400), ..ConnectionLimits::default() };
    let (s, store, _) = open(Limits { each, ..Limits::default() });
    let mut idle = Raw::connect(&s, &store, &[]).await;
    idle.send(&request(1, "/trickle", &[])).await;
    idle.until(DATA).await;
    let mut shut = Raw::connect(&s, &store, &[]).await;
    shut.send(&request(1, "/endless", &[])).await;
    let mut taken = 0;
    while let Some((kind, _, payload)) = shut.next().await {
        taken += if kind == DATA { payload.len() } else { 0 };
        if kind == PING {
            shut.send(&frame(PING, 1, 0, &payload)).await;
        }
    }
    assert_eq!(taken, 65_535, "the window of a connection");
    assert_eq!(s.cut("write_stall"), 1);
    idle.send(&request(5, "/who", &[])).await;
    idle.until(DATA).await;
    drop(idle);
    s.stop().await;
}

/// Strangers displace strangers only, also when they come from an address that members share with them; members keep
/// places of their own, and one that floods displaces itself.
///
/// Mutations seen to fail: a member keeps the stranger's place; `limits.age` not set; `members` taken for one holder.
#[tokio::test]
async fn strangers_have_fewer_places_and_no_lasting_ones() {
    let limits =
        Limits { connections: 3, strangers: 2, stranger_age: Duration::from_millis(1500), ..Limits::default() };
    let (s, store, fleet) = open(limits);
    let member = |id: &str| {
        let own = tls::client_config(Some(fleet.identity(id)), Arc::clone(&store), anybody(), &[b"h2"]).unwrap();
        let address = s.addr.to_string();
        async move {
            let mut channel = connect(&address, own).await.unwrap();
            call(&mut channel, "/who").await.unwrap();
            channel
        }
    };
    let mut honest = member(AGENT).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut stranger = Raw::connect(&s, &store, &[]).await;
        stranger.send(&request(1, "/who", &[])).await;
        stranger.until(DATA).await;
        strangers.push(stranger);
    }
    // A handshake needs a place, too, and then leaves it to strangers again.
    assert_eq!(strangers[0].count(DATA).await, 0, "the oldest is closed");
    assert_eq!((s.displaced("stranger"), s.displaced("member")), (1, 0));
    let flood = "spiffe://mesh.example/cluster/flood/agent/0";
    let mut flooding = Vec::new();
    for _ in 0..3 {
        flooding.push(member(flood).await);
    }
    call(&mut honest, "/who").await.unwrap();
    assert_eq!(s.displaced("member"), 1, "one of the flood; whoever had been displaced would have displaced another");
    for stranger in &mut strangers {
        stranger.count(DATA).await;
    }
    assert_eq!(s.displaced("stranger") + s.cut("age"), 3);
    call(&mut honest, "/who").await.unwrap();
    drop((honest, flooding));
    s.stop().await;
}

/// Mutation seen to fail: `set_tcp_user_timeout` left out of `set_options`.
#[tokio::test]
async fn a_dead_peer_is_given_up_by_the_kernel() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    set_options(&stream);
    let timeout = socket2::SockRef::from(&stream).tcp_user_timeout().unwrap();
    assert_eq!(timeout, Some(TCP_USER_TIMEOUT));
}
