//! The controller's state as keys of the store.
//!
//! | key | value |
//! |---|---|
//! | `meta/cluster_id`, `meta/term`, `meta/next_id` | text |
//! | `meta/level` | the highest [`Level`](crate::domain::level::Level) that has written here |
//! | `meta/last_events` | the events of the last commit, which history may not have yet |
//! | `meta/transfer`, `meta/moved` | marks of a store that no controller may use: see [`super::transfer`] |
//! | `job/ID` | [`Job`](crate::domain::job::Job) |
//! | `spec/ID/CHUNK` | pieces of the [`JobSpec`](crate::domain::spec::JobSpec) |
//! | `secret/ID` | what the job keeps to itself, which is nowhere else here: sealed, where `meta/seal` says with what |
//! | `file/ID/CHUNK` | pieces of the job file as submitted, but for its secrets; read only when somebody asks for it |
//! | `run/ID` | [`Run`](crate::domain::run::Run) without its tasks: the header that makes a plan true |
//! | `plan/ID/GENERATION/CHUNK` | pieces of the seats of one generation |
//! | `task/ID/GENERATION/ROLE/INDEX` | what is known of a task beyond its seat |
//! | `node/NAME` | the last registration |
//! | `faults/NAME` | the faults that the node has told, where there are any |
//! | `access/authority` | the certificate of the cluster's authority, in PEM |
//! | `access/token/ID` | a token: its hash, and what it is for |
//! | `access/node/NAME` | what was certified for a node, and revoked |
//! | `standing/NAME` | what operators want of the node, where that is anything: [`Standing`](crate::domain::node::Standing) |
//!
//! A gang bigger than one transaction is written in chunks under its new generation, which nothing refers to
//! until the run's header with that generation follows.

mod keys;
mod load;
mod record;
mod secret;
mod write;

pub(super) use keys::{
    AUTHORITY, CLUSTER_ID, LAST_EVENTS, LEVEL, MOVED, NEXT_ID, SEAL, SECRETS, TERM, TRANSFER, keys_of_generation,
    keys_of_job, keys_of_run, written_together,
};
pub(super) use load::{load, read_file};
pub(super) use record::{registration_bytes, spec_bytes};
pub(super) use secret::{is_unfinished, without_secret_names};
pub(super) use write::{WriteError, Writes, barrier, check_usable, delete_all, take_term, write};
