//! Edge. Captured connections of the application: the address that it dialled decides where they go.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::detect::{LINE_MAX, http1};
use super::first::{Seen, look, unread};
use super::original::destination;
use crate::forward::Core;
use crate::state::{Listener, ListenerKind};
use crate::{outbound, tcp};

/// Serves a captured connection to its end. A direct dial of the listener is closed: there is nowhere that it was meant to
/// go but here.
pub async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::CapturedOutbound { unknown } = &listener.kind else { return };
    let Some(meant) = destination(&stream) else {
        core.telemetry.denied("outbound", "not_captured");
        return;
    };
    let Some(service) = core.state.at(&meant).and_then(|cell| cell.get()) else {
        let pod = core.state.pods().find(&meant);
        return tcp::relay(core, stream, peer, pod.as_ref().unwrap_or(unknown), Some(meant)).await;
    };
    let mut stream = stream;
    let is_http = match &service.kind {
        ListenerKind::OutboundHttp { .. } => true,
        ListenerKind::OutboundAny { patience, .. } => {
            // Where the server speaks first nothing comes, and what cannot be told by then is bytes.
            let told = timeout(*patience, look(&stream, LINE_MAX, http1)).await;
            if told.is_err() {
                let Ok(whole) = unread(stream) else { return };
                stream = whole;
            }
            matches!(told, Ok(Seen::Told(true)))
        }
        ListenerKind::OutboundTcp { .. }
        | ListenerKind::CapturedOutbound { .. }
        | ListenerKind::CapturedInbound(_)
        | ListenerKind::InboundHttp { .. }
        | ListenerKind::InboundTcp { .. }
        | ListenerKind::Gateway { .. } => false,
    };
    if is_http {
        outbound::serve(core, stream, peer, service).await;
    } else {
        tcp::serve_outbound(core, stream, peer, service).await;
    }
}
