//! What the agent gives the shim in files: how the task is set up ([`ShimSpec`], with the `Spec` frame) and what it
//! runs ([`Command`], with `Go`). Pure: bytes in and out, bounded. Users and groups are numbers: the agent resolves.
//!
//! Both are a magic, a u16 format and fields in order. Fields are only ever added at the end; a file that ends before
//! a field leaves it at its default.

use super::protocol::CheckKind;
use super::wire::{DecodeError, Decoder, Encoder};

/// A bigger specification is refused.
pub const MAX_SPEC_BYTES: usize = 1024 * 1024;
/// A bigger command is refused; the kernel's own limit on argv and environment is 6 MiB.
pub const MAX_COMMAND_BYTES: usize = 16 * 1024 * 1024;
const SPEC_MAGIC: &[u8; 4] = b"WSP1";
const COMMAND_MAGIC: &[u8; 4] = b"WCM1";

/// A limit for the command, by the kernel's numbers (`RLIMIT_NOFILE` is 7). `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// How the task is set up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShimSpec {
    /// `None`: the shim's own.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Supplementary groups; `None`: the shim's own, unless `uid` or `gid` is set: then none.
    pub groups: Option<Vec<u32>>,
    pub umask: Option<u32>,
    pub limits: Vec<ResourceLimit>,
    /// Of the command. Higher than the shim's own, so that the kernel takes the command first.
    pub oom_score_adj: Option<i32>,
    /// Try to leave the IPC namespace that the shim was started in.
    pub new_ipc_namespace: bool,
    /// End the task when no `Renew` came for this long. Counts from when the specification is taken.
    pub lease_s: Option<u32>,
    /// Begin the next log segment when this one would get bigger.
    pub segment_bytes: u64,
    /// Device nodes that must open and libraries that must be there, looked for before `Ready`.
    pub checks: Vec<(CheckKind, String)>,
    /// Written to the shim's own standard output once, at `Go`: for people who look at `docker logs`.
    pub banner: Option<String>,
    /// Keep everything as it is for this long after the command has failed by itself: its processes, its places, the
    /// shim. Then end with the command's own status.
    pub debug_hold_s: Option<u32>,
}

impl ShimSpec {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Encoder(SPEC_MAGIC.to_vec());
        to.optional(self.uid, Encoder::u32);
        to.optional(self.gid, Encoder::u32);
        to.optional(self.groups.as_deref(), |to, groups| {
            to.count(groups.len());
            groups.iter().for_each(|group| to.u32(*group));
        });
        to.optional(self.umask, Encoder::u32);
        to.count(self.limits.len());
        for limit in &self.limits {
            to.u32(limit.resource);
            to.u64(limit.soft);
            to.u64(limit.hard);
        }
        to.optional(self.oom_score_adj, Encoder::i32);
        to.u8(self.new_ipc_namespace.into());
        to.optional(self.lease_s, Encoder::u32);
        to.u64(self.segment_bytes);
        to.count(self.checks.len());
        for (kind, path) in &self.checks {
            to.u8(kind.code());
            to.text(path);
        }
        to.optional(self.banner.as_deref(), Encoder::text);
        // Nothing at all for none, so that such a file is what it always was.
        if self.debug_hold_s.is_some() {
            to.optional(self.debug_hold_s, Encoder::u32);
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = open(bytes, SPEC_MAGIC, MAX_SPEC_BYTES, "specification")?;
        Ok(Self {
            uid: from.optional(Decoder::u32)?,
            gid: from.optional(Decoder::u32)?,
            groups: from.optional(|from| from.list("groups", 65_536, Decoder::u32))?,
            umask: from.optional(Decoder::u32)?,
            limits: from.list("limits", 64, |from| {
                Ok(ResourceLimit { resource: from.u32()?, soft: from.u64()?, hard: from.u64()? })
            })?,
            oom_score_adj: from.optional(Decoder::i32)?,
            new_ipc_namespace: from.bool("new_ipc_namespace")?,
            lease_s: from.optional(Decoder::u32)?,
            segment_bytes: from.u64()?,
            checks: from.list("checks", super::protocol::MAX_CHECKS / 2, |from| {
                Ok((CheckKind::of_code(from.u8()?)?, from.text()?))
            })?,
            banner: from.optional(Decoder::text)?,
            // Agents before this field end here.
            debug_hold_s: if from.0.is_empty() { None } else { from.optional(Decoder::u32)? },
        })
    }
}

/// What the task runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Argument lists, the first that exists is run: `/bin/bash -c ...`, else `/bin/sh -c ...`. A program without a
    /// slash is looked for in the PATH of `env`.
    pub alternatives: Vec<Vec<Vec<u8>>>,
    /// The whole environment. Later entries of one name win. Where the soft RLIMIT_STACK is too small for it, the
    /// command runs with a higher one, up to the hard limit.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None`: the folder the shim was started in.
    pub cwd: Option<Vec<u8>>,
}

impl Command {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Encoder(COMMAND_MAGIC.to_vec());
        to.count(self.alternatives.len());
        for arguments in &self.alternatives {
            to.count(arguments.len());
            arguments.iter().for_each(|argument| to.bytes(argument));
        }
        to.count(self.env.len());
        for (name, value) in &self.env {
            to.bytes(name);
            to.bytes(value);
        }
        to.optional(self.cwd.as_deref(), Encoder::bytes);
        to.later_fields();
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = open(bytes, COMMAND_MAGIC, MAX_COMMAND_BYTES, "command")?;
        let owned = |from: &mut Decoder<'_>| from.bytes().map(<[u8]>::to_vec);
        Ok(Self {
            alternatives: from
                .list("alternatives", 16, |from| from.list("arguments", MAX_COMMAND_BYTES / 4, owned))?,
            env: from.list("environment", MAX_COMMAND_BYTES / 8, |from| Ok((owned(from)?, owned(from)?)))?,
            cwd: from.optional(owned)?,
        })
    }
}

fn open<'a>(
    bytes: &'a [u8],
    magic: &[u8; 4],
    allowed: usize,
    what: &'static str,
) -> Result<Decoder<'a>, DecodeError> {
    if bytes.len() > allowed {
        return Err(DecodeError::TooLong { what, found: bytes.len(), allowed });
    }
    let mut from = Decoder(bytes);
    let found = from.take(magic.len())?;
    if found != magic {
        let found = u32::from_be_bytes([found[0], found[1], found[2], found[3]]);
        return Err(DecodeError::BadValue { what, found: found.into() });
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_as_written_and_every_cut_is_noticed() {
        let spec = ShimSpec {
            uid: Some(1000),
            gid: Some(1001),
            groups: Some(vec![4, 5]),
            umask: Some(0o22),
            limits: vec![ResourceLimit { resource: 7, soft: 1024, hard: u64::MAX }],
            oom_score_adj: Some(500),
            new_ipc_namespace: true,
            lease_s: Some(300),
            segment_bytes: 1 << 20,
            checks: vec![(CheckKind::DeviceNode, "/dev/nvidia0".into()), (CheckKind::Library, "/lib/x.so".into())],
            banner: Some("see elsewhere".into()),
            debug_hold_s: None,
        };
        let bytes = spec.encode();
        assert_eq!(ShimSpec::decode(&bytes), Ok(spec.clone()));
        (0..bytes.len()).for_each(|cut| assert!(ShimSpec::decode(&bytes[..cut]).is_err(), "cut at {cut}"));
        let held = ShimSpec { debug_hold_s: Some(604_800), ..spec };
        let longer = held.encode();
        assert_eq!((ShimSpec::decode(&longer), &longer[..bytes.len()]), (Ok(held), bytes.as_slice()));
        (bytes.len() + 1..longer.len())
            .for_each(|cut| assert!(ShimSpec::decode(&longer[..cut]).is_err(), "at {cut}"));
        let command = Command {
            alternatives: vec![vec![b"/bin/bash".to_vec(), b"-c".to_vec()], vec![b"sh".to_vec()]],
            env: vec![(b"A".to_vec(), b"\xff=".to_vec())],
            cwd: Some(b"/tmp".to_vec()),
        };
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes), Ok(command));
        (0..bytes.len()).for_each(|cut| assert!(Command::decode(&bytes[..cut]).is_err(), "cut at {cut}"));
    }

    #[test]
    fn a_foreign_file_is_refused() {
        assert!(matches!(ShimSpec::decode(b"WCM1"), Err(DecodeError::BadValue { what: "specification", .. })));
        assert!(ShimSpec::decode(&[b'W', b'S', b'P', b'1', 2]).is_err());
    }
}
