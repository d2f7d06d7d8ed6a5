//! A registry behind a line that can stall. Plain threads: only a thread can live in another network namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// No limit on what may pass.
const OPEN: i64 = i64::MAX / 2;

/// What the proxy is told and tells.
#[derive(Debug)]
struct Line {
    upstream: u16,
    /// Bytes that may still pass from the registry.
    left: AtomicI64,
    /// Connections whose data waits for leave to pass.
    held: AtomicUsize,
    /// Held connections end.
    cut: AtomicBool,
    closing: AtomicBool,
}

#[derive(Debug)]
pub struct Proxy {
    line: Arc<Line>,
    /// Asks for a connection to the registry from within its namespace.
    probe: mpsc::Sender<mpsc::Sender<bool>>,
}

impl Proxy {
    /// Listens in the network namespace of a process.
    pub fn start(process: i32, port: u16, upstream: u16) -> Self {
        let line = Arc::new(Line {
            upstream,
            left: AtomicI64::new(OPEN),
            held: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let (probe, probes) = mpsc::channel::<mpsc::Sender<bool>>();
        let shared = line.clone();
        thread::spawn(move || {
            let namespace = File::open(format!("/proc/{process}/ns/net")).expect("the daemon lives");
            // Threads of this one start in the same namespace.
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter it");
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("nothing else is in there");
            thread::spawn(move || {
                for answer in probes {
                    answer.send(TcpStream::connect(("127.0.0.1", upstream)).is_ok()).ok();
                }
            });
            for client in listener.incoming().flatten() {
                if shared.closing.load(Ordering::SeqCst) {
                    return;
                }
                let line = shared.clone();
                thread::spawn(move || line.carry(client));
            }
        });
        Self { line, probe }
    }

    pub fn reaches_registry(&self) -> bool {
        let (answer, told) = mpsc::channel();
        self.probe.send(answer).expect("the proxy runs");
        told.recv().expect("the proxy answers")
    }

    /// Lets so many more bytes through from the registry, and then holds the line.
    pub fn stall_after(&self, bytes: i64) {
        self.line.left.store(bytes, Ordering::SeqCst);
    }

    /// Ends the connections that are held, and lets everything else through.
    pub fn cut(&self) {
        self.line.cut.store(true, Ordering::SeqCst);
        while self.held() > 0 {
            pause();
        }
        self.line.cut.store(false, Ordering::SeqCst);
        self.open();
    }

    pub fn open(&self) {
        self.line.left.store(OPEN, Ordering::SeqCst);
    }

    /// Connections whose data waits for leave to pass, and whose other end is still there.
    pub fn held(&self) -> usize {
        self.line.held.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.closing.store(true, Ordering::SeqCst);
        self.open();
    }
}

impl Line {
    fn carry(&self, client: TcpStream) {
        let Ok(registry) = TcpStream::connect(("127.0.0.1", self.upstream)) else { return };
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                copy(&client, &registry, |_| true);
                gone.store(true, Ordering::SeqCst);
            });
            copy(&registry, &client, |bytes| self.pass(bytes, &gone));
        });
    }

    /// Waits for leave; false when there is nobody to pass it to.
    fn pass(&self, bytes: usize, gone: &AtomicBool) -> bool {
        let bytes = i64::try_from(bytes).expect("a small buffer");
        if self.may_pass(bytes) {
            return true;
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        let mut passes = false;
        let over = || [gone, &self.cut, &self.closing].iter().any(|flag| flag.load(Ordering::SeqCst));
        while !passes && !over() {
            pause();
            passes = self.may_pass(bytes);
        }
        self.held.fetch_sub(1, Ordering::SeqCst);
        passes
    }

    fn may_pass(&self, bytes: i64) -> bool {
        let take = |left: i64| (left >= bytes).then(|| left - bytes);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }
}

/// Between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "these threads are nobody's executor")]
pub fn pause() {
    thread::sleep(Duration::from_millis(5));
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, mut pass: impl FnMut(usize) -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || !pass(read) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
