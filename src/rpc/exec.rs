//! Interactive commands over a stream in each direction.

use super::call::Call;
use super::channel::Wire;
use super::convert::{self, under};
use super::generated as pb;
use super::stream;
use crate::api::stream::{Answers, ExecInput, ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::TaskId;
use crate::domain::principal::Principal;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

/// Input and output travel in pieces of at most this size.
const PIECE_BYTES: usize = 256 * 1024;
/// How long a caller may take to say what to run.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Pieces of input that wait for the wire.
const BUFFERED_PIECES: usize = 8;

/// Who asks for which command; waits for the first message.
pub(super) async fn start(
    call: &Call<'_>,
    requests: &mut Streaming<pb::ExecRequest>,
) -> Result<(Principal, TaskId, ExecSpec), Error> {
    let first = tokio::time::timeout(START_DEADLINE, requests.message()).await;
    let first = first.map_err(|_| {
        let seconds = START_DEADLINE.as_secs();
        Error::new(ErrorKind::DeadlineExceeded, format!("Exec: no first message with 'start' came in {seconds} s"))
    })?;
    let first = first.map_err(|status| Error::unavailable(format!("Exec: the request broke off: {status}")))?;
    let start = call.parsed(convert::required(first.and_then(|message| message.start), "start"))?;
    let claim = convert::inner(start.principal.clone(), "principal").map_err(under("start"));
    let claim: Principal = call.parsed(claim)?;
    let who = call.admit(claim, "start.principal").await?;
    let (task, spec) = call.parsed(convert::exec_spec(start).map_err(under("start")))?;
    Ok((who, task, spec))
}

/// The server's side of a running command. Dropping it (the caller went away) stops the pump of the input and drops
/// the output's receiver, which kills the command.
pub(super) struct Session {
    output: stream::Replies<ExecOutput, pb::ExecReply>,
    /// Owns the task that carries the input, apart from the output: a reader that pauses still may type.
    _input: JoinSet<()>,
}

impl Session {
    pub(super) fn new(
        output: stream::Replies<ExecOutput, pb::ExecReply>,
        input: mpsc::Sender<ExecInput>,
        requests: Streaming<pb::ExecRequest>,
    ) -> Self {
        let mut pumps = JoinSet::new();
        pumps.spawn(pump(requests, input));
        Self { output, _input: pumps }
    }
}

/// Carries input until the caller has no more to say, is gone, or the command has ended. One that does not read its
/// input holds up what follows it: the caller can always leave.
async fn pump(mut requests: Streaming<pb::ExecRequest>, input: mpsc::Sender<ExecInput>) {
    while let Ok(Some(message)) = requests.message().await {
        for piece in convert::exec_inputs(message) {
            if input.send(piece).await.is_err() {
                return;
            }
        }
    }
}

impl Stream for Session {
    type Item = Result<pb::ExecReply, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.get_mut().output).poll_next(cx)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("output", &self.output).finish_non_exhaustive()
    }
}

fn pieces(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    if bytes.len() <= PIECE_BYTES {
        return vec![bytes];
    }
    bytes.chunks(PIECE_BYTES).map(<[u8]>::to_vec).collect()
}

/// Output of a command as messages. An empty piece says nothing and is not sent.
pub(super) fn output_messages(output: ExecOutput) -> Result<Vec<pb::ExecReply>, Error> {
    let filled = |bytes: Vec<u8>| pieces(bytes).into_iter().filter(|piece| !piece.is_empty());
    Ok(match output {
        ExecOutput::Stdout(bytes) => {
            filled(bytes).map(|stdout| pb::ExecReply { stdout, ..Default::default() }).collect()
        }
        ExecOutput::Stderr(bytes) => {
            filled(bytes).map(|stderr| pb::ExecReply { stderr, ..Default::default() }).collect()
        }
        ExecOutput::Exited(code) => vec![pb::ExecReply { exit_code: Some(code), ..Default::default() }],
    })
}

/// Where the client's requests come from; dropping it ends them.
#[derive(Debug)]
pub(super) struct Input {
    input: mpsc::Sender<ExecInput>,
    session: DropGuard,
}

/// The client's requests: the start, every piece of input, and the end of the input at the latest when its sender is
/// dropped.
pub(super) struct Requests {
    waiting: VecDeque<pb::ExecRequest>,
    input: mpsc::Receiver<ExecInput>,
    stdin_closed: bool,
    /// The session is gone. As long as requests may follow, HTTP/2 keeps the stream open, and the command runs.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl Requests {
    pub(super) fn new(start: pb::ExecStart) -> (Input, Self) {
        let (sender, input) = mpsc::channel(BUFFERED_PIECES);
        let first = pb::ExecRequest { start: Some(start), ..Default::default() };
        let gone = CancellationToken::new();
        let waits = Box::pin(gone.clone().cancelled_owned());
        let waiting = VecDeque::from([first]);
        let requests = Self { waiting, input, stdin_closed: false, gone: waits, ended: false };
        (Input { input: sender, session: gone.drop_guard() }, requests)
    }
}

impl Stream for Requests {
    type Item = pb::ExecRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::ExecRequest>> {
        let this = self.get_mut();
        loop {
            if let Some(request) = this.waiting.pop_front() {
                return Poll::Ready(Some(request));
            }
            if this.ended || this.gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            match ready!(this.input.poll_recv(cx)) {
                Some(ExecInput::Stdin(bytes)) => {
                    let inputs = pieces(bytes).into_iter().map(ExecInput::Stdin);
                    this.waiting.extend(inputs.map(convert::exec_request));
                }
                Some(input) => {
                    this.stdin_closed |= input == ExecInput::Eof;
                    this.waiting.push_back(convert::exec_request(input));
                }
                None => {
                    this.ended = true;
                    if !this.stdin_closed {
                        this.waiting.push_back(convert::exec_request(ExecInput::Eof));
                    }
                }
            }
        }
    }
}

/// The client's side of a running command.
pub(super) fn session(wire: &Wire, input: Input, replies: Streaming<pb::ExecReply>) -> ExecSession {
    let Input { input, session } = input;
    let output: Answers<ExecOutput> = stream::answers(wire, "Exec", replies, session);
    ExecSession { input, output }
}
