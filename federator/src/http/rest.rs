//! Edge. What is left of a request's body when the answer is ready: it is read and thrown away. An HTTP/2 stream that
//! is closed on our side while its body still comes is reset, and a client that is busy sending may take that for the
//! loss of the answer (RFC 9113, 8.1, allows the reset, and curl fails on it).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use meshfed_runtime::tasks;
use tokio::sync::oneshot;

/// Most bytes that are thrown away: the largest body that is taken, twice. After it the stream or connection is ended.
const REST_MAX: usize = 2 << 20;
/// Time for it.
const REST_DEADLINE: Duration = Duration::from_secs(5);

/// The body of a request, whose rest comes back when nobody reads it any more.
pub(super) struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

/// Where the rest comes back.
pub(super) struct Rest(oneshot::Receiver<Incoming>);

/// Lends a body to a handler.
pub(super) fn lend(body: Incoming) -> (Lent, Rest) {
    let (back, rest) = oneshot::channel();
    (Lent { body: Some(body), back: Some(back) }, Rest(rest))
}

impl Rest {
    /// Throws away what has come back, beside the answer that is sent.
    pub(super) fn discard(mut self) {
        let Ok(body) = self.0.try_recv() else { return };
        // Ends by itself within the deadline.
        tasks::spawn("request-rest", async move {
            let _whatever_is_left = tokio::time::timeout(REST_DEADLINE, read(body)).await;
        });
    }
}

async fn read(mut body: Incoming) {
    let mut left = REST_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(body), Some(back)) = (self.body.take(), self.back.take()) else { return };
        if !body.is_end_stream() {
            let _nobody_waits = back.send(body);
        }
    }
}
