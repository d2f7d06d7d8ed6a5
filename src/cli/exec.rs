//! `wharf exec`: a command beside a task, with this terminal.

use super::args::ExecArgs;
use super::context::Context;
use super::exit_code::EXEC_TRANSPORT;
use super::fail::{Failure, bad_usage, report};
use super::logs::select_one;
use super::signals::{Got, Received, interrupted};
use super::terminal::{RawTerminal, terminal_size};
use crate::api::stream::{Answers, ExecInput, ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::{Error, ErrorKind};
use base64::Engine;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a command is ended with that writes into a closed pipe: 128 + SIGPIPE.
const PIPE_CLOSED: u8 = 141;
/// Whoever ends us by a signal does not wait for ever until the command has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

pub async fn exec(context: &Context, args: ExecArgs) -> Result<u8, Failure> {
    if context.json && args.tty {
        return Err(bad_usage("--tty is for people and --json for programs: only one of them is allowed"));
    }
    if args.tty && !io::stdin().is_terminal() {
        return Err(bad_usage("--tty: standard input is no terminal; leave the flag out"));
    }
    let begin = async {
        let controller = context.controller()?;
        let job = controller.get_job(&context.who, &args.job, None).await;
        let task = select_one(&job.map_err(|error| unreached(context, error))?, &args.task)?;
        let tty = args.tty.then(terminal_size);
        let spec = ExecSpec { argv: args.command, tty, env: args.env, cwd: args.workdir };
        let session = controller.exec(&context.who, task, spec).await.map_err(|error| unreached(context, error))?;
        Ok::<_, Failure>((session, tty.is_some()))
    };
    let (session, tty) = tokio::select! {
        begun = begin => begun?,
        failure = interrupted() => return Err(failure),
    };
    converse(context, session, tty).await
}

/// Passes everything both ways until the command has ended; its code.
pub async fn converse(context: &Context, session: ExecSession, tty: bool) -> Result<u8, Failure> {
    let raw = tty.then(RawTerminal::enter).transpose()?;
    let result = run(context, session, tty).await;
    drop(raw);
    match result {
        Ok(Some(status)) => Ok(u8::try_from(status & 0xff).unwrap_or(EXEC_TRANSPORT)),
        Ok(None) => Err(transport(context, &Error::unavailable("the connection ended before the command did"))),
        Err(Failure::Error(error)) => Err(transport(context, &error)),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Silent(PIPE_CLOSED)),
        Err(failure) => Err(failure),
    }
}

/// Codes below 255 are the command's: that nobody was reached has a code of its own here.
pub fn unreached(context: &Context, error: Error) -> Failure {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => transport(context, &error),
        _ => Failure::Error(error),
    }
}

fn transport(context: &Context, error: &Error) -> Failure {
    report(error, context.json);
    Failure::Silent(EXEC_TRANSPORT)
}

/// Passes bytes both ways until the command has ended; its code, unless the stream ended without one. Returning drops
/// the session, which hangs the command up.
async fn run(context: &Context, session: ExecSession, tty: bool) -> Result<Option<i32>, Failure> {
    let ExecSession { input, output } = session;
    let (print, feed) = (print(output, context.json), feed(input.clone()));
    tokio::pin!(print, feed);
    let mut signals = Received::watch().map_err(Failure::Output)?;
    let mut resized = signal(SignalKind::window_change()).map_err(Failure::Output)?;
    let leaving = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(leaving);
    let (mut feeding, mut asked) = (true, None::<Got>);
    loop {
        tokio::select! {
            code = &mut print => return code,
            () = &mut feed, if feeding => feeding = false,
            Some(()) = resized.recv(), if tty => {
                let (rows, columns) = terminal_size();
                // A command that does not read its input learns of the next change.
                input.try_send(ExecInput::Resize(rows, columns)).ok();
            }
            received = signals.next() => {
                let passed = !tty && asked.is_none() && input.try_send(ExecInput::Signal(received.signal)).is_ok();
                if !passed {
                    return Err(Failure::Silent(received.code));
                }
                asked = Some(received);
                leaving.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
            }
            () = &mut leaving, if asked.as_ref().is_some_and(|received| received.ends_us) => {
                return Err(Failure::Silent(asked.map_or(EXEC_TRANSPORT, |received| received.code)));
            }
        }
    }
}

/// Prints what comes until the end; the command's code.
async fn print(mut output: Answers<ExecOutput>, json: bool) -> Result<Option<i32>, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut code = None;
    while let Some(piece) = output.recv().await {
        let piece = piece?;
        if json {
            write(&mut stdout, format!("{}\n", as_json(&piece)).as_bytes()).await?;
        }
        match &piece {
            ExecOutput::Exited(status) => code = Some(*status),
            _ if json => {}
            ExecOutput::Stdout(bytes) => write(&mut stdout, bytes).await?,
            ExecOutput::Stderr(bytes) => write(&mut stderr, bytes).await?,
        }
    }
    Ok(code)
}

/// Not by a blocking write: whoever does not read us must still be able to end us.
async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// One object for each piece of output, `stream` with `text` or `base64`, and `exit_code` in the last.
fn as_json(piece: &ExecOutput) -> serde_json::Value {
    let (stream, bytes) = match piece {
        ExecOutput::Stdout(bytes) => ("stdout", bytes),
        ExecOutput::Stderr(bytes) => ("stderr", bytes),
        ExecOutput::Exited(code) => return json!({ "exit_code": code }),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "stream": stream, "text": text }),
        Err(_) => json!({ "stream": stream, "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// Passes our input on until its end.
async fn feed(to: mpsc::Sender<ExecInput>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = stdin.read(&mut buffer).await {
        let piece = if count == 0 { ExecInput::Eof } else { ExecInput::Stdin(buffer[..count].to_vec()) };
        if to.send(piece).await.is_err() || count == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_objects_and_any_bytes_survive() {
        assert_eq!(as_json(&ExecOutput::Stdout(b"a\n".to_vec())), json!({ "stream": "stdout", "text": "a\n" }));
        assert_eq!(as_json(&ExecOutput::Stderr(vec![0xff])), json!({ "stream": "stderr", "base64": "/w==" }));
        assert_eq!(as_json(&ExecOutput::Exited(3)), json!({ "exit_code": 3 }));
    }

    #[test]
    fn only_an_unreached_peer_is_a_transport_failure() {
        let context = Context::for_tests();
        for (kind, transport) in [
            (ErrorKind::Unavailable, true),
            (ErrorKind::DeadlineExceeded, true),
            (ErrorKind::NotFound, false),
            (ErrorKind::Refused, false),
            (ErrorKind::NotAllowed, false),
        ] {
            let failure = unreached(&context, Error::new(kind, "x"));
            assert_eq!(matches!(failure, Failure::Silent(EXEC_TRANSPORT)), transport, "{kind:?}");
        }
    }
}
