//! One thing that one source saw, judged, and ready to be counted.

use super::verdict::Judgement;
use crate::domain::fault::{FaultKind, Subject};
use crate::domain::ids::{JobId, NodeName, TaskId};
use crate::domain::time::Timestamp;
use std::time::Duration;

/// Which source it was. Two sources that see one thing do not count it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    KernelLog,
    /// The driver's library: its events and what it answers.
    Driver,
    /// Everything else that looks at the machine.
    Host,
}

/// When it was seen, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenAt {
    pub time: Option<Timestamp>,
    /// Since the host was booted, in microseconds.
    pub boot_us: Option<u64>,
    /// Grows with everything that its source says: the only order of lines without a time.
    pub order: u64,
}

impl SeenAt {
    /// Whether `later` came within `window`, or, where no clock tells, within `lines`.
    pub fn is_shortly_before(&self, later: &Self, window: Duration, lines: u64) -> bool {
        // Processors print out of order, so what is a little earlier is near too. Much earlier is another time.
        if let (Some(earlier), Some(later)) = (self.boot_us, later.boot_us) {
            return u128::from(later.abs_diff(earlier)) <= window.as_micros();
        }
        if let (Some(earlier), Some(later)) = (self.time, later.time) {
            return later.since(earlier).max(earlier.since(later)) <= window;
        }
        later.order.abs_diff(self.order) <= lines
    }
}

/// How it hangs together with what was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Relation {
    /// By its kind and code: some are known to follow others.
    #[default]
    ByCode,
    /// The driver itself says that it follows from this Xid.
    CausedBy(u32),
    /// More about a fault that is open; nothing if there is none.
    FollowUp,
    /// More about a fault that is open; one of its own if there is none.
    FollowUpOrOwn,
}

/// A part of a chip that met an exception: the same one again and again, with several programs, is suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Engine {
    pub gpc: u32,
    pub tpc: u32,
}

/// One thing that one source saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub source: Source,
    pub kind: FaultKind,
    pub code: Option<u32>,
    pub node: Option<NodeName>,
    pub subject: Subject,
    pub pid: Option<u32>,
    pub process: Option<String>,
    /// Who had the part at that moment, where the caller knows.
    pub task: Option<TaskId>,
    pub job: Option<JobId>,
    pub judgement: Judgement,
    /// Judged so once it has come back often enough; none for what does not grow worse by that.
    pub if_repeated: Option<Judgement>,
    pub relation: Relation,
    pub seen: SeenAt,
    /// Word for word.
    pub evidence: String,
    /// Of memory that is bad: two addresses are two faults.
    pub address: Option<u64>,
    pub engine: Option<Engine>,
    /// How many it stands for.
    pub count: u64,
    /// What is over because of it.
    pub clears: Clears,
}

/// Faults of the same GPU that are over once something was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Clears {
    #[default]
    Nothing,
    /// Of these Xids.
    Codes(Vec<u32>),
    /// Everything that waited for a reset or reboot: the driver asks for none any more.
    Recovered,
    /// What condemned the same part for the same: it has turned out to be another part's doing.
    Misjudged,
}

impl Observation {
    /// With nothing but what every observation has.
    pub fn new(source: Source, kind: FaultKind, subject: Subject, judgement: Judgement, seen: SeenAt) -> Self {
        Self {
            source,
            kind,
            code: None,
            node: None,
            subject,
            pid: None,
            process: None,
            task: None,
            job: None,
            judgement,
            if_repeated: None,
            relation: Relation::ByCode,
            seen,
            evidence: String::new(),
            address: None,
            engine: None,
            count: 1,
            clears: Clears::Nothing,
        }
    }
}
