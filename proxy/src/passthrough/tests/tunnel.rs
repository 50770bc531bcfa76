use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::passthrough::tunnel::{Ended, SweepLimits, Tunnels, run};
use crate::state::{Cell, SniRoute};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

struct Setup {
    tunnels: Rc<Tunnels>,
    route: Arc<SniRoute>,
    client: TcpStream,
    server: TcpStream,
    task: tokio::task::JoinHandle<Ended>,
}

async fn tunnel(limits: SweepLimits) -> Setup {
    let tunnels = Rc::new(Tunnels::new(limits));
    let route = Arc::new(SniRoute::new("b".into(), Arc::new(Cell::new("b"))));
    let ((client, near), (far, server)) = (pair().await, pair().await);
    let (t, r) = (Rc::clone(&tunnels), Arc::clone(&route));
    let task = meshfed_runtime::tasks::spawn_local("tunnel", async move {
        let scratch = RefCell::new(vec![0; 4096].into_boxed_slice());
        run(&t, &scratch, near, far, &r).await
    });
    Setup { tunnels, route, client, server, task }
}

async fn echo(setup: &mut Setup) {
    let mut got = [0; 2];
    setup.client.write_all(b"hi").await.unwrap();
    setup.server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hi");
}

/// Mutation seen to fail: `watched.withdrawn_since.set(Some(now))` left out.
#[tokio::test]
async fn a_withdrawn_name_ends_its_tunnels_in_time() {
    LocalSet::new()
        .run_until(async {
            let mut s = tunnel(SweepLimits { idle: 1000, half_closed_idle: 1000, withdrawn: 3 }).await;
            echo(&mut s).await;
            s.tunnels.sweep();
            s.route.withdraw();
            for _ in 0..3 {
                s.tunnels.sweep();
                echo(&mut s).await;
            }
            s.tunnels.sweep();
            let ended = tokio::time::timeout(std::time::Duration::from_secs(5), s.task).await.unwrap();
            assert_eq!(ended.unwrap().why, "withdrawn");
        })
        .await;
}

/// Mutation seen to fail: `watched.last.set(tunnels.tick.get())` left out.
#[tokio::test]
async fn only_idle_tunnels_end_by_the_idle_limit() {
    LocalSet::new()
        .run_until(async {
            let mut s = tunnel(SweepLimits { idle: 3, half_closed_idle: 3, withdrawn: 3 }).await;
            for _ in 0..6 {
                s.tunnels.sweep();
                echo(&mut s).await;
            }
            for _ in 0..3 {
                s.tunnels.sweep();
            }
            let ended = s.task.await.unwrap();
            assert_eq!((ended.why, ended.sent), ("idle", 12));
            assert_eq!(s.client.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        })
        .await;
}

/// Mutation seen to fail: the set_linger in `run` left out.
#[tokio::test]
async fn a_reset_becomes_a_reset() {
    LocalSet::new()
        .run_until(async {
            let mut s = tunnel(SweepLimits::default()).await;
            echo(&mut s).await;
            socket2::SockRef::from(&s.client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(s.client);
            assert_eq!(s.server.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(s.task.await.unwrap().why, "reset");
        })
        .await;
}

/// Mutation seen to fail: `poll_shutdown` of `to` replaced by nothing.
#[tokio::test]
async fn an_end_is_passed_on_and_the_other_way_goes_on() {
    LocalSet::new()
        .run_until(async {
            let mut s = tunnel(SweepLimits::default()).await;
            echo(&mut s).await;
            s.client.shutdown().await.unwrap();
            assert_eq!(s.server.read(&mut [0; 1]).await.unwrap(), 0);
            s.server.write_all(&[7; 100_000]).await.unwrap();
            drop(s.server);
            let mut got = Vec::new();
            s.client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 100_000);
            assert_eq!(s.task.await.unwrap().why, "end");
        })
        .await;
}
