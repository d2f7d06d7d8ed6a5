//! What the shim and the agent say to each other over a SOCK_STREAM Unix socket. Pure: bytes in, frames out.
//!
//! A frame is a u32 length (of what follows, at most [`MAX_FRAME_BYTES`]), a kind byte and its fields. Descriptors
//! travel by SCM_RIGHTS in the same `sendmsg` as the first byte of the frame that they belong to; the receiver keeps
//! them in a queue and a frame takes [`AgentFrame::descriptor_count`] of them from its head.
//!
//! The conversation: the shim connects and says [`ShimFrame::Hello`], then repeats the one frame that belongs to its
//! phase (`Ready` at the barrier, `Started` when running, `Started` and `Held` when its failure is being looked at, `Ended`
//! at the end), after every reconnect. The agent answers
//! `NeedSpec` with `Spec`, a `Ready` that it accepts with `Go`, `Ended` with `Bye`. A repeated `Spec` or `Go` is
//! answered with `Ready` or `Started` again. Fields are only ever added at the end of a frame and missing ones
//! have a default; trailing bytes and unknown kinds are ignored, so that shims and agents of different versions work.

#[allow(unused_imports)]
pub use super::check::{Check, CheckKind};
use super::exit::ExitRecord;
#[allow(unused_imports)]
pub use super::frame::{Frame, FrameBuffer, MAX_FRAME_BYTES};
use super::wire::{DecodeError, Decoder, Encoder};

/// Raised when a side must know that the other understands something new. Shims are older than their agent, of any
/// version, or newer by one; what is newer by more an agent does not come to talk to: the record of its task is refused.
pub const PROTOCOL_VERSION: u16 = if cfg!(feature = "next-level") { 2 } else { 1 };
/// The kernel passes at most 253 in one message.
pub const MAX_DESCRIPTORS: usize = 250;
/// More would not fit a frame together with their messages.
pub const MAX_CHECKS: usize = 256;

/// Where the shim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    NeedSpec,
    /// Prepared, waits for `Go`.
    AtBarrier,
    /// The user's command runs, or its last output is being drained.
    Running {
        child_pid: u32,
        started_realtime_ns: u64,
        started_boottime_ns: u64,
    },
    /// The exit record is written; an `Ended` frame follows.
    Ended,
}

/// From the shim to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShimFrame {
    /// Always the first frame. `pid` is counted in the shim's process namespace: the host's is in SO_PEERCRED.
    Hello {
        version: u16,
        pid: u32,
        /// CLOCK_BOOTTIME when the shim started.
        started_boottime_ns: u64,
        phase: Phase,
    },
    Ready {
        checks: Vec<Check>,
    },
    /// The command runs. `program` is the path that was executed, `alternative` the index of its argv in
    /// [`super::spec::Command::alternatives`].
    Started {
        child_pid: u32,
        started_realtime_ns: u64,
        started_boottime_ns: u64,
        alternative: u32,
        program: String,
    },
    /// Nothing of the task runs any more, its output and `exit` are on disk (unless `exit.durable` is false).
    Ended {
        exit: ExitRecord,
    },
    /// Answers `Stop` and `Kill`.
    StopAck,
    /// The command has failed by itself, and everything is kept as it is. Follows `Started`, which is repeated too.
    Held {
        code: Option<i32>,
        signal: Option<i32>,
        /// CLOCK_REALTIME when it is over, as far as that clock was right when it began.
        until_realtime_ns: u64,
        /// CLOCK_BOOTTIME when it is over.
        until_boottime_ns: u64,
    },
}

/// What one descriptor of a `Spec` frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Readable from offset 0: an encoded [`super::spec::ShimSpec`]. Required, once.
    Spec,
    /// Readable and writable: log segments, in ring order. At least one.
    Segment,
    /// Writable: the exit record goes to offset 0. Required, once.
    Exit,
    /// The `/proc` directory of the shim's own process namespace.
    Proc,
    /// A `tasks` (v1) or `cgroup.procs`, writable: the command joins it before it runs. Any number.
    CgroupProcs,
    /// The `cgroup.kill` of a cgroup that holds the command and **not the shim**, writable.
    CgroupKill,
    /// `memory.oom_control` (v1) or `memory.events` (v2), readable.
    OomCount,
    /// Standard input of the command, usually `/dev/null`. Without it the command reads the end of a closed pipe.
    Stdin,
    /// The folder of a v2 cgroup: the command is born in it. Moving a process later waits for every processor, 10 ms
    /// and more.
    CgroupFolder,
}

impl Slot {
    const ALL: [Self; 9] = [
        Self::Spec,
        Self::Segment,
        Self::Exit,
        Self::Proc,
        Self::CgroupProcs,
        Self::CgroupKill,
        Self::OomCount,
        Self::Stdin,
        Self::CgroupFolder,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Spec => 1,
            Self::Segment => 2,
            Self::Exit => 3,
            Self::Proc => 4,
            Self::CgroupProcs => 5,
            Self::CgroupKill => 6,
            Self::OomCount => 7,
            Self::Stdin => 8,
            Self::CgroupFolder => 9,
        }
    }

    fn of_code(found: u8) -> Result<Self, DecodeError> {
        let known = Self::ALL.into_iter().find(|slot| slot.code() == found);
        known.ok_or(DecodeError::BadValue { what: "descriptor slot", found: found.into() })
    }
}

/// From the agent to the shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame {
    /// Comes with one descriptor per entry, in this order.
    Spec { descriptors: Vec<Slot> },
    /// Comes with one descriptor: a readable file that holds an encoded [`super::spec::Command`].
    Go,
    /// SIGTERM to the process group, SIGKILL to everything after the grace. A task at its barrier ends at once.
    /// A later, shorter grace shortens.
    Stop { grace_ms: u32 },
    /// A signal for the command's process group; not a stop.
    Signal { number: u8 },
    /// `Stop` without grace.
    Kill,
    /// Extends the lease to this CLOCK_BOOTTIME; never shortens it.
    Renew { until_boottime_ns: u64 },
    /// `Ended` has been taken note of: the shim may leave.
    Bye,
}

impl AgentFrame {
    /// How many descriptors travel with the frame.
    pub fn descriptor_count(&self) -> usize {
        match self {
            Self::Spec { descriptors } => descriptors.len(),
            Self::Go => 1,
            _ => 0,
        }
    }
}

impl Frame for ShimFrame {
    fn encode_body(&self, to: &mut Encoder) {
        match self {
            Self::Hello { version, pid, started_boottime_ns, phase } => {
                to.u8(1);
                to.u16(*version);
                to.u32(*pid);
                to.u64(*started_boottime_ns);
                encode_phase(*phase, to);
            }
            Self::Ready { checks } => {
                to.u8(2);
                to.count(checks.len());
                for check in checks {
                    to.u8(check.kind.code());
                    to.text(&check.subject);
                    to.i32(check.errno);
                    to.text(&check.message);
                }
            }
            Self::Started { child_pid, started_realtime_ns, started_boottime_ns, alternative, program } => {
                to.u8(3);
                to.u32(*child_pid);
                to.u64(*started_realtime_ns);
                to.u64(*started_boottime_ns);
                to.u32(*alternative);
                to.text(program);
            }
            Self::Ended { exit } => {
                to.u8(4);
                exit.encode_fields(to);
            }
            Self::StopAck => to.u8(5),
            Self::Held { code, signal, until_realtime_ns, until_boottime_ns } => {
                to.u8(6);
                to.optional(*code, Encoder::i32);
                to.optional(*signal, Encoder::i32);
                to.u64(*until_realtime_ns);
                to.u64(*until_boottime_ns);
            }
        }
    }

    fn decode_body(kind: u8, mut from: Decoder<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            1 => Self::Hello {
                version: from.u16()?,
                pid: from.u32()?,
                started_boottime_ns: from.u64()?,
                phase: decode_phase(&mut from)?,
            },
            2 => Self::Ready {
                checks: from.list("checks", MAX_CHECKS, |from| {
                    Ok(Check {
                        kind: CheckKind::of_code(from.u8()?)?,
                        subject: from.text()?,
                        errno: from.i32()?,
                        message: from.text()?,
                    })
                })?,
            },
            3 => Self::Started {
                child_pid: from.u32()?,
                started_realtime_ns: from.u64()?,
                started_boottime_ns: from.u64()?,
                alternative: from.u32()?,
                program: from.text()?,
            },
            4 => Self::Ended { exit: ExitRecord::decode_fields(&mut from)? },
            5 => Self::StopAck,
            6 => Self::Held {
                code: from.optional(Decoder::i32)?,
                signal: from.optional(Decoder::i32)?,
                until_realtime_ns: from.u64()?,
                until_boottime_ns: from.u64()?,
            },
            _ => return Ok(None),
        }))
    }
}

fn encode_phase(phase: Phase, to: &mut Encoder) {
    match phase {
        Phase::NeedSpec => to.u8(0),
        Phase::AtBarrier => to.u8(1),
        Phase::Running { child_pid, started_realtime_ns, started_boottime_ns } => {
            to.u8(2);
            to.u32(child_pid);
            to.u64(started_realtime_ns);
            to.u64(started_boottime_ns);
        }
        Phase::Ended => to.u8(3),
    }
}

fn decode_phase(from: &mut Decoder<'_>) -> Result<Phase, DecodeError> {
    match from.u8()? {
        0 => Ok(Phase::NeedSpec),
        1 => Ok(Phase::AtBarrier),
        2 => Ok(Phase::Running {
            child_pid: from.u32()?,
            started_realtime_ns: from.u64()?,
            started_boottime_ns: from.u64()?,
        }),
        3 => Ok(Phase::Ended),
        found => Err(DecodeError::BadValue { what: "phase", found: found.into() }),
    }
}

impl Frame for AgentFrame {
    fn encode_body(&self, to: &mut Encoder) {
        match self {
            Self::Spec { descriptors } => {
                to.u8(65);
                to.count(descriptors.len());
                descriptors.iter().for_each(|slot| to.u8(slot.code()));
            }
            Self::Go => to.u8(66),
            Self::Stop { grace_ms } => {
                to.u8(67);
                to.u32(*grace_ms);
            }
            Self::Signal { number } => {
                to.u8(68);
                to.u8(*number);
            }
            Self::Kill => to.u8(69),
            Self::Renew { until_boottime_ns } => {
                to.u8(70);
                to.u64(*until_boottime_ns);
            }
            Self::Bye => to.u8(71),
        }
    }

    fn decode_body(kind: u8, mut from: Decoder<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            65 => Self::Spec {
                descriptors: from.list("descriptors", MAX_DESCRIPTORS, |from| Slot::of_code(from.u8()?))?,
            },
            66 => Self::Go,
            67 => Self::Stop { grace_ms: from.u32()? },
            68 => match from.u8()? {
                number @ 1..=64 => Self::Signal { number },
                found => return Err(DecodeError::BadValue { what: "signal", found: found.into() }),
            },
            69 => Self::Kill,
            70 => Self::Renew { until_boottime_ns: from.u64()? },
            71 => Self::Bye,
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::Why;
    use super::*;

    fn shim_frames() -> Vec<ShimFrame> {
        let hello = |phase| ShimFrame::Hello { version: 1, pid: 7, started_boottime_ns: 99, phase };
        let check =
            Check { kind: CheckKind::Library, subject: "/lib/x".into(), errno: 2, message: "not there".into() };
        vec![
            hello(Phase::NeedSpec),
            hello(Phase::AtBarrier),
            hello(Phase::Running { child_pid: 8, started_realtime_ns: 1, started_boottime_ns: 2 }),
            hello(Phase::Ended),
            ShimFrame::Ready { checks: vec![check] },
            ShimFrame::Started {
                child_pid: 8,
                started_realtime_ns: 1,
                started_boottime_ns: 2,
                alternative: 1,
                program: "/bin/sh".into(),
            },
            ShimFrame::Ended { exit: ExitRecord::without_status(Why::LeaseExpired, 5) },
            ShimFrame::StopAck,
            ShimFrame::Held { code: Some(3), signal: None, until_realtime_ns: 7, until_boottime_ns: 8 },
        ]
    }

    fn agent_frames() -> Vec<AgentFrame> {
        vec![
            AgentFrame::Spec { descriptors: Slot::ALL.to_vec() },
            AgentFrame::Go,
            AgentFrame::Stop { grace_ms: 10 },
            AgentFrame::Signal { number: 10 },
            AgentFrame::Kill,
            AgentFrame::Renew { until_boottime_ns: 1 << 50 },
            AgentFrame::Bye,
        ]
    }

    fn all_by_single_bytes<F: Frame + PartialEq + std::fmt::Debug>(frames: &[F]) {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        let (mut buffer, mut found) = (FrameBuffer::default(), Vec::new());
        for byte in bytes {
            buffer.push(&[byte]);
            while let Some(frame) = buffer.next_frame::<F>().unwrap() {
                found.push(frame);
            }
        }
        assert_eq!(found, frames);
    }

    #[test]
    fn frames_arrive_however_the_stream_is_cut() {
        all_by_single_bytes(&shim_frames());
        all_by_single_bytes(&agent_frames());
    }

    #[test]
    fn what_a_newer_side_adds_is_passed_over() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&[3, 0, 0, 0, 200, 1, 2]);
        let mut longer = AgentFrame::Stop { grace_ms: 5 }.encode().unwrap();
        longer[0] += 1;
        longer.push(42);
        buffer.push(&longer);
        assert_eq!(buffer.next_frame(), Ok(Some(AgentFrame::Stop { grace_ms: 5 })));
        assert_eq!(buffer.next_frame::<AgentFrame>(), Ok(None));
    }

    #[test]
    fn hostile_input_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut buffer = FrameBuffer::default();
            buffer.push(bytes);
            buffer.next_frame::<AgentFrame>()
        };
        assert!(matches!(refused(&[0xff; 8]), Err(DecodeError::TooLong { what: "frame", .. })));
        assert_eq!(refused(&[0; 4]), Err(DecodeError::Truncated));
        assert_eq!(refused(&[2, 0, 0, 0, 67, 1]), Err(DecodeError::Truncated));
        assert!(matches!(refused(&[2, 0, 0, 0, 68, 0]), Err(DecodeError::BadValue { what: "signal", .. })));
        let many = AgentFrame::Spec { descriptors: vec![Slot::Segment; MAX_DESCRIPTORS + 1] }.encode().unwrap();
        assert!(matches!(refused(&many), Err(DecodeError::TooLong { what: "descriptors", .. })));
    }
}
