//! Limits on what a person may ask for, in one place.

/// Most tasks in one job, all roles together.
pub const MAX_TASKS_PER_JOB: u32 = 10_000;
/// Longest job or role name in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Largest job file in bytes.
pub const MAX_JOB_FILE_BYTES: usize = 512 * 1024;
/// Ports handed to tasks unless configured otherwise: below the kernel's ephemeral range.
pub const DEFAULT_PORTS: std::ops::RangeInclusive<u16> = 15000..=29999;
/// Shared memory of a task when the job does not say, as in OpenPAI's v1 protocol.
pub const DEFAULT_SHM_MB: u64 = 64;
/// Grace between SIGTERM and SIGKILL when nobody says otherwise.
pub const DEFAULT_GRACE_MS: u64 = 10_000;
/// Largest message on any gRPC connection in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
