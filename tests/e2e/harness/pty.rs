//! A program on a terminal of ours, as a person has it.

use super::wait::{PATIENCE, pause, until};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub struct OnTerminal {
    child: Child,
    /// What the person looks at and types on.
    screen: File,
    /// Held, so that the terminal outlives the program.
    terminal: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

fn size((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl OnTerminal {
    pub fn start(mut command: Command, rows_and_columns: (u16, u16)) -> Self {
        let OpenptyResult { master, slave } = openpty(&size(rows_and_columns), None).expect("a terminal can be made");
        let terminal = File::from(slave);
        let end = || terminal.try_clone().expect("descriptors can be copied");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: two system calls between fork and exec; standard input is the terminal.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts");
        let (screen, seen) = (File::from(master), Arc::<Mutex<Vec<u8>>>::default());
        let (mut from, to) = (screen.try_clone().expect("descriptors can be copied"), seen.clone());
        // Ends with the terminal, or with the test.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, screen, terminal, seen }
    }

    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub fn resize(&self, rows_and_columns: (u16, u16)) {
        let size = size(rows_and_columns);
        // SAFETY: the call reads one winsize.
        let result = unsafe { nix::libc::ioctl(self.screen.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "the terminal takes a size");
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until a text has appeared.
    #[track_caller]
    pub fn wait(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen().contains(text) {
            assert!(Instant::now() < deadline, "'{text}' did not appear on:\n{}", self.seen());
            pause(std::time::Duration::from_millis(15));
        }
    }

    /// Keys are shown and wait for the end of their line, as before a program changed that.
    pub fn is_restored(&self) -> bool {
        let settings = tcgetattr(&self.terminal).expect("it is a terminal");
        settings.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.id()), signal).expect("it is ours");
    }

    /// Its exit code, 128 + N for signal N.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = until("the program on the terminal ends", || self.child.try_wait().expect("it is our child"));
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
