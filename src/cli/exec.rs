//! `wharf exec`: a command beside a task, with this terminal.

use super::args::ExecArgs;
use super::context::Context;
use super::exit_code::EXEC_TRANSPORT;
use super::fail::{Failure, bad_usage, report};
use super::logs::select_one;
use super::output::write_all;
use super::signals::interrupted;
use super::terminal::{RawTerminal, terminal_size};
use crate::api::stream::{Answers, ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::{Error, ErrorKind};
use base64::Engine;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// What a command is ended with that writes into a closed pipe: 128 + SIGPIPE.
const PIPE_CLOSED: u8 = 141;

pub async fn exec(context: &Context, args: ExecArgs) -> Result<u8, Failure> {
    if context.json && args.tty {
        return Err(bad_usage("--tty is for people and --json for programs: only one of them is allowed"));
    }
    if args.tty && !io::stdin().is_terminal() {
        return Err(bad_usage("--tty: standard input is no terminal; leave the flag out"));
    }
    tokio::select! {
        code = begin_and_run(context, args) => code,
        // The session is dropped with the other branch, which ends the command.
        failure = interrupted() => Err(failure),
    }
}

async fn begin_and_run(context: &Context, args: ExecArgs) -> Result<u8, Failure> {
    let controller = context.controller()?;
    let job = controller.get_job(&context.who, &args.job, None).await.map_err(|error| unreached(context, error))?;
    let task = select_one(&job, &args.task)?;
    let tty = args.tty.then(terminal_size);
    let spec = ExecSpec { argv: args.command, tty };
    let session = controller.exec(&context.who, task, spec).await.map_err(|error| unreached(context, error))?;
    let raw = tty.map(|_| RawTerminal::enter()).transpose()?;
    let result = run(context, session).await;
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
fn unreached(context: &Context, error: Error) -> Failure {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => transport(context, &error),
        _ => Failure::Error(error),
    }
}

fn transport(context: &Context, error: &Error) -> Failure {
    report(error, context.json);
    Failure::Silent(EXEC_TRANSPORT)
}

/// Passes bytes both ways until the command has ended; its code, unless the stream ended without one.
async fn run(context: &Context, session: ExecSession) -> Result<Option<i32>, Failure> {
    let ExecSession { stdin, output } = session;
    let show = if context.json { show_json } else { show };
    let mut output: Answers<ExecOutput> = output;
    let print = async {
        let mut code = None;
        while let Some(piece) = output.recv().await {
            let piece = piece?;
            if let ExecOutput::Exited(status) = &piece {
                code = Some(*status);
            }
            show(&piece)?;
        }
        Ok(code)
    };
    tokio::pin!(print);
    tokio::select! {
        code = &mut print => return code,
        () = feed(stdin) => {}
    }
    print.await
}

fn show(piece: &ExecOutput) -> Result<(), Failure> {
    match piece {
        ExecOutput::Stdout(bytes) => {
            write_all(bytes)?;
        }
        ExecOutput::Stderr(bytes) => io::stderr().lock().write_all(bytes)?,
        ExecOutput::Exited(_) => {}
    }
    Ok(())
}

/// One object for each piece of output, `stream` with `text` or `base64`, and `exit_code` in the last.
fn show_json(piece: &ExecOutput) -> Result<(), Failure> {
    write_all(format!("{}\n", as_json(piece)).as_bytes())?;
    Ok(())
}

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
async fn feed(to: mpsc::Sender<Vec<u8>>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = stdin.read(&mut buffer).await {
        if count == 0 || to.send(buffer[..count].to_vec()).await.is_err() {
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
