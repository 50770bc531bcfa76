//! Edge. `istio_tcp_*`: one cell per (parties, flag), shared by all cores; touched a few times per connection.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::{Flag, Labels, Parties, Party};
use super::requests::LABEL_SETS_MAX;

/// Counters of raw TCP connections between two parties.
#[derive(Debug, Default)]
pub struct TcpCell {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl TcpCell {
    /// A connection began.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }
    /// A connection ended.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
    /// Bytes that went to the client (`sent`) and came from it (`received`), as Istio counts.
    pub fn bytes(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }
}

type Cells = BTreeMap<(Arc<Parties>, Flag), Arc<TcpCell>>;

/// All cells.
#[derive(Debug, Default)]
pub struct TcpSeries {
    cells: Mutex<Cells>,
}

impl TcpSeries {
    /// The cell of two parties.
    #[must_use]
    pub fn cell(&self, parties: &Arc<Parties>, flag: Flag) -> Arc<TcpCell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (Arc::clone(parties), flag);
        if cells.len() >= LABEL_SETS_MAX && !cells.contains_key(&key) {
            key.0 = Arc::new(Parties {
                source: Party::default(),
                destination: Party::default(),
                service: "".into(),
                ..Parties::clone(parties)
            });
        }
        Arc::clone(cells.entry(key).or_default())
    }
}

/// Encodes [`TcpSeries`] at a scrape.
#[derive(Debug)]
pub(super) struct Scrape(pub(super) Arc<TcpSeries>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let cells = self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).clone();
        type Read = fn(&TcpCell) -> &AtomicU64;
        let families: [(&str, &str, Read); 4] = [
            ("istio_tcp_connections_opened", "Raw TCP connections begun.", |c| &c.opened),
            ("istio_tcp_connections_closed", "Raw TCP connections ended.", |c| &c.closed),
            ("istio_tcp_sent_bytes", "Bytes sent to clients of raw TCP connections.", |c| &c.sent),
            ("istio_tcp_received_bytes", "Bytes received from clients of raw TCP connections.", |c| &c.received),
        ];
        for (name, help, read) in families {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for ((parties, flag), cell) in &cells {
                let labels = Labels { parties, code: None, flag: *flag };
                let value = read(cell).load(Ordering::Relaxed);
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
        }
        Ok(())
    }
}
