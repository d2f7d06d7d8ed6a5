//! Limits of an OpenPAI job, beside those in `domain::quantity`. Lower limits are those of SCM's document;
//! upper ones are ours and only keep sums and sizes computable.

/// So that the CPUs of the largest job still count in 32 bits.
pub const MAX_CPUS_PER_TASK: i64 = 100_000;
pub const MIN_MEMORY_MB: i64 = 100;
pub const MAX_MEMORY_MB: i64 = 1 << 40;
pub const MAX_GPUS_PER_TASK: i64 = 10_000;
/// `retryCount`: -2 is always, -1 on failure without end. SCM's page says 0 or more, yet real files use -2.
pub const RETRIES: std::ops::RangeInclusive<i64> = -2..=i32::MAX as i64;
/// Ports of one task, all labels together: every task of a gang is told the ports of every other.
pub const MAX_PORTS_PER_TASK: i64 = 1000;
pub const MAX_URI_BYTES: usize = 4096;
/// Linux refuses to start a program with an argument or `NAME=value` of 128 KiB, its NUL included
/// (MAX_ARG_STRLEN); the command is one argument of its shell.
pub const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;
/// Leases of `onNodeLost: restart`, in seconds: five minutes to thirty days.
pub const LEASE_SECONDS: std::ops::RangeInclusive<i64> = 300..=2_592_000;
pub const DEFAULT_LEASE_SECONDS: u32 = 1800;
/// Of `jobEnvs.isDebug`: at most what OpenPAI kept a failed task for, a week.
pub const DEBUG_HOLD_SECONDS: std::ops::RangeInclusive<i64> = 1..=604_800;
/// Names and values of `extras.wharf.secrets` together, so that they fit one value of the store.
pub const MAX_SECRETS_BYTES: usize = 96 * 1024;
/// And so many of them, for the same reason.
pub const MAX_SECRETS: usize = 1000;
