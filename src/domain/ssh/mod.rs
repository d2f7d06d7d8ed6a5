//! What a job's tasks know each other by over SSH, and how its owner gets in. Pure: secrets come in as bytes.
//!
//! ```text
//! submit      the controller draws 64 bytes for the job: [`SshSeed`], kept with the job and deleted with it
//! launch      the seed goes to each task's agent in a field of its own, if it announces [`SEED_FEATURE`], and no
//!             further: the agent writes keys, known_hosts, config and sshd_config where the container sees them. An
//!             agent that does not know the field runs the task without SSH, and shows the seed to nobody
//! before go   ~/.ssh/config of the container's user becomes a link to that config, if there is none:
//!             `ssh worker-0` works between the tasks
//! after go    where the image has an sshd it is started beside the command, on the task's port `ssh`
//! wharf ssh   the owner asks for [`SshAccess`]; the local ssh runs `sshd -i` in the container through exec, which
//!             needs no open port and no way to the node; without sshd it is exec with a terminal
//! ```
//!
//! All tasks of a job have the same two keys, one to log in with and one of the host: they trust each other as one
//! job anyway, and so everybody who has to can know the host's key beforehand. Names are OpenPAI's: `ROLE-INDEX`.

mod config;
mod openssh;

pub use config::{Host, hosts, known_hosts, of_tasks, sshd_config};
pub use openssh::KeyPair;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Under which name controllers of the version before sent the seed, in the environment. Never a variable of a task.
pub const SEED_VARIABLE: &str = "WHARF_SSH_SEED";
/// What an agent announces that knows what to do with a seed.
pub const SEED_FEATURE: &str = "ssh-seed";
const SEED_BYTES: usize = 64;

/// Secret bytes that all keys of a job come from.
#[derive(Clone, PartialEq, Eq)]
pub struct SshSeed([u8; SEED_BYTES]);

impl SshSeed {
    /// Of bytes that nobody can guess.
    pub const fn new(secret: [u8; SEED_BYTES]) -> Self {
        Self(secret)
    }

    /// Hexadecimal, for whoever keeps or carries it.
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * SEED_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut secret = [0; SEED_BYTES];
        for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(secret))
    }

    /// What the job's owner and its tasks log in with.
    pub fn identity(&self) -> KeyPair {
        KeyPair::of(self.half(0))
    }

    /// What every task of the job answers with.
    pub fn host(&self) -> KeyPair {
        KeyPair::of(self.half(1))
    }

    fn half(&self, which: usize) -> [u8; 32] {
        let mut half = [0; 32];
        half.copy_from_slice(&self.0[32 * which..32 * (which + 1)]);
        half
    }
}

impl fmt::Debug for SshSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SshSeed(secret)")
    }
}

impl Serialize for SshSeed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for SshSeed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a seed is 128 hexadecimal digits"))
    }
}

/// What the owner of a job needs to log in to its tasks.
#[derive(Clone, PartialEq, Eq)]
pub struct SshAccess {
    pub job_id: u64,
    /// The private key, as OpenSSH keeps it in a file.
    pub private_key: String,
    /// `ssh-ed25519 BASE64`, of that key.
    pub public_key: String,
    /// The same of the tasks' host key.
    pub host_key: String,
}

impl SshAccess {
    pub fn of(job_id: u64, seed: &SshSeed) -> Self {
        let identity = seed.identity();
        Self {
            job_id,
            private_key: identity.private_file(&alias(job_id)),
            public_key: identity.public_line(),
            host_key: seed.host().public_line(),
        }
    }
}

impl fmt::Debug for SshAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAccess")
            .field("job_id", &self.job_id)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

/// Under which name the tasks' host key is known: their addresses and ports may be another job's tomorrow.
pub fn alias(job_id: u64) -> String {
    format!("wharf-job-{job_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_kept_and_never_shown() {
        let seed = SshSeed::new(std::array::from_fn(|i| i as u8));
        assert_eq!(SshSeed::parse(&seed.reveal()), Some(seed.clone()));
        let kept = serde_json::to_string(&seed).unwrap();
        assert_eq!(serde_json::from_str::<SshSeed>(&kept).unwrap(), seed);
        for wrong in ["", "00", &"g".repeat(128), &"é".repeat(64), &"+1".repeat(64)] {
            assert!(serde_json::from_str::<SshSeed>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
        assert_ne!(seed.identity().public_line(), seed.host().public_line());
        let access = SshAccess::of(7, &seed);
        let shown = format!("{seed:?} {access:?}");
        let secret = access.private_key.lines().nth(3).unwrap();
        assert!(!shown.contains("0102") && !shown.contains(secret), "{shown}");
    }
}
