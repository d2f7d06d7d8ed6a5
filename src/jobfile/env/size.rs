//! How large an environment grows: with the number of tasks, ports, and the length of names. Known at submit, so
//! that a job whose tasks could never be started is refused before it waits for GPUs.

use crate::domain::spec::{JobSpec, RoleSpec};
use crate::jobfile::openpai::MAX_ARGUMENT_BYTES;

/// Largest environment of a task in bytes. Linux takes 6 MiB of arguments and environment with their pointers, given
/// a large enough RLIMIT_STACK (the shim raises it), and the environment travels in one message of 4 MiB.
pub const MAX_ENVIRONMENT_BYTES: u64 = 3 * 1024 * 1024;

/// Longest text of an address: IPv6 in full.
const IP: u64 = 39;
/// `65535,`.
const PORT: u64 = 6;
/// The fixed letters, the task index, separators and the end of a variable of one task, whichever is longest:
/// `PAI_PORT_LIST_` ROLE `_99999_` LABEL `=` PORTS.
const AFFIXES: u64 = 23;
/// The same for a variable of a role or of the task itself.
const LONG_AFFIXES: u64 = 48;
/// Everything that does not grow with the job: names and values of fixed variables, after substitution.
const FIXED: u64 = 32 * 1024;

/// An upper bound of the bytes of `NAME=value` and their ends in the environment of any one task.
pub fn environment_bytes_at_most(spec: &JobSpec) -> u64 {
    let uris = [&spec.data_dir, &spec.output_dir, &spec.code_dir].map(|uri| uri.len() as u64).iter().sum::<u64>();
    let secrets = spec.secrets.iter().map(|(name, value)| (name, value.reveal()));
    let job = spec.env.iter().map(|(name, value)| (name, value.as_str())).chain(secrets);
    let job: u64 = job.map(|(name, value)| (name.len() + value.len() + 2) as u64).sum();
    let roles: u64 = spec.roles.iter().map(role_bytes).sum();
    let largest_own = spec.roles.iter().map(own_bytes).max().unwrap_or(0);
    // PAI_TASK_ROLE_INSTANCES; a longer one is left out.
    let instances: u64 = spec.roles.iter().map(|role| u64::from(role.count) * (role.name.len() as u64 + 7)).sum();
    FIXED + uris + job + roles + largest_own + instances.min(MAX_ARGUMENT_BYTES as u64)
}

/// What one role adds to the environment of every task.
fn role_bytes(role: &RoleSpec) -> u64 {
    let (name, count) = (role.name.len() as u64, u64::from(role.count));
    let ports: u64 = role
        .all_ports()
        .iter()
        .map(|port| 2 * (AFFIXES + name + port.label.len() as u64 + PORT * u64::from(port.count)))
        .sum();
    let host = AFFIXES + name + IP;
    // PAI_TASK_ROLE_$role_HOST_LIST; a longer one is left out.
    let host_list = (count * (IP + PORT + 4)).min(MAX_ARGUMENT_BYTES as u64);
    // The host list and four more variables have the role's name in theirs, and two lists in their value.
    7 * (LONG_AFFIXES + name) + host_list + count * (host + ports)
}

/// What a task of the role adds for itself alone.
fn own_bytes(role: &RoleSpec) -> u64 {
    let ports: u64 = role
        .all_ports()
        .iter()
        .map(|port| 2 * (LONG_AFFIXES + port.label.len() as u64 + PORT * u64::from(port.count)))
        .sum();
    let gpus = 2 * 48 * u64::from(role.gpus);
    ports + gpus + 3 * role.name.len() as u64
}
