//! Looks at the hardware again and again: what the devices say of themselves, what the kernel shows beside them, judged by
//! the checks and told to the actor. A source that does not answer is not looked at in that round, and stops no other.

use super::{Looked, Observed};
use crate::agent::gpus::bounded;
use crate::agent::message::{Inside, Reply};
use crate::domain::fault::{FaultKind, Subject};
use crate::domain::gpu::Gpu;
use crate::domain::host::DeviceUser;
use crate::domain::ids::GpuUuid;
use crate::gpu::GpuSource;
use crate::health::SeenAt;
use crate::health::checks::{Checks, Look, Modes, Worked};
use crate::host::Host;
use crate::telemetry::clock::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// For one look at what the kernel shows.
const HOST_LIMIT: Duration = Duration::from_secs(5);

/// How the hardware is looked at.
#[derive(Debug, Clone)]
pub struct Looking {
    /// From the beginning of a round to the next.
    pub period: Duration,
    pub modes: Modes,
    /// Without slices; none: whatever there is.
    pub expected_gpus: Option<u32>,
    /// Where the host's `/sys` is.
    pub root: PathBuf,
}

impl Default for Looking {
    fn default() -> Self {
        let period = Duration::from_secs(15);
        Self { period, modes: Modes::default(), expected_gpus: None, root: PathBuf::from("/") }
    }
}

/// What the actor knows of what is looked at.
#[derive(Debug, Default)]
pub struct LookedAt {
    pub known: Vec<Gpu>,
    pub busy: BTreeSet<GpuUuid>,
    pub utilization: BTreeMap<GpuUuid, u32>,
    /// Tasks that run with device nodes of their own.
    pub device_users: Vec<DeviceUser>,
    /// What an earlier process has seen to work, for the first round.
    pub worked: Worked,
    /// Parts of which an operator has said since the last round that such a fault is over.
    pub said_over: Vec<(FaultKind, Subject)>,
}

/// Runs until the actor is gone; dropped to cancel.
#[derive(Debug)]
pub struct Rounds {
    source: Arc<dyn GpuSource>,
    host: Host,
    looking: Looking,
    checks: Checks,
    has_looked: bool,
    clock: Arc<dyn Clock>,
    inside: mpsc::Sender<Inside>,
    /// Sources that did not answer the last time, and why.
    silent: BTreeMap<&'static str, String>,
}

impl Rounds {
    pub fn new(
        source: Arc<dyn GpuSource>,
        looking: Looking,
        clock: Arc<dyn Clock>,
        inside: mpsc::Sender<Inside>,
    ) -> Self {
        let checks = Checks::new(looking.modes.clone());
        let host = Host::new(looking.root.clone(), HOST_LIMIT);
        Self { source, host, looking, checks, has_looked: false, clock, inside, silent: BTreeMap::new() }
    }

    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.looking.period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.round().await.is_none() {
                return;
            }
        }
    }

    /// `None`: the actor is gone.
    async fn round(&mut self) -> Option<()> {
        let at = self.ask(|reply| Inside::LookedAt { reply }).await?;
        if !std::mem::replace(&mut self.has_looked, true) {
            self.checks.take_up(&at.worked);
        }
        at.said_over.iter().for_each(|(kind, subject)| self.checks.forget(*kind, subject));
        // What is seen from here on may have happened at any time before.
        let boot_us = u64::try_from(self.clock.boottime().as_micros()).ok();
        let begun = self.clock.now();
        let seen = SeenAt { time: Some(begun), boot_us, order: 0 };
        let tells = self.source.tells_health();
        let device_users = at.device_users.iter().map(|user| user.task).collect();
        let (gpus, pci, infiniband, devices) = tokio::join!(
            optional(tells, bounded("their health", self.source.health())),
            optional(tells, self.host.nvidia_functions()),
            optional(true, self.host.infiniband()),
            // Also where there is none: that is when those of before are gone.
            optional(true, self.host.devices_seen_by(at.device_users)),
        );
        let (gpus, pci) = (self.heard("the GPUs", gpus), self.heard("the PCI bus", pci));
        let infiniband = self.heard("InfiniBand", infiniband);
        let devices = self.heard("the device nodes of tasks", devices);
        let mut found = self.checks.look(&Look {
            seen,
            gpus: gpus.as_deref(),
            driver: &self.source.driver(),
            expected_gpus: self.looking.expected_gpus.filter(|_| tells),
            known: &at.known,
            busy: &at.busy,
            utilization: &at.utilization,
            pci: pci.as_deref(),
            infiniband: infiniband.as_deref(),
            device_users: &device_users,
            devices: devices.as_deref(),
        });
        let observations = std::mem::take(&mut found.observations);
        let looked = Looked { begun, found, gpus: gpus.unwrap_or_default(), worked: self.checks.worked() };
        self.ask(|reply| Inside::Observed(Box::new(Observed { observations, looked: Some(looked), reply }))).await
    }

    async fn ask<T>(&self, word: impl FnOnce(Reply<T>) -> Inside) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inside.send(word(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Says it once where a source falls silent, and once where it answers again.
    fn heard<T, E: Display>(&mut self, what: &'static str, answer: Option<Result<T, E>>) -> Option<T> {
        match answer? {
            Ok(answer) => {
                if self.silent.remove(what).is_some() {
                    info!(what, "looked at again");
                }
                Some(answer)
            }
            Err(error) => {
                let why = error.to_string();
                if self.silent.get(what) != Some(&why) {
                    warn!(what, why, "not looked at");
                    self.silent.insert(what, why);
                }
                None
            }
        }
    }
}

async fn optional<T>(wanted: bool, look: impl Future<Output = T>) -> Option<T> {
    if wanted { Some(look.await) } else { None }
}
