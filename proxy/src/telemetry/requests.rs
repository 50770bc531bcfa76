//! Edge. `istio_requests_total` and `istio_request_duration_milliseconds`: one cell per (parties, code, flag) and core.

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
/// The same in microseconds, for a comparison without floating point.
const BOUNDS_MICROSECONDS: [u64; 18] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
];
/// Most label sets in the process; more are counted under `unknown`. 500 peers with 20 codes each.
pub(super) const LABEL_SETS_MAX: usize = 10_000;

/// Counters of one core for one label set. Only that core writes, so plain loads and stores suffice.
#[derive(Debug, Default)]
pub struct RequestCell {
    microseconds: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl RequestCell {
    /// Counts one request.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        add(&self.microseconds, us);
        let bucket = BOUNDS_MICROSECONDS.iter().position(|&bound| us <= bound).unwrap_or(BOUNDS.len());
        if let Some(counter) = self.buckets.get(bucket) {
            add(counter, 1);
        }
    }
}

type Key = (Arc<Parties>, u16, Flag);
/// The cells of one label set, each with the number of the core that writes it.
type CellsOfCores = Vec<(u32, Arc<RequestCell>)>;
/// What a label set adds up to: microseconds and buckets.
type Total = (Key, u64, [u64; BOUNDS.len() + 1]);

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

    fn totals(&self) -> Vec<Total> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells
            .iter()
            .map(|(key, cells)| {
                let (mut us, mut buckets) = (0u64, [0u64; BOUNDS.len() + 1]);
                for (_, cell) in cells {
                    us = us.wrapping_add(cell.microseconds.load(Ordering::Relaxed));
                    for (sum, counter) in buckets.iter_mut().zip(&cell.buckets) {
                        *sum += counter.load(Ordering::Relaxed);
                    }
                }
                (key.clone(), us, buckets)
            })
            .collect()
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
    /// Counts one request.
    pub fn record(&self, code: u16, flag: Flag, duration: Duration) {
        let mut cells = self.cells.borrow_mut();
        if let Some((_, _, cell)) = cells.iter().find(|(c, f, _)| *c == code && *f == flag) {
            return cell.record(duration);
        }
        let cell = self.requests.cell(self.core, &self.parties, code, flag);
        cell.record(duration);
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

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let totals = self.0.totals();
        let mut requests = encoder.encode_descriptor("istio_requests", "Requests.", None, MetricType::Counter)?;
        for ((parties, code, flag), _, buckets) in &totals {
            let labels = Labels { parties, code: Some(*code), flag: *flag };
            let count: u64 = buckets.iter().sum();
            requests.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        let mut durations = encoder.encode_descriptor(
            "istio_request_duration_milliseconds",
            "Duration of requests.",
            None,
            MetricType::Histogram,
        )?;
        for ((parties, code, flag), us, buckets) in &totals {
            let labels = Labels { parties, code: Some(*code), flag: *flag };
            let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
            let pairs: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
            #[expect(clippy::cast_precision_loss, reason = "a sum of durations")]
            let sum = *us as f64 / 1_000.0;
            durations.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                sum,
                buckets.iter().sum(),
                &pairs,
                None,
            )?;
        }
        Ok(())
    }
}
