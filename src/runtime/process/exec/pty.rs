//! A pseudoterminal for an interactive command.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::fchown;
use tokio::net::unix::pipe;

/// Both ends of a terminal.
pub(super) struct Terminal {
    pub(super) reader: pipe::Receiver,
    pub(super) writer: pipe::Sender,
    /// For its size.
    pub(super) control: OwnedFd,
    /// The end that the command sees.
    pub(super) user: File,
}

/// Tells the terminal, and so the processes in its foreground, that it has another size.
pub(super) fn resize(terminal: &OwnedFd, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads one winsize, which outlives it.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Opens a terminal of this many rows and columns, owned by the task's user as after a login.
pub(super) fn open((rows, columns): (u16, u16), uid: u32) -> io::Result<Terminal> {
    // Closed on exec from the first moment: other commands are started meanwhile.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes integers only.
    let ours = nix::errno::Errno::result(unsafe { libc::posix_openpt(flags) })?;
    // SAFETY: made just now; nobody else owns it.
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    // SAFETY: a terminal's own descriptor.
    nix::errno::Errno::result(unsafe { libc::unlockpt(ours.as_raw_fd()) })?;
    // SAFETY: the call takes one integer and answers a new descriptor.
    let theirs = nix::errno::Errno::result(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: made just now; nobody else owns it.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    resize(&ours, (rows, columns))?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR))?;
    if nix::unistd::Uid::effective().is_root() {
        fchown(&theirs, Some(uid), None)?;
    }
    let control = ours.try_clone()?;
    // Unchecked: a terminal is no pipe, but is read, written and waited for like one.
    let reader = pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?;
    let writer = pipe::Sender::from_owned_fd_unchecked(ours)?;
    Ok(Terminal { reader, writer, control, user: File::from(theirs) })
}
