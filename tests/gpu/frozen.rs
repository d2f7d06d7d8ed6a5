//! A worker that not even SIGKILL ends, as one that hangs in the kernel: the freezer of cgroup v1 makes such.

use crate::harness::skip;
use crate::mock::{Mock, devices, eventually};
use std::fs;
use std::path::PathBuf;
use wharf::domain::gpu::{DriverState, GpuHealth};
use wharf::gpu::GpuSource;
use wharf::gpu::nvml::NvmlGpus;

/// As in `gpu/nvml/abandoned.rs`.
const MOST: usize = 8;

/// A cgroup whose processes stand still; thawed and removed when dropped.
struct Freezer(PathBuf);

impl Freezer {
    fn new(name: &str) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/freezer/wharf-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let freezer = Self(path);
        fs::write(freezer.0.join("freezer.state"), "FROZEN").ok()?;
        Some(freezer)
    }

    fn freeze(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // The killed ones end first.
        while fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn frozen_workers_are_replaced_up_to_a_bound_and_reaped_when_they_end() {
    let Some(freezer) = Freezer::new("worker") else {
        return skip("workers that SIGKILL does not end", "it needs root and the freezer of cgroup v1");
    };
    let mock = Mock::new("2xTITANX.json");
    let mut options = mock.options();
    options.deadlines.sample = std::time::Duration::from_millis(600);
    let gpus = NvmlGpus::new(options).unwrap();
    devices(&gpus).await;
    let mut frozen = Vec::new();
    let refused = loop {
        let current = mock.workers().into_iter().find(|worker| !frozen.contains(worker)).expect("there is a worker");
        freezer.freeze(current);
        frozen.push(current);
        match gpus.samples().await {
            Ok(samples) => {
                assert!(samples.iter().all(|(_, sample)| sample.health == GpuHealth::Ok), "{samples:?}");
                assert!(frozen.len() < MOST, "a bound");
            }
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!((frozen.len(), gpus.driver().state), (MOST, DriverState::Hung), "{refused}");
    assert!(refused.contains("hang in the driver"), "{refused}");
    assert_eq!(mock.workers().len(), MOST, "and no more");
    freezer.thaw();
    eventually("an answer of a new worker", async || gpus.samples().await.ok()).await;
    eventually("the others are reaped", async || (mock.workers().len() == 1).then_some(())).await;
    assert_eq!(gpus.driver().state, DriverState::Ok);
}
