//! Edge. Answers from the latest zone.

use std::future::Ready;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use meshfed_model::sni::CLUSTERSET_DOMAIN;
use meshfed_runtime::dns::{self, Found, Limits, Over, Respond, Response, Zone, ask, reply};
use meshfed_runtime::drain::Watch;
use tokio::sync::watch;

struct Answers {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    empty: Zone,
}

impl Respond for Answers {
    type Later = Ready<Option<Vec<u8>>>;
    fn respond(&self, question: &[u8], over: Over) -> Response<Self::Later> {
        let asked = match ask(question) {
            Ok(asked) => asked,
            Err(refusal) => return Response::Now(refusal),
        };
        let latest = self.zone.borrow();
        // Before there is a zone nothing is known of any name in it.
        let zone = latest.as_deref().unwrap_or(&self.empty);
        let found: Option<Found> = zone.holds(&asked.name).then(|| match latest.is_some() {
            true => zone.find(&asked.name, asked.kind),
            false => Found::Unknown,
        });
        Response::Now(reply(&asked, over, found.as_ref().map(|found| (zone.apex(), found))))
    }
}

/// Serves the zone as it is at the time of each question, until the drain. Before the first one: SERVFAIL.
///
/// # Errors
/// A socket that cannot be used.
pub async fn serve(
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    zone: watch::Receiver<Option<Arc<Zone>>>,
    drain: Watch,
) -> std::io::Result<()> {
    // Never looked at while the answer is that nobody knows.
    let empty = Zone::new(CLUSTERSET_DOMAIN, false);
    dns::serve(udp, tcp, Arc::new(Answers { zone, empty }), Limits::default(), drain).await
}
