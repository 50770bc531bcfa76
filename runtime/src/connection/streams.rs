//! Edge. Streams whose peer takes nothing (SY5): it reads the socket and answers every PING, but never opens its
//! window. The transport asks a body for its next part only when there is room for one, so a body that gave a part and
//! is not asked for long waits for such a peer.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::clock;

/// The streams of one connection that wait for room, with the time since when.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

impl Streams {
    fn with<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Whether one has waited that long.
    pub(super) fn has_waited(&self, limit: Duration, now: Instant) -> bool {
        self.with(|waiting| waiting.since.values().any(|since| now.saturating_duration_since(*since) >= limit))
    }
    /// Watches the body of a response.
    pub fn watch(&self, body: Body) -> Body {
        let number = self.with(|waiting| {
            waiting.next += 1;
            waiting.next
        });
        Body::new(Watched { body, number, streams: self.clone() })
    }
}

/// A body that notes when it waits.
struct Watched {
    body: Body,
    number: u64,
    streams: Streams,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let gave = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        let (number, now) = (self.number, clock::instant());
        self.streams.with(|waiting| {
            // Being asked is what it waited for; what it gives now begins a new wait.
            if gave {
                waiting.since.insert(number, now);
            } else {
                waiting.since.remove(&number);
            }
        });
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.streams.with(|waiting| waiting.since.remove(&self.number));
    }
}
