//! wharf runs GPU jobs on a fleet of machines. This page is the map.
//!
//! ```text
//!        cli ---------------------------- daemon (puts the parts together)
//!         |                                  |
//!        rpc   the wire: gRPC in both directions, sockets, who is calling
//!         |  \
//!         |   web   HTTP: other systems' protocols over the same sockets
//!         |  /
//!        api   the two services as traits
//!       /   \
//! controller  agent       one owner of state each: decide, make it durable, then act
//!    |    \    /  |  \
//! scheduler store |   runtime > shim > the user's command > logs
//! health          gpu
//!    |
//! jobfile, domain         pure: words and decisions
//! ```
//!
//! | folder | what it is for |
//! |---|---|
//! | [`domain`] | PURE. Ids, job specification, GPUs, the life of a task and of a run, completion, retry, allocation |
//! | [`jobfile`] | PURE. Job files into [`domain::spec::JobSpec`]; the environment of their tasks |
//! | [`scheduler`] | PURE. Where a gang goes, who goes first, why something waits |
//! | [`health`] | PURE. Hardware faults: kernel messages understood, devices checked; judged, counted, cleared |
//! | [`sim`] | PURE. A whole cluster in one process: these cores under scripted time |
//! | [`api`] | the Agent and Controller services as traits |
//! | [`controller`] | admission, queue, placing, commands to agents, recovery |
//! | [`agent`] | one node: stage, prepare, launch, stop, release; adopts its tasks after a restart |
//! | [`runtime`] | the trait that runs tasks: [`runtime::docker`], [`runtime::process`]; what follows any shim is shared |
//! | [`shim`] | the static program under every command, and its protocol |
//! | [`logs`] | reads what shims write: records, segments, cursors, following |
//! | [`gpu`] | the trait that knows GPUs; [`gpu::nvml`] asks the driver in a worker process, [`gpu::sim`]; what GPUs tell unasked ([`gpu::events`]) and of their health ([`domain::gpu::health`]) |
//! | [`kernel_log`] | `/dev/kmsg` as a stream: records in order, exact gaps, a cursor that survives restarts |
//! | [`host`] | what the kernel shows beside GPUs: NVIDIA's PCI functions, InfiniBand ports, the boot |
//! | [`store`] | the trait that keeps state; [`store::sqlite`], [`store::etcd`]; [`store::sealed`] over them; the history of events |
//! | [`web`] | HTTP on the ports of controller and agent: OpenPAI's REST API ([`web::pai`]), and what Prometheus reads |
//! | [`rpc`] | the only place that sees generated code: conversions, servers, clients, sockets; and TLS ([`rpc::tls`]): who calls, and whether they may |
//! | [`daemon`] | an agent and a controller from their settings; what the service manager is told |
//! | [`cli`] | commands and what they print |
//! | [`config`], [`telemetry`] | settings; logging, the audit log and the clock |
//! | `fuzz` | for tests alone: every parser of outside input, under mutated files and messages |
//!
//! # Directions
//!
//! `cli > daemon > rpc > agent, controller > health, scheduler > jobfile > domain`, and never back; `web` is below `rpc`,
//! which gives it its sockets, and sees `api`, `jobfile` and `domain` alone. `api` speaks the domain's
//! words only; agent and controller know each other only through it. Adapters (`gpu::nvml`, `gpu::sim`, `runtime::docker`,
//! `runtime::process`, `store::sqlite`, `kernel_log`, `host`) see the domain and their own trait. Pure folders import no
//! tokio, tonic, clock or randomness: time, ids and chance come in as arguments. `tests/architecture.rs` reads the `use`
//! lines and keeps it so.
//!
//! # Who calls
//!
//! A connection proves an account (Unix socket), a node or a controller (certificate), a person (token), or nothing;
//! `rpc::admission` makes a [`domain::principal::Principal`] of that and holds it against the table in
//! [`domain::access::calls`], for every call of every protocol. What belongs to somebody is checked where the owner is known,
//! in `controller::api`. Tokens, certificates and what was revoked are state of the controller: `controller::access`.
//!
//! # The life of a job
//!
//! 1. [`cli`] sends the file to the controller; [`jobfile::parse`] names everything that is wrong with it at once.
//! 2. [`controller`] makes job, specification and first run durable in one transaction, then answers.
//! 3. [`scheduler::schedule`] finds seats for the whole gang or for none; seats are promises, written before anything
//!    is asked of a node.
//! 4. [`domain::run::Run::actions`] says what agents should have been told by now: stage, then prepare everywhere,
//!    then launch everywhere. It looks at states, not at messages, so a restart simply asks again.
//! 5. [`agent`] holds what was promised or vetoes, and brings the task to its barrier: the [`shim`] waits for "go".
//! 6. The shim runs the command, writes its output and its end to disk, and outlives everything of ours.
//! 7. Each end goes to [`domain::completion`]; the run's end goes to [`domain::retry`].
//! 8. A fault of the hardware: the agent hears it, ends whom it hit as class hardware and keeps the GPU from new tasks.
//! 9. Release: the agent answers once nothing of the task is left; only then is the promise taken back.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod daemon;
pub mod domain;
#[cfg(test)]
mod fuzz;
pub mod gpu;
pub mod health;
pub mod host;
pub mod jobfile;
pub mod kernel_log;
pub mod logs;
pub mod rpc;
pub mod runtime;
pub mod scheduler;
pub mod shim;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod web;
