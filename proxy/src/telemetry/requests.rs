//! Edge. `istio_requests_total`, `istio_request_duration_milliseconds`, `istio_request_bytes` and `istio_response_bytes`:
//! one cell per (parties, code, flag) and core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::{Flag, Labels, Parties, Party, Reporter};

/// Istio's bounds, in milliseconds, with finer ones below where a proxy's own share lies.
const BOUNDS: [f64; 18] = [
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    1_800_000.0,
];
/// The same in whole microseconds.
const BOUNDS_MICROSECONDS: [u64; 18] = whole(BOUNDS, 1_000.0);
/// Istio's bounds of sizes, in bytes: it sets none of its own, so they are those that Envoy has for every histogram.
const SIZE_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The same in whole bytes.
const SIZE_BOUNDS_BYTES: [u64; 19] = whole(SIZE_BOUNDS, 1.0);

/// Bounds in a finer unit and rounded down, for a comparison of whole numbers without floating point.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are small and not negative")]
#[expect(clippy::indexing_slicing, reason = "the index is below the length, and it is evaluated by the compiler")]
const fn whole<const N: usize>(bounds: [f64; N], units: f64) -> [u64; N] {
    let mut found = [0; N];
    let mut i = 0;
    while i < N {
        found[i] = (bounds[i] * units) as u64;
        i += 1;
    }
    found
}
/// Buckets of any of the histograms; the last one that is used counts what is above all bounds.
const BUCKETS_MAX: usize = SIZE_BOUNDS.len() + 1;
/// Most label sets in the process; more are counted under `unknown`. 500 peers with 20 codes each.
pub(super) const LABEL_SETS_MAX: usize = 10_000;

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Values counted by bucket, and their sum. Only one core writes, so plain loads and stores suffice.
#[derive(Debug, Default)]
struct Histogram {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MAX],
}

impl Histogram {
    fn record(&self, value: u64, bounds: &[u64]) {
        add(&self.sum, value);
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len());
        if let Some(counter) = self.buckets.get(bucket) {
            add(counter, 1);
        }
    }
}

/// What histograms of several cores add up to.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    sum: u64,
    buckets: [u64; BUCKETS_MAX],
}

impl Total {
    fn take(&mut self, histogram: &Histogram) {
        self.sum = self.sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
        for (sum, counter) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counters of one core for one label set.
#[derive(Debug, Default)]
pub struct RequestCell {
    microseconds: Histogram,
    received: Histogram,
    sent: Histogram,
}

impl RequestCell {
    /// Counts one request: how long it took, and the bytes of its body and of its answer's.
    pub fn record(&self, duration: Duration, received: u64, sent: u64) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.record(us, &BOUNDS_MICROSECONDS);
        self.received.record(received, &SIZE_BOUNDS_BYTES);
        self.sent.record(sent, &SIZE_BOUNDS_BYTES);
    }
}

type Key = (Arc<Parties>, u16, Flag);
/// The cells of one label set, each with the number of the core that writes it.
type CellsOfCores = Vec<(u32, Arc<RequestCell>)>;
/// What a label set adds up to.
#[derive(Debug)]
struct Totals {
    key: Key,
    microseconds: Total,
    received: Total,
    sent: Total,
}

/// All cells of all cores.
#[derive(Debug, Default)]
pub struct Requests {
    cells: Mutex<BTreeMap<Key, CellsOfCores>>,
}

impl Requests {
    /// The cell of one core.
    #[must_use]
    pub fn cell(&self, core: u32, parties: &Arc<Parties>, code: u16, flag: Flag) -> Arc<RequestCell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (Arc::clone(parties), code, flag);
        if cells.len() >= LABEL_SETS_MAX && !cells.contains_key(&key) {
            key.0 = Arc::new(Parties {
                source: Party::default(),
                destination: Party::default(),
                service: "".into(),
                ..Parties::clone(parties)
            });
        }
        let of_key = cells.entry(key).or_default();
        if let Some((_, cell)) = of_key.iter().find(|(owner, _)| *owner == core) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(RequestCell::default());
        of_key.push((core, Arc::clone(&cell)));
        cell
    }

    fn totals(&self) -> Vec<Totals> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |(key, cells): (&Key, &CellsOfCores)| {
            let (mut microseconds, mut received, mut sent) = (Total::default(), Total::default(), Total::default());
            for (_, cell) in cells {
                microseconds.take(&cell.microseconds);
                received.take(&cell.received);
                sent.take(&cell.sent);
            }
            Totals { key: key.clone(), microseconds, received, sent }
        };
        cells.iter().map(total).collect()
    }
}

/// The counters of one core for two parties, looked up once per connection and then kept.
#[derive(Debug)]
pub struct Series {
    /// Who speaks with whom.
    pub parties: Arc<Parties>,
    requests: Arc<Requests>,
    core: u32,
    cells: RefCell<Vec<(u16, Flag, Arc<RequestCell>)>>,
}

impl Series {
    /// For two parties, on core number `core`.
    #[must_use]
    pub fn new(parties: Arc<Parties>, requests: Arc<Requests>, core: u32) -> Self {
        Self { parties, requests, core, cells: RefCell::default() }
    }
    /// Counts one request, with the bytes of its body (`received`) and of its answer's (`sent`).
    pub fn record(&self, code: u16, flag: Flag, duration: Duration, received: u64, sent: u64) {
        let mut cells = self.cells.borrow_mut();
        if let Some((_, _, cell)) = cells.iter().find(|(c, f, _)| *c == code && *f == flag) {
            return cell.record(duration, received, sent);
        }
        let cell = self.requests.cell(self.core, &self.parties, code, flag);
        cell.record(duration, received, sent);
        cells.push((code, flag, cell));
    }
    /// Whether requests of this end are those of a client's proxy.
    #[must_use]
    pub fn is_source(&self) -> bool {
        self.parties.reporter == Reporter::Source
    }
}

/// Encodes [`Requests`] at a scrape.
#[derive(Debug)]
pub(super) struct Scrape(pub(super) Arc<Requests>);

/// One of the histograms: its name, what it is, its bounds, what its sums are divided by, and where it stands.
struct Family {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    per_unit: f64,
    read: fn(&Totals) -> &Total,
}

const FAMILIES: [Family; 3] = [
    Family {
        name: "istio_request_duration_milliseconds",
        help: "Duration of requests.",
        bounds: &BOUNDS,
        per_unit: 1_000.0,
        read: |t| &t.microseconds,
    },
    Family {
        name: "istio_request_bytes",
        help: "Bytes of the bodies of requests.",
        bounds: &SIZE_BOUNDS,
        per_unit: 1.0,
        read: |t| &t.received,
    },
    Family {
        name: "istio_response_bytes",
        help: "Bytes of the bodies of answers.",
        bounds: &SIZE_BOUNDS,
        per_unit: 1.0,
        read: |t| &t.sent,
    },
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let totals = self.0.totals();
        let mut requests = encoder.encode_descriptor("istio_requests", "Requests.", None, MetricType::Counter)?;
        for all in &totals {
            let count = all.microseconds.count();
            requests.encode_family(&all.labels())?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        for family in &FAMILIES {
            let mut histogram = encoder.encode_descriptor(family.name, family.help, None, MetricType::Histogram)?;
            for all in &totals {
                let total = (family.read)(all);
                let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
                let pairs: Vec<(f64, u64)> = bounds.zip(total.buckets).collect();
                #[expect(clippy::cast_precision_loss, reason = "a sum of durations or sizes")]
                let sum = total.sum as f64 / family.per_unit;
                histogram.encode_family(&all.labels())?.encode_histogram::<NoLabelSet>(
                    sum,
                    total.count(),
                    &pairs,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

impl Totals {
    fn labels(&self) -> Labels<'_> {
        let (parties, code, flag) = &self.key;
        Labels { parties, code: Some(*code), flag: *flag }
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::Security;
    use super::*;
    use meshfed_runtime::metrics::Metrics;

    /// Two cores count the same; a scrape adds them up.
    ///
    /// Mutations seen to fail: `value <= bound` with `<`; `received` and `sent` exchanged in `RequestCell::record`; the sums
    /// of one core alone.
    #[test]
    fn sizes_fall_into_istios_buckets() {
        let metrics = Metrics::new();
        let requests = Arc::new(Requests::default());
        metrics.registry.lock().unwrap().register_collector(Box::new(Scrape(Arc::clone(&requests))));
        let parties = Arc::new(Parties {
            reporter: Reporter::Source,
            source: Party::default(),
            destination: Party::default(),
            service: "b.shop.svc.cluster.local".into(),
            protocol: "http",
            security: Security::None,
        });
        for (core, received, sent) in [(0, 0, 10_000), (1, 1, 10_001), (0, 3_600_000, 4_000_000), (1, 3_600_001, 0)] {
            let series = Series::new(Arc::clone(&parties), Arc::clone(&requests), core);
            series.record(200, Flag::None, Duration::from_millis(1), received, sent);
        }
        let text = metrics.encode();
        let value = |name: &str, more: &str| {
            let lines = text.lines().filter(|l| l.starts_with(&format!("{name}{{")) && l.contains(more));
            lines.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        assert_eq!(value("istio_requests_total", "response_code=\"200\""), 4.0);
        for (name, at, expected) in [
            ("istio_request_bytes_bucket", "le=\"0.5\"", 1.0),
            ("istio_request_bytes_bucket", "le=\"1.0\"", 2.0),
            ("istio_request_bytes_bucket", "le=\"1800000.0\"", 2.0),
            ("istio_request_bytes_bucket", "le=\"3600000.0\"", 3.0),
            ("istio_request_bytes_bucket", "le=\"+Inf\"", 4.0),
            ("istio_response_bytes_bucket", "le=\"5000.0\"", 1.0),
            ("istio_response_bytes_bucket", "le=\"10000.0\"", 2.0),
            ("istio_response_bytes_bucket", "le=\"30000.0\"", 3.0),
            ("istio_response_bytes_bucket", "le=\"+Inf\"", 4.0),
            ("istio_request_bytes_sum", "reporter=\"source\"", 7_200_002.0),
            ("istio_request_bytes_count", "destination_service_name=\"b\"", 4.0),
            ("istio_response_bytes_sum", "response_flags=\"-\"", 4_020_001.0),
            ("istio_request_duration_milliseconds_sum", "", 4.0),
            ("istio_request_duration_milliseconds_bucket", "le=\"+Inf\"", 4.0),
        ] {
            assert_eq!(value(name, at), expected, "{name} {at}\n{text}");
        }
    }
}
