//! Edge. Captured DNS: names of the clusterset are answered here, all others by the resolver that was asked.

mod forward;
mod names;

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use meshfed_runtime::dns::{self, Limits, Over, Respond, Response, ask, reply};
use meshfed_runtime::drain::Watch;

use crate::state::StateHandle;
use forward::Forwarded;
use names::{Whose, whose};

/// The port of resolvers.
const RESOLVER_PORT: u16 = 53;

/// The sockets that stand for one resolver.
#[derive(Debug)]
pub struct Stand {
    /// UDP.
    pub udp: Vec<UdpSocket>,
    /// TCP.
    pub tcp: Vec<TcpListener>,
    /// The resolver; `None`: `resolv.conf` names none, and what is not ours is not answered.
    pub resolver: Option<IpAddr>,
}

struct Answers {
    state: Arc<StateHandle>,
    search: Arc<[String]>,
    resolver: Option<SocketAddr>,
}

impl Respond for Answers {
    type Later = Forwarded;
    fn respond(&self, question: &[u8], over: Over) -> Response<Self::Later> {
        // What cannot be read is passed on, too: the resolver says what is wrong with it.
        if let Ok(asked) = ask(question) {
            let zone = self.state.names();
            if let Some(found) = whose(&asked.name, asked.kind, &self.search, zone.as_deref()) {
                let Whose { apex, found } = found;
                return Response::Now(reply(&asked, over, Some((&apex, &found))));
            }
        }
        match self.resolver {
            Some(resolver) => Response::Later(forward::forward(question.to_vec(), resolver, over)),
            None => Response::Now(None),
        }
    }
}

/// Serves one resolver's sockets until the drain.
///
/// # Errors
/// A socket that cannot be used.
pub async fn serve(stand: Stand, state: Arc<StateHandle>, search: Arc<[String]>, drain: Watch) -> std::io::Result<()> {
    let resolver = stand.resolver.map(|ip| SocketAddr::new(ip, RESOLVER_PORT));
    let answers = Arc::new(Answers { state, search, resolver });
    dns::serve(stand.udp, stand.tcp, answers, Limits::default(), drain).await
}
