//! How a task ended, as the shim writes it to the exit file and says it in an `Ended` frame. Pure: bytes in and out.
//!
//! The exit file is [`EXIT_FILE_BYTES`] long from the moment the specification is taken, all zeros until the end (the
//! room is reserved while there is some): magic, u32 length, fields, CRC-32C of magic, length and fields.

use super::crc::crc32c;
use super::wire::{DecodeError, Decoder, Encoder, cut};

/// Size of the exit file; a record is smaller.
pub const EXIT_FILE_BYTES: usize = 4096;
/// Longer messages are cut.
pub const MAX_MESSAGE_BYTES: usize = 1024;
/// More leftovers than this are not named.
pub const MAX_LEFTOVERS: usize = 64;
const MAGIC: &[u8; 8] = b"WHARFEX1";

/// Whose doing the end was, as far as the shim can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The command ended by itself, or by a signal that did not pass through the shim.
    OwnEnd,
    /// The agent sent `Stop` or `Kill`.
    StoppedByAgent,
    /// The shim got this signal from somebody other than the agent, passed it on, and the command ended of it.
    /// `pid` is 0 when the sender is outside the shim's process namespace (such as dockerd).
    OutsideSignal { signal: i32, pid: u32, uid: u32 },
    /// No renewal came in time.
    LeaseExpired,
    /// The command never ran. `step` says what failed (`exec`, `chdir`, `join cgroup` ...), `message` is a sentence
    /// that names the object.
    ExecFailed { step: String, errno: i32, message: String },
    /// The agent was away for too long before `Go`.
    AbandonedBeforeGo,
}

/// What became of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputTotals {
    /// Bytes written to the segments (an older segment may have been overwritten since).
    pub bytes: u64,
    pub records: u64,
    /// Bytes read from the task and not written, because the disk was slow or full.
    pub lost_bytes: u64,
    pub lost_records: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit status of the command.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Processes of the task's cgroup that the kernel killed for memory while it ran.
    pub oom_kills: u64,
    /// CLOCK_REALTIME in nanoseconds; `None` if the command never ran.
    pub started_realtime_ns: Option<u64>,
    pub ended_realtime_ns: u64,
    pub why: Why,
    pub output: OutputTotals,
    /// Processes that could not be ended in time, in the shim's process namespace.
    pub leftover_pids: Vec<u32>,
    /// Processes of the task other than the command that had to be killed at the end.
    pub killed_at_end: u32,
    /// The exit file is on disk. False only in a frame: the disk hung, or no file was given.
    pub durable: bool,
    /// How often the task's cgroup met its own memory limit while it ran. 0 with `oom_kills` means that the machine
    /// as a whole had no memory left. `None` where the kernel does not tell the two apart (cgroup v1).
    pub limit_hits: Option<u64>,
    /// CLOCK_REALTIME in nanoseconds when the command itself ended, if the task was kept after that for debugging:
    /// `ended_realtime_ns` is when that was over.
    pub held_since_realtime_ns: Option<u64>,
}

impl ExitRecord {
    /// An end without a status.
    pub fn without_status(why: Why, ended_realtime_ns: u64) -> Self {
        Self {
            code: None,
            signal: None,
            oom_kills: 0,
            started_realtime_ns: None,
            ended_realtime_ns,
            why,
            output: OutputTotals::default(),
            leftover_pids: Vec::new(),
            killed_at_end: 0,
            durable: true,
            limit_hits: None,
            held_since_realtime_ns: None,
        }
    }

    /// The whole content of the exit file.
    pub fn encode_file(&self) -> Vec<u8> {
        let mut fields = Encoder::default();
        self.encode_fields(&mut fields);
        fields.later_fields();
        let mut file = Encoder(MAGIC.to_vec());
        file.bytes(&fields.0);
        let crc = crc32c(&file.0);
        file.u32(crc);
        // The fields are bounded far below: three messages of 1 KiB at most, 64 numbers.
        file.0.resize(EXIT_FILE_BYTES.max(file.0.len()), 0);
        file.0
    }

    /// Reads an exit file. `None`: no record has been written (the file is empty or all zeros).
    pub fn decode_file(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let bytes = bytes.get(..EXIT_FILE_BYTES).unwrap_or(bytes);
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut file = Decoder(bytes);
        if file.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::BadValue { what: "first byte of the exit file", found: bytes[0].into() });
        }
        let fields = file.bytes()?;
        let covered = MAGIC.len() + 4 + fields.len();
        if crc32c(&bytes[..covered]) != file.u32()? {
            return Err(DecodeError::BadChecksum);
        }
        Self::decode_fields(&mut Decoder(fields)).map(Some)
    }

    pub(super) fn encode_fields(&self, to: &mut Encoder) {
        to.optional(self.code, Encoder::i32);
        to.optional(self.signal, Encoder::i32);
        to.u64(self.oom_kills);
        to.optional(self.started_realtime_ns, Encoder::u64);
        to.u64(self.ended_realtime_ns);
        encode_why(&self.why, to);
        let output = self.output;
        [output.bytes, output.records, output.lost_bytes, output.lost_records].iter().for_each(|n| to.u64(*n));
        let named = &self.leftover_pids[..self.leftover_pids.len().min(MAX_LEFTOVERS)];
        to.count(named.len());
        named.iter().for_each(|pid| to.u32(*pid));
        to.u32(self.killed_at_end);
        to.u8(self.durable.into());
        to.optional(self.limit_hits, Encoder::u64);
        to.optional(self.held_since_realtime_ns, Encoder::u64);
    }

    pub(super) fn decode_fields(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            code: from.optional(Decoder::i32)?,
            signal: from.optional(Decoder::i32)?,
            oom_kills: from.u64()?,
            started_realtime_ns: from.optional(Decoder::u64)?,
            ended_realtime_ns: from.u64()?,
            why: decode_why(from)?,
            output: OutputTotals {
                bytes: from.u64()?,
                records: from.u64()?,
                lost_bytes: from.u64()?,
                lost_records: from.u64()?,
            },
            leftover_pids: from.list("leftover pids", MAX_LEFTOVERS, Decoder::u32)?,
            killed_at_end: from.u32()?,
            durable: from.bool("durable")?,
            // Shims before either of these fields end here.
            limit_hits: if from.0.is_empty() { None } else { from.optional(Decoder::u64)? },
            held_since_realtime_ns: if from.0.is_empty() { None } else { from.optional(Decoder::u64)? },
        })
    }
}

fn encode_why(why: &Why, to: &mut Encoder) {
    match why {
        Why::OwnEnd => to.u8(0),
        Why::StoppedByAgent => to.u8(1),
        Why::OutsideSignal { signal, pid, uid } => {
            to.u8(2);
            to.i32(*signal);
            to.u32(*pid);
            to.u32(*uid);
        }
        Why::LeaseExpired => to.u8(3),
        Why::ExecFailed { step, errno, message } => {
            to.u8(4);
            to.text(cut(step, MAX_MESSAGE_BYTES));
            to.i32(*errno);
            to.text(cut(message, MAX_MESSAGE_BYTES));
        }
        Why::AbandonedBeforeGo => to.u8(5),
    }
}

fn decode_why(from: &mut Decoder<'_>) -> Result<Why, DecodeError> {
    Ok(match from.u8()? {
        0 => Why::OwnEnd,
        1 => Why::StoppedByAgent,
        2 => Why::OutsideSignal { signal: from.i32()?, pid: from.u32()?, uid: from.u32()? },
        3 => Why::LeaseExpired,
        4 => Why::ExecFailed { step: from.text()?, errno: from.i32()?, message: from.text()? },
        5 => Why::AbandonedBeforeGo,
        found => return Err(DecodeError::BadValue { what: "reason of the end", found: found.into() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<ExitRecord> {
        let whys = [
            Why::OwnEnd,
            Why::StoppedByAgent,
            Why::OutsideSignal { signal: 15, pid: 4, uid: 1000 },
            Why::LeaseExpired,
            Why::ExecFailed { step: "exec".into(), errno: 2, message: "é".repeat(3000) },
            Why::AbandonedBeforeGo,
        ];
        let full = |why| ExitRecord {
            code: Some(3),
            signal: Some(9),
            oom_kills: 2,
            started_realtime_ns: Some(5),
            output: OutputTotals { bytes: 1, records: 2, lost_bytes: 3, lost_records: 4 },
            leftover_pids: (0..100).collect(),
            killed_at_end: 7,
            limit_hits: Some(6),
            ..ExitRecord::without_status(why, 9)
        };
        whys.into_iter().map(full).collect()
    }

    #[test]
    fn a_record_survives_the_file_with_long_fields_cut() {
        for record in records() {
            let file = record.encode_file();
            assert_eq!(file.len(), EXIT_FILE_BYTES);
            let found = ExitRecord::decode_file(&file).unwrap().unwrap();
            assert_eq!(found.leftover_pids.len(), MAX_LEFTOVERS);
            assert_eq!((found.code, found.output, found.killed_at_end), (record.code, record.output, 7));
            assert_eq!(found.limit_hits, Some(6));
            match (&found.why, &record.why) {
                (Why::ExecFailed { message, .. }, Why::ExecFailed { .. }) => assert_eq!(message.len(), 1024),
                (found, expected) => assert_eq!(found, expected),
            }
        }
    }

    #[test]
    fn a_record_without_the_newest_field_is_read() {
        let mut fields = Encoder::default();
        records()[0].encode_fields(&mut fields);
        let read = |missing: usize| ExitRecord::decode_fields(&mut Decoder(&fields.0[..fields.0.len() - missing]));
        let newest = |record: ExitRecord| (record.limit_hits, record.held_since_realtime_ns);
        assert_eq!(read(0).map(newest), Ok((Some(6), None)));
        assert_eq!(read(1).map(newest), Ok((Some(6), None)), "before holds");
        assert_eq!(read(10).map(newest), Ok((None, None)), "before limits");
    }

    #[test]
    fn zeros_are_no_record_and_damage_is_an_error() {
        assert_eq!(ExitRecord::decode_file(&[]), Ok(None));
        assert_eq!(ExitRecord::decode_file(&[0; EXIT_FILE_BYTES]), Ok(None));
        let good = records()[2].encode_file();
        let end = good.iter().rposition(|byte| *byte != 0).unwrap();
        for place in 0..=end {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(ExitRecord::decode_file(&bad).is_err(), "a flipped bit at {place} was not noticed");
            assert!(
                ExitRecord::decode_file(&good[..place]).is_err() || place == 0,
                "a cut at {place} was not noticed"
            );
        }
    }
}
