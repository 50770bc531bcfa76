use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;

const LONG: Duration = Duration::from_secs(20);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    tokio::time::timeout(LONG, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

/// A client, its connection as the proxy holds it, the proxy's to the server, and the server.
struct Ends {
    client: TcpStream,
    accepted: TcpStream,
    upstream: Stream,
    server: TcpStream,
}

impl Ends {
    async fn new() -> Self {
        let ((client, accepted), (upstream, server)) = (pair().await, pair().await);
        Self { client, accepted, upstream: Stream::Plain(upstream), server }
    }
}

/// Both kinds of client settle alike: on the wire its bytes are looked at, within TLS they are taken.
async fn settle(
    (accepted, mut upstream): (TcpStream, Stream),
    is_within: bool,
    talk: impl Future<Output = ()>,
) -> Settled {
    let settled = async {
        if is_within {
            until_certain(&mut Taken::new(accepted), &mut upstream, &mut Inbound::within()).await
        } else {
            until_certain(&mut Peek::new(&accepted, LINE_MAX), &mut upstream, &mut Inbound::outside(true)).await
        }
    };
    let both = Box::pin(async { tokio::join!(settled, talk) });
    let (settled, ()) = tokio::time::timeout(LONG, both).await.unwrap();
    settled.unwrap()
}

/// However it is cut up and however late it comes. The first byte is told to the server, since its client may have said all.
///
/// Mutations seen to fail: `server_spoke` begins as true; `came.len() > passed` is `false`.
#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_one() {
    for is_within in [false, true] {
        let Ends { mut client, accepted, upstream, mut server } = Ends::new().await;
        let talk = async {
            for byte in b"GET / HT" {
                client.write_all(&[*byte]).await.unwrap();
                assert_eq!(read(&mut server, 1).await, [*byte], "nothing is held back");
            }
            client.write_all(b"TP/1.1\r\nx-forwarded-client-cert: forged\r\n").await.unwrap();
        };
        let settled = settle((accepted, upstream), is_within, talk).await;
        assert_eq!(settled, Settled { begins: Some(Begins::Http), server_spoke: false, passed: 8 }, "{is_within}");
        let mut more = Vec::new();
        let _ended = tokio::time::timeout(LONG, server.read_to_end(&mut more)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&more), "", "the field never arrives");
    }
}

/// Mutations seen to fail: `client.say` left out; `if server_spoke && passed > 0` left out.
#[tokio::test]
async fn a_server_that_speaks_is_none_of_http() {
    for is_within in [false, true] {
        // It speaks first.
        let Ends { mut client, accepted, upstream, mut server } = Ends::new().await;
        let talk = async {
            server.write_all(b"220 ready\r\n").await.unwrap();
            assert_eq!(read(&mut client, 11).await, b"220 ready\r\n");
            client.write_all(b"E").await.unwrap();
            assert_eq!(read(&mut server, 1).await, b"E");
        };
        let settled = settle((accepted, upstream), is_within, talk).await;
        assert_eq!(settled, Settled { begins: Some(Begins::Plain), server_spoke: true, passed: 1 }, "{is_within}");
        // It answers a word that has no end.
        let Ends { mut client, accepted, upstream, mut server } = Ends::new().await;
        let talk = async {
            client.write_all(b"ruok").await.unwrap();
            assert_eq!(read(&mut server, 4).await, b"ruok");
            server.write_all(b"imok").await.unwrap();
            assert_eq!(read(&mut client, 4).await, b"imok");
        };
        let settled = settle((accepted, upstream), is_within, talk).await;
        assert_eq!(settled, Settled { begins: Some(Begins::Plain), server_spoke: true, passed: 4 }, "{is_within}");
    }
}

/// Mutation seen to fail: `if inbound.is_hello(came)` is `false`.
#[tokio::test]
async fn a_hello_is_told_to_nobody() {
    let Ends { mut client, accepted, upstream, mut server } = Ends::new().await;
    let talk = async {
        client.write_all(b"\x16\x03\x01").await.unwrap();
        server.write_all(b"220 ready\r\n").await.unwrap();
        assert_eq!(read(&mut client, 11).await, b"220 ready\r\n");
        client.shutdown().await.unwrap();
    };
    let settled = settle((accepted, upstream), false, talk).await;
    assert_eq!(settled, Settled { begins: None, server_spoke: true, passed: 0 });
    let mut told = Vec::new();
    let _ended = tokio::time::timeout(LONG, server.read_to_end(&mut told)).await.unwrap();
    assert!(told.is_empty(), "{told:?}");
}

/// Mutation seen to fail: `awaits_mesh` is true.
#[tokio::test]
async fn a_server_that_ends_is_let_end_and_hears_the_client_on_within_tls() {
    for (is_within, begins) in [(true, Some(Begins::Plain)), (false, None)] {
        let Ends { client, accepted, upstream, mut server } = Ends::new().await;
        let talk = async { server.shutdown().await.unwrap() };
        let settled = settle((accepted, upstream), is_within, talk).await;
        assert_eq!(settled, Settled { begins, server_spoke: true, passed: 0 }, "{is_within}");
        drop(client);
    }
}

/// What was taken is read again from where the server has it.
///
/// Mutations seen to fail: `left.is_empty()` answered `true`; `at` always 0.
#[tokio::test]
async fn what_was_taken_is_read_again() {
    let (mut client, accepted) = pair().await;
    client.write_all(b" and more").await.unwrap();
    client.shutdown().await.unwrap();
    let mut again = Again::new(Taken { stream: accepted, bytes: b"ruok".to_vec() }, 1);
    let mut whole = String::new();
    let _count = tokio::time::timeout(LONG, again.read_to_string(&mut whole)).await.unwrap().unwrap();
    assert_eq!(whole, "uok and more");
}
