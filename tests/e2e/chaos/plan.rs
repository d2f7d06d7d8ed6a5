//! What happens when, decided by a seed alone.

use crate::harness::random::Random;
use std::time::Duration;

/// What a run is given.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    /// How long faults go on; healing and the audit come after.
    pub time: Duration,
    /// Two controllers on three members of etcd, instead of one on SQLite.
    pub etcd: bool,
    /// A node with containers, and its dockerd among the victims.
    pub docker: bool,
    /// A defect that daemons built for debugging are told to have.
    pub bug: Option<&'static str>,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    KillAgent,
    KillController,
    KillAll,
    KillShim,
    KillEtcd,
    KillDocker,
    FreezeAgent,
    FreezeController,
    FreezeEtcd,
    FreezeDocker,
    Cut,
    CutIncoming,
    CutOutgoing,
    CutAll,
    CutEtcd,
    FillLogs,
    FillState,
}

impl Settings {
    /// For the last jobs to end once nothing is broken any more. What a seeded bug has lost never does.
    pub fn ending(&self) -> Duration {
        Duration::from_secs(if self.bug.is_some() { 20 } else { 240 })
    }

    /// For what is cleared away after the last task has ended.
    pub fn clearing(&self) -> Duration {
        Duration::from_secs(if self.bug.is_some() { 2 } else { 60 })
    }
}

impl Kind {
    /// As the table has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillAgent => "agent killed",
            Self::KillController => "leading controller killed",
            Self::KillAll => "everything of wharf killed but shims",
            Self::KillShim => "shim killed",
            Self::KillEtcd => "etcd member killed",
            Self::KillDocker => "dockerd killed",
            Self::FreezeAgent => "agent frozen",
            Self::FreezeController => "leading controller frozen",
            Self::FreezeEtcd => "etcd member frozen",
            Self::FreezeDocker => "dockerd frozen",
            Self::Cut => "node cut off",
            Self::CutIncoming => "node cut off, incoming only",
            Self::CutOutgoing => "node cut off, outgoing only",
            Self::CutAll => "all nodes cut off",
            Self::CutEtcd => "leading controller cut off from etcd",
            Self::FillLogs => "disk of logs full",
            Self::FillState => "disk of state full",
        }
    }

    /// What a machine and a choice of parts allow.
    pub fn all(etcd: bool, docker: bool, root: bool) -> Vec<Self> {
        let mut kinds = vec![Self::KillAgent, Self::KillController, Self::KillAll, Self::KillShim];
        kinds.extend([Self::FreezeAgent, Self::FreezeController]);
        if etcd {
            kinds.extend([Self::KillEtcd, Self::FreezeEtcd]);
        }
        if etcd && root {
            kinds.push(Self::CutEtcd);
        }
        if docker {
            kinds.extend([Self::KillDocker, Self::FreezeDocker]);
        }
        if root {
            kinds.extend([Self::Cut, Self::CutIncoming, Self::CutOutgoing, Self::CutAll]);
            kinds.extend([Self::FillLogs, Self::FillState]);
        }
        kinds
    }
}

/// What jobs are brought to do right before a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    Anything,
    Starting,
    Stopping,
}

/// One fault of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub kind: Kind,
    /// Which of several it hits, modulo their number.
    pub victim: u64,
    pub aim: Aim,
    /// Between what the aim wants and the fault.
    pub delay: Duration,
    /// How long it lasts.
    pub hold: Duration,
    /// Before the next one.
    pub pause: Duration,
}

/// The faults of a seed, for ever: each kind equally often, in ever new orders.
#[derive(Debug)]
pub struct Plan {
    random: Random,
    kinds: Vec<Kind>,
    deck: Vec<Kind>,
}

impl Plan {
    pub fn new(seed: u64, kinds: Vec<Kind>) -> Self {
        Self { random: Random::new(seed), kinds, deck: Vec::new() }
    }

    fn kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            for i in (1..self.deck.len()).rev() {
                self.deck.swap(i, self.random.below(i as u64 + 1) as usize);
            }
        }
        self.deck.pop().expect("there is a kind")
    }

    pub fn next(&mut self) -> Step {
        let kind = self.kind();
        let aim = match self.random.below(5) {
            0 => Aim::Anything,
            1 | 2 => Aim::Starting,
            _ => Aim::Stopping,
        };
        let long = self.random.chance(25);
        let mut between = |low: u64, high: u64| Duration::from_millis(low + self.random.below(high - low));
        let hold = match kind {
            // Now and then longer than the lead's lease and than a node is given.
            Kind::FreezeController | Kind::Cut | Kind::CutIncoming | Kind::CutOutgoing | Kind::CutEtcd if long => {
                between(5_000, 12_000)
            }
            Kind::KillShim => Duration::ZERO,
            _ => between(50, 2_000),
        };
        let delay = if aim == Aim::Stopping { between(0, 400) } else { between(0, 80) };
        Step { kind, victim: self.random.next(), aim, delay, hold, pause: between_pause(&mut self.random) }
    }
}

fn between_pause(random: &mut Random) -> Duration {
    Duration::from_millis(100 + random.below(700))
}

#[test]
fn a_seed_always_gives_the_same_plan_and_every_kind_its_turn() {
    let kinds = Kind::all(true, true, true);
    let steps = |seed| {
        let mut plan = Plan::new(seed, kinds.clone());
        (0..kinds.len() * 3).map(|_| plan.next()).collect::<Vec<_>>()
    };
    assert_eq!(format!("{:?}", steps(1)), format!("{:?}", steps(1)));
    assert_ne!(format!("{:?}", steps(1)), format!("{:?}", steps(2)));
    for kind in &kinds {
        assert_eq!(steps(9).iter().filter(|step| step.kind == *kind).count(), 3, "{kind:?}");
    }
}
