//! Streams of answers: from an implementation onto the wire, and off the wire into a bounded channel.

use super::channel::Wire;
use super::convert::Parsed;
use super::generated as pb;
use super::status;
use super::vigil::Vigil;
use crate::api::stream::{Answers, LogBatch};
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use prost::Message;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

/// Messages of a stream that wait in memory for their reader, besides what the transport holds.
const BUFFERED_MESSAGES: usize = 2;
/// Log records are sent in messages of about this size: small enough that several fit a slow reader's buffers.
const LOG_MESSAGE_BYTES: usize = 256 * 1024;

/// Answers of an implementation as messages. Pulls the next answer only when the transport wants one, so a slow
/// reader slows the source; dropping it (the caller went away) drops the receiver, which ends the work behind it.
pub(super) struct Replies<D, P> {
    answers: Answers<D>,
    pack: fn(D) -> Result<Vec<P>, Error>,
    packed: VecDeque<P>,
    budget: usize,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    vigil: Option<Vigil>,
    ended: bool,
}

impl<D, P> Replies<D, P> {
    pub(super) fn new(
        answers: Answers<D>,
        pack: fn(D) -> Result<Vec<P>, Error>,
        budget: usize,
        closing: &CancellationToken,
        vigil: Option<Vigil>,
    ) -> Self {
        let closing = Box::pin(closing.clone().cancelled_owned());
        Self { answers, pack, packed: VecDeque::new(), budget, closing, vigil, ended: false }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<P, Status>>> {
        self.ended = true;
        self.answers.close();
        Poll::Ready(Some(Err(status::to_status(error, self.budget))))
    }
}

impl<D, P: Unpin> Stream for Replies<D, P> {
    type Item = Result<P, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(message) = this.packed.pop_front() {
                return Poll::Ready(Some(Ok(message)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.closing.as_mut().poll(cx).is_ready() {
                return this.fail(Error::unavailable("the server is shutting down; the stream can be resumed"));
            }
            if let Some(vigil) = &mut this.vigil
                && vigil.over.as_mut().poll(cx).is_ready()
            {
                let message = "what the caller has shown proves nothing any more: it has expired or was revoked";
                return this.fail(Error::new(ErrorKind::NotAllowed, message));
            }
            match ready!(this.answers.poll_recv(cx)) {
                None => this.ended = true,
                Some(Err(error)) => return this.fail(error),
                Some(Ok(answer)) => match (this.pack)(answer) {
                    Ok(packed) => this.packed.extend(packed),
                    Err(error) => return this.fail(error),
                },
            }
        }
    }
}

impl<D, P> fmt::Debug for Replies<D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("packed", &self.packed.len()).field("ended", &self.ended).finish()
    }
}

/// One answer, one message.
pub(super) fn single<D, P: From<D> + Message>(answer: D) -> Result<Vec<P>, Error> {
    let message = P::from(answer);
    let bytes = message.encoded_len();
    if bytes > MAX_MESSAGE_BYTES {
        return Err(Error::internal(format!("one message of the stream has {bytes} bytes, more than fit")));
    }
    Ok(vec![message])
}

/// A batch of log records as messages well below the limit.
pub(super) fn log_messages(batch: LogBatch) -> Result<Vec<pb::LogsReply>, Error> {
    let LogBatch { records, exit } = batch;
    let mut messages = vec![pb::LogsReply::default()];
    let mut filled_bytes = 0;
    for record in records {
        let record = pb::LogRecord::from(record);
        // The record, its key and its length.
        let bytes = record.encoded_len() + 8;
        if bytes + 1024 > MAX_MESSAGE_BYTES {
            let (sequence, limit) = (record.sequence, MAX_MESSAGE_BYTES);
            return Err(Error::internal(format!("log record {sequence} has {bytes} bytes; at most {limit} fit")));
        }
        if filled_bytes > 0 && filled_bytes + bytes > LOG_MESSAGE_BYTES {
            messages.push(pb::LogsReply::default());
            filled_bytes = 0;
        }
        filled_bytes += bytes;
        if let Some(message) = messages.last_mut() {
            message.records.push(record);
        }
    }
    if let Some(message) = messages.last_mut() {
        message.exit = exit.map(Into::into);
    }
    Ok(messages)
}

/// Forwards messages into a bounded channel. The task lives as long as the receiver: when that is dropped it ends,
/// which resets the stream, and the server stops the work. `held` is dropped with it.
pub(super) fn answers<P, D>(
    wire: &Wire,
    method: &'static str,
    mut messages: Streaming<P>,
    held: impl Send + 'static,
) -> Answers<D>
where
    P: Send + 'static,
    D: TryFrom<P, Error = Violation> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFERED_MESSAGES);
    let wire = wire.clone();
    tokio::spawn(async move {
        let _held = held;
        loop {
            let message = tokio::select! {
                biased;
                () = sender.closed() => return,
                message = messages.message() => message,
            };
            let answer = match message {
                Ok(None) => return,
                Ok(Some(message)) => {
                    let parsed: Parsed<D> = D::try_from(message);
                    parsed.map_err(|violation| wire.nonsense(method, &violation))
                }
                Err(status) => Err(wire.error(method, &status)),
            };
            let failed = answer.is_err();
            if sender.send(answer).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}
