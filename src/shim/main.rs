//! `wharf-shim PATH...`: runs one task for the agent that listens at the Unix socket PATH, and outlives that agent.
//! Several paths are ways to the same socket, tried in turn.
//!
//! A static program of std alone: it runs in any image. It opens no path of its own but the socket, what the agent asks
//! it to check, and the programs of the command. With a word of [`ssh`] it is something else. The modules that the agent needs too are also in the library.

mod bell;
mod channel;
mod child;
mod conversation;
mod descendants;
mod ending;
mod forked;
mod hold;
mod output;
mod queue;
mod socket;
mod supervise;
mod sys;
mod task;
mod writer;

// Shared with the library; the other half of each is the agent's.
#[allow(dead_code)]
mod check;
mod crc;
#[allow(dead_code)]
mod exit;
mod frame;
#[allow(dead_code)]
mod protocol;
#[allow(dead_code)]
mod record;
#[allow(dead_code)]
mod spec;
mod ssh;
mod wire;

use std::os::unix::ffi::OsStringExt;

fn main() {
    let paths: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    if let Some(Ok(name)) = paths.first().map(|path| std::str::from_utf8(path)) {
        // Sockets are named by paths with a '/' or a '.', or by one letter.
        ssh::run(name, paths.get(1).and_then(|argument| std::str::from_utf8(argument).ok()));
    }
    if paths.is_empty() {
        eprintln!("usage: wharf-shim SOCKET... (started by a wharf agent)");
        std::process::exit(2);
    }
    // Whatever the starter left open is neither ours nor the task's.
    if !sys::close_from(3) {
        (3..4096).for_each(sys::close_raw);
    }
    sys::set_dumpable(false);
    sys::become_subreaper();
    // A starter that ignores it would take every exit status from us.
    sys::default_signal(sys::SIGCHLD);
    match sys::signal_descriptor(&supervise::SIGNALS) {
        Ok(signals) => std::process::exit(supervise::Supervisor::new(paths, signals).run()),
        Err(errno) => {
            eprintln!("wharf-shim: read signals: {}", sys::describe(errno));
            std::process::exit(125);
        }
    }
}
