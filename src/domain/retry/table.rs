//! The one table of ends: how a run, or a placement before its run, can come to its end, whose doing that is, and what
//! follows. [`super::decide`] and the roll-back of a gang read it, and `wharf doctor --exits` prints it.
//!
//! Sources: OpenPAI v0.14's job-exit-spec.yaml and v0.8's codes for user containers. OpenPAI knew an end by its status
//! alone; here the shim saw who sent a signal, the control group counted what the kernel killed for memory, and the
//! agent knows what it stopped. So four rows differ, and each says so in [`Row::instead`].

use crate::domain::exit::{Exit, ExitClass};

/// What an end asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaction {
    Succeeded,
    /// Worth a counted retry: the failure may or may not come again.
    Unknown,
    /// Not the job's doing: retried without counting.
    Transient,
    /// Will come again: never retried, except with `retryCount` -2.
    NonTransient,
    /// Somebody wanted the end: never retried.
    Final,
    /// The run goes on: its gang is placed again, which is no retry.
    PlaceAgain,
}

impl Reaction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Unknown => "unknown",
            Self::Transient => "transient",
            Self::NonTransient => "non_transient",
            Self::Final => "final",
            Self::PlaceAgain => "place_again",
        }
    }
}

/// What a retry is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Held against `retryCount`.
    User,
    /// The job itself said that it is worth another try.
    Asked,
    Platform,
    /// At most [`super::Allowance::hardware_restarts`].
    Hardware,
}

impl Counter {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Asked => "asked",
            Self::Platform => "platform",
            Self::Hardware => "hardware",
        }
    }
}

/// How long until the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackOff {
    /// There is no next try, or none that waits.
    None,
    /// At once, 16 times in a row; then as `Short`.
    AtOnce,
    /// 1 s, doubling up to a minute: nobody's work is lost.
    Short,
    /// 1 s, doubling up to five minutes: a job that fails at once does not keep a node busy with failing.
    Growing,
    /// As `Short` twice in a row; then a random time of 10 minutes to at most an hour.
    Conflict,
}

impl BackOff {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AtOnce => "at once",
            Self::Short => "1 s to 1 min",
            Self::Growing => "1 s to 5 min",
            Self::Conflict => "1 s, 2 s, then 10 min to 1 h",
        }
    }
}

/// Why a gang is given back before its launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setback {
    /// Ports that were chosen for it turned out to be somebody else's.
    Ports,
    /// Not all of its tasks were at their barriers in time.
    Late,
    /// A node cannot do its part now.
    Refused,
    /// A node was not heard any more.
    Silent,
}

/// How an end is known. The first row that fits is taken, so each may rely on those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Class(ExitClass),
    /// Of this class, with processes killed for memory.
    Oom(ExitClass),
    /// Of this class, with promised ports that others had.
    Ports(ExitClass),
    /// Of this class, with an exit status or a signal: something ran.
    Ran(ExitClass),
    /// Of this class, with neither.
    NeverRan(ExitClass),
    /// The user's, with this exit status.
    Code(i32),
    /// The user's, by one of these signals, or with 128 more as the exit status: so a shell tells of its child's end.
    Signals(&'static [i32]),
    Before(Setback),
}

impl When {
    pub fn fits(self, exit: &Exit) -> bool {
        let status = exit.code.is_some() || exit.signal.is_some();
        let user = exit.class == ExitClass::User;
        match self {
            Self::Class(class) => exit.class == class,
            Self::Oom(class) => exit.class == class && exit.oom,
            Self::Ports(class) => exit.class == class && !exit.busy_ports.is_empty(),
            Self::Ran(class) => exit.class == class && status,
            Self::NeverRan(class) => exit.class == class && !status,
            Self::Code(code) => user && exit.code == Some(code),
            Self::Signals(signals) => user && signal_of(exit).is_some_and(|signal| signals.contains(&signal)),
            Self::Before(_) => false,
        }
    }
}

/// The signal that ended the command or, as a shell tells it, its child.
fn signal_of(exit: &Exit) -> Option<i32> {
    exit.signal.or_else(|| exit.code.filter(|code| (129..=192).contains(code)).map(|code| code - 128))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub id: &'static str,
    pub when: When,
    pub reaction: Reaction,
    pub counter: Counter,
    pub back_off: BackOff,
    /// The condition in words.
    pub known_by: &'static str,
    pub means: &'static str,
    /// What OpenPAI did, where that is something else, and why this is better.
    pub instead: Option<&'static str>,
}

const fn row(
    id: &'static str,
    when: When,
    (reaction, counter, back_off): (Reaction, Counter, BackOff),
    known_by: &'static str,
    means: &'static str,
) -> Row {
    Row { id, when, reaction, counter, back_off, known_by, means, instead: None }
}

const fn unlike(row: Row, instead: &'static str) -> Row {
    Row { instead: Some(instead), ..row }
}

type Follows = (Reaction, Counter, BackOff);

const SUCCEEDED: Follows = (Reaction::Succeeded, Counter::User, BackOff::Growing);
const UNKNOWN: Follows = (Reaction::Unknown, Counter::User, BackOff::Growing);
const PLATFORM: Follows = (Reaction::Transient, Counter::Platform, BackOff::Growing);
const NON_TRANSIENT: Follows = (Reaction::NonTransient, Counter::User, BackOff::Growing);
const FINAL: Follows = (Reaction::Final, Counter::User, BackOff::None);
const AGAIN: Follows = (Reaction::PlaceAgain, Counter::Platform, BackOff::Short);

/// In the order in which they are looked at; the last row of the user's class takes what no other has taken.
pub const TABLE: [Row; 22] = [
    row("success", When::Class(ExitClass::Success), SUCCEEDED, "class success", "the job did what it was to do"),
    row(
        "stopped",
        When::Class(ExitClass::Stopped),
        FINAL,
        "class stopped",
        "somebody stopped it, or the run was decided by another task",
    ),
    row("preempted", When::Class(ExitClass::Preempted), PLATFORM, "class preempted", "made room for other jobs"),
    row(
        "hardware",
        When::Class(ExitClass::Hardware),
        (Reaction::Transient, Counter::Hardware, BackOff::Growing),
        "class hardware",
        "a hardware fault ended it; run again, elsewhere, as often as the controller's hardware_restarts says: 5 times",
    ),
    row("time_limit", When::Class(ExitClass::TimeLimit), NON_TRANSIENT, "class time_limit", "its time was over"),
    row(
        "watchdog",
        When::Class(ExitClass::Watchdog),
        NON_TRANSIENT,
        "class watchdog",
        "it gave no sign of life for longer than it had promised",
    ),
    row(
        "port_taken",
        When::Ports(ExitClass::Platform),
        (Reaction::Transient, Counter::Platform, BackOff::AtOnce),
        "class platform, with busy ports",
        "another process had a promised port between the launch and the command's use of it",
    ),
    row(
        "node_memory",
        When::Oom(ExitClass::Platform),
        PLATFORM,
        "class platform, oom",
        "the node had no memory left, and the task was within its own limit",
    ),
    row(
        "ended_from_outside",
        When::Ran(ExitClass::Platform),
        PLATFORM,
        "class platform, with a status",
        "a lease that ran out, or a signal that wharf did not send: of the container runtime, the service manager, a person",
    ),
    row(
        "platform",
        When::NeverRan(ExitClass::Platform),
        PLATFORM,
        "class platform, without a status",
        "the node was lost, the container runtime failed, or there is no record of the end",
    ),
    unlike(
        row(
            "oom",
            When::Oom(ExitClass::User),
            NON_TRANSIENT,
            "class user, oom",
            "it needed more memory than its memoryMB, and would again",
        ),
        "OpenPAI took every 137 and 143 for this; the kernel's own count tells it from other kills",
    ),
    row(
        "asked_again",
        When::Code(193),
        (Reaction::Transient, Counter::Asked, BackOff::Growing),
        "class user, status 193",
        "the job's word that another try is worth it",
    ),
    row(
        "asked_no_more",
        When::Code(194),
        NON_TRANSIENT,
        "class user, status 194",
        "the job's word that it would fail again",
    ),
    row(
        "own_signal",
        // ILL, BUS, FPE, SEGV, PIPE.
        When::Signals(&[4, 7, 8, 11, 13]),
        NON_TRANSIENT,
        "class user, ILL BUS FPE SEGV PIPE (132 135 136 139 141)",
        "the program broke in a way that comes again",
    ),
    row(
        "abort",
        When::Signals(&[6]),
        UNKNOWN,
        "class user, ABRT (134)",
        "the program gave up: a failed assertion, a broken heap, a collective that timed out",
    ),
    unlike(
        row(
            "killed",
            // INT, KILL, TERM.
            When::Signals(&[2, 9, 15]),
            UNKNOWN,
            "class user, INT KILL TERM (130 137 143)",
            "one of its own processes, or somebody beside wharf, killed it",
        ),
        "OpenPAI ran 130, 137 and 143 again without end; what wharf, the runtime or the kernel's memory killer ended \
         has rows of its own, so what is left here is counted",
    ),
    unlike(
        row(
            "never_ran",
            When::NeverRan(ExitClass::User),
            NON_TRANSIENT,
            "class user, without a status",
            "no such image, folder or program: the command could not be started at all",
        ),
        "OpenPAI pulled a missing image again as often as retryCount said, which is without end for -1",
    ),
    row("user", When::Class(ExitClass::User), UNKNOWN, "class user, any other status", "the command failed"),
    row(
        "ports_busy",
        When::Before(Setback::Ports),
        (Reaction::PlaceAgain, Counter::Platform, BackOff::AtOnce),
        "before launch: chosen ports were taken",
        "placed again with other ports; the node stays in",
    ),
    unlike(
        row(
            "gang_timeout",
            When::Before(Setback::Late),
            (Reaction::PlaceAgain, Counter::Platform, BackOff::Conflict),
            "before launch: not every task ready in 60 s",
            "placed again without the late nodes; who is late again and again makes room for others",
        ),
        "OpenPAI waited for 10 minutes or more after the first time, since a gang held its places while it waited for \
         the rest; here a waiting gang holds nothing",
    ),
    row(
        "refused",
        When::Before(Setback::Refused),
        AGAIN,
        "before launch: a node refused or failed",
        "a GPU in use, a fixed port taken, the container runtime away: placed again without that node",
    ),
    row(
        "node_silent",
        When::Before(Setback::Silent),
        AGAIN,
        "before launch: a node went silent",
        "placed again without that node",
    ),
];

/// The row of an end.
pub fn row_of(exit: &Exit) -> &'static Row {
    // Every class has a row of its own or a pair that leaves nothing out, which a test goes through.
    TABLE.iter().find(|row| row.when.fits(exit)).unwrap_or(&TABLE[TABLE.len() - 1])
}

/// The row of a gang that is given back.
pub fn row_before(setback: Setback) -> &'static Row {
    TABLE.iter().find(|row| row.when == When::Before(setback)).unwrap_or(&TABLE[TABLE.len() - 1])
}
