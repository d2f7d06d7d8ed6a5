//! A thread with a table of descriptors of its own, for sockets that no child process may ever have.
//!
//! Close-on-exec is not enough for a promised port: between its fork and its exec, a child has everything that was open
//! in its parent, and a port is not free before the last of these copies is closed. The agent starts children at any
//! time, also in the very moment in which it gives a task its ports; the task would then find one of them in use.
//! `unshare(CLONE_FILES)` gives this thread a table that forks of other threads do not copy, and it never forks itself.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::close;
use std::os::fd::RawFd;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use tracing::warn;

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on the thread and waits for its result. What it opens must be closed by later work of the same kind:
/// the numbers mean something else, or nothing, in every other thread.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    static THREAD: LazyLock<Option<Sender<Work>>> = LazyLock::new(start);
    let (answer, answered) = channel();
    let work: Work = Box::new(move || drop(answer.send(work())));
    match &*THREAD {
        Some(thread) => drop(thread.send(work)),
        None => work(),
    }
    // The thread lives as long as the process; only a panic of the work itself leaves nothing to receive.
    answered.recv().unwrap_or_else(|_| panic!("the work for the thread of the ports panicked"))
}

/// `None` if there is no such thread to be had; everything is then open in the process as a whole.
fn start() -> Option<Sender<Work>> {
    let (work, received) = channel::<Work>();
    let body = move || {
        if let Err(errno) = leave_table() {
            warn!(%errno, "promised ports may be found in use for an instant: the thread that keeps them has no table of its own");
        }
        for work in received {
            // The caller is told by the silence; those after it must be served all the same.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        }
    };
    match std::thread::Builder::new().name("ports".to_owned()).spawn(body) {
        Ok(_) => Some(work),
        Err(error) => {
            warn!(%error, "no thread to keep promised ports");
            None
        }
    }
}

/// The copies of what the process has open are closed, but for standard input, output and error: a pipe's or a socket's
/// other end must see it closed when the process closes it.
fn leave_table() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_FILES)?;
    let listed = std::fs::read_dir("/proc/thread-self/fd").map_err(|_| Errno::ENOSYS)?;
    let open: Vec<RawFd> = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // Among them is the folder's own, which is closed by now.
        let _ = close(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_open_there_is_not_open_here_and_the_other_way_round() {
        let here = std::fs::File::open("/proc/self/exe").unwrap();
        let fd = here.as_raw_fd();
        let listed = || {
            let mut open: Vec<String> = std::fs::read_dir("/proc/thread-self/fd")
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            open.sort();
            open
        };
        let there = run(listed);
        assert!(listed().contains(&fd.to_string()));
        // Number 3 is the listing's own.
        assert!(there.len() <= 4, "{there:?}");
    }

    #[test]
    fn a_panic_of_one_work_does_not_end_the_next() {
        assert!(std::panic::catch_unwind(|| run(|| panic!("on purpose"))).is_err());
        assert_eq!(run(|| 7), 7);
    }
}
