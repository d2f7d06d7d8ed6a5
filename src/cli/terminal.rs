//! The caller's terminal, for `wharf exec --tty` and for secrets that are typed.

pub fn terminal_size() -> (u16, u16) {
    let mut size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid and exclusive for the call.
    let known = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    if known && size.ws_row > 0 { (size.ws_row, size.ws_col) } else { (24, 80) }
}

/// Our terminal without line editing, for as long as this lives.
pub struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    pub fn enter() -> std::io::Result<Self> {
        // SAFETY: termios is plain data for which zero is valid, and tcgetattr fills it before it is used.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is valid and exclusive for the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let mut raw = before;
        // SAFETY: cfmakeraw changes the struct it is given, nothing else.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: the pointer is valid for the call.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the pointer is valid for the call; a failure leaves the terminal raw, which we cannot change.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.before) };
    }
}

/// What `read` reads, while the terminal does not show what is typed.
pub fn unseen<T>(read: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    // SAFETY: termios is plain data for which zero is valid, and tcgetattr fills it before it is used.
    let mut before: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid and exclusive for the call.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
        return read();
    }
    let mut silent = before;
    silent.c_lflag &= !libc::ECHO;
    silent.c_lflag |= libc::ECHONL;
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const silent) };
    let _restored = RawTerminal { before };
    read()
}
