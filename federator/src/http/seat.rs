//! Edge. The place of a connection: among strangers until one of its requests carries the administrator's token, then
//! among those that strangers cannot take (AP9).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use meshfed_runtime::grpc::ConnectionMetrics;
use meshfed_runtime::places::{Bounds, Place, Places, source};
use tokio_util::sync::CancellationToken;

/// Connections of nobody that is known: handshakes, joiners that plan, wrong tokens.
/// 1024 × (64 KiB HTTP + ~40 KiB TLS) ≈ 100 MiB at worst.
const STRANGERS: Bounds = Bounds { all: 1024, each: 512 };
/// Connections that have shown the administrator's token: operators, scripts and a dashboard.
const KNOWN: Bounds = Bounds { all: 1024, each: 1024 };

/// The places of one server.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    strangers: Places<IpAddr>,
    known: Places<IpAddr>,
    metrics: ConnectionMetrics,
}

impl Seats {
    pub(super) fn new(metrics: ConnectionMetrics) -> Self {
        Self { strangers: Places::new(STRANGERS), known: Places::new(KNOWN), metrics }
    }

    /// A place for a connection that has just been accepted.
    pub(super) fn take(&self, address: SocketAddr) -> Seat {
        let (holder, cut) = (source(address.ip()), CancellationToken::new());
        let (place, displaced) = self.strangers.take(holder, cut.clone());
        if displaced {
            self.metrics.displace("stranger");
        }
        let held = Arc::new(Mutex::new(Held { _place: place, is_known: false }));
        Seat { seats: self.clone(), holder, cut, held }
    }

    /// A stranger makes room: it may hold the descriptor that is missing. `false`: no stranger has a place.
    pub(super) fn make_room(&self) -> bool {
        let made = self.strangers.make_room();
        if made {
            self.metrics.displace("stranger");
        }
        made
    }
}

/// The place of one connection, an extension of its requests.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    seats: Seats,
    holder: IpAddr,
    cut: CancellationToken,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    /// Given up when it is replaced or dropped.
    _place: Place<IpAddr>,
    is_known: bool,
}

impl Seat {
    /// A request has shown the administrator's token: from now on no stranger can take this place.
    pub(super) fn known(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_known {
            return;
        }
        let (place, displaced) = self.seats.known.take(self.holder, self.cut.clone());
        if displaced {
            self.seats.metrics.displace("member");
        }
        *held = Held { _place: place, is_known: true };
    }

    /// Ends when another connection needs the place.
    pub(super) async fn lost(&self) {
        self.cut.cancelled().await;
    }
}
