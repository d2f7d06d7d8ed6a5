//! Has the driver's own program make `/dev/nvidia-uvm`, which CUDA needs.
//!
//! After a boot it is not there until something loads the module for it; NVML does not need it, and a container that
//! is started before has none. Nothing waits for this: what fails is a line in the log.

use super::abandoned::Abandoned;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Loading a module takes about a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Once for each time that the driver was loaded.
#[derive(Debug, Default)]
pub(super) struct Modprobe {
    done: bool,
    running: Option<(Child, Instant)>,
}

impl Modprobe {
    /// The driver is open.
    pub(super) fn begin(&mut self, program: &Path, abandoned: &mut Abandoned) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        abandoned.add(self.running.take().map(|(child, _)| child));
        // The first minor of the module that unifies memory.
        let started = Command::new(program)
            .args(["-u", "-c", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => self.running = Some((child, Instant::now() + LIMIT)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                debug!(program = %program.display(), "it is not installed, so /dev/nvidia-uvm is left as it is");
            }
            Err(error) => warn!(program = %program.display(), %error, "making /dev/nvidia-uvm"),
        }
    }

    /// The driver is not loaded, or another one is coming.
    pub(super) fn again(&mut self) {
        self.done = false;
    }

    /// Sees whether it has ended; one that is late is killed and reaped with the others. Never waits.
    pub(super) fn look(&mut self, now: Instant, abandoned: &mut Abandoned) {
        let Some((mut child, end)) = self.running.take() else { return };
        match child.try_wait() {
            Ok(None) if now < end => self.running = Some((child, end)),
            Ok(None) => {
                warn!(limit_s = LIMIT.as_secs(), "making /dev/nvidia-uvm takes too long and is given up");
                let _ = child.kill();
                abandoned.add([child]);
            }
            Ok(Some(status)) if status.success() => info!("/dev/nvidia-uvm is there"),
            Ok(Some(status)) => warn!(%status, "making /dev/nvidia-uvm"),
            Err(error) => warn!(%error, "making /dev/nvidia-uvm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_late_is_given_up() {
        let (mut modprobe, mut abandoned) = (Modprobe::default(), Abandoned::default());
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let now = Instant::now();
        modprobe.running = Some((child, now + LIMIT));
        modprobe.look(now, &mut abandoned);
        assert!(modprobe.running.is_some() && abandoned.len() == 0);
        modprobe.look(now + LIMIT, &mut abandoned);
        assert!(modprobe.running.is_none() && abandoned.len() == 1);
        let end = now + Duration::from_secs(20);
        while abandoned.len() > 0 && Instant::now() < end {
            abandoned.reap();
            std::thread::yield_now();
        }
        assert_eq!(abandoned.len(), 0, "it was killed and is reaped");
    }
}
