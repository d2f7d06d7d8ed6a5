//! An agent from its settings.

use super::guard;
use super::identity::{self, Membership, NodeIdentity};
use super::notify::{ServiceManager, keep_informed};
use super::{host, journal, make_state_dir, pulse, runtime};
use crate::agent::pressure::DiskMark;
use crate::agent::{self, AgentHandle, AgentParts, AgentRunning, Looking, PortClaim, Tuning};
use crate::api::ControllerApi;
use crate::config::listen::refuse_outside;
use crate::config::{AgentConfig, Endpoint, GpuChoice};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::gpu::occupancy::IgnoredProcesses;
use crate::domain::ids::{NodeName, NodeUid};
use crate::gpu::events::GpuEvents;
use crate::gpu::labelled::Labelled;
use crate::gpu::nvml::{NvmlGpus, NvmlOptions};
use crate::gpu::{GpuSource, none::NoGpus, sim::SimGpus};
use crate::health::table::Table;
use crate::host::Boot;
use crate::kernel_log::KernelLogOptions;
use crate::rpc::{self, Security};
use crate::telemetry::clock::SystemClock;
use crate::web::Web;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Events of the runtime that wait for the agent.
const RUNTIME_EVENTS: usize = 1024;

/// An agent that listens.
#[derive(Debug)]
pub struct AgentService {
    /// Where it really listens, as clients may be told.
    pub addresses: Vec<String>,
    agent: AgentHandle,
    running: AgentRunning,
    /// No other agent of this machine gives these ports to tasks until this one has ended.
    _ports: PortClaim,
    serving: JoinHandle<Result<(), Error>>,
    cancel: CancellationToken,
}

/// Opens the journal, takes over earlier tasks, binds the sockets and serves until `cancel`. Tasks outlive it.
pub async fn start_agent(config: &AgentConfig, cancel: CancellationToken) -> Result<AgentService, Error> {
    let open_files = host::raise_open_files();
    // Tasks of other users pass through to their own folders.
    make_state_dir(&config.data_dir, 0o755)?;
    make_state_dir(&config.run_dir, 0o711)?;
    let (config, member) = &settle(config)?;
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    if config.controller.is_empty() {
        tracing::warn!("this agent belongs to no cluster: 'wharf agent join ADDR -' makes its machine a node");
    }
    let membership = member.as_ref().map(|member| Membership::new(member, plain(config))).transpose()?;
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let listeners = rpc::bind(&listen, membership.is_some() || config.insecure).await?;
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address().to_owned()).collect();
    let (store, identity) = journal::open(config).await?;
    let ports = PortClaim::take(config.ports.as_ref().map(|ports| ports.0.clone()), &config.data_dir).await?;
    let (events, runtime_events) = mpsc::channel(RUNTIME_EVENTS);
    let (gpus, gpu_events) = gpus(config, &identity.node_uid)?;
    let security = membership.as_ref().map_or_else(|| plain(config), |membership| membership.security.clone());
    let controller = controller(config, membership.as_ref())?;
    let parts = AgentParts {
        name: NodeName(config.name.clone()),
        address: advertised(config, &addresses)?,
        task_ip: config.task_ip.unwrap_or_else(|| host::address_towards(&config.controller)).to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: config.labels.clone(),
        cpus: config.cpus.unwrap_or_else(host::cpus),
        memory_mb: config.memory_mb.map_or_else(host::memory_mb, Ok)?,
        ports: (*ports.range().start(), *ports.range().end()),
        runtime: runtime::of(config, &identity.node_uid, open_files, events).await?,
        runtime_events,
        gpus,
        gpu_events,
        store,
        controller: controller.clone(),
        clock: Arc::new(SystemClock),
        tuning: Tuning {
            keep_ended: Duration::from_secs(u64::from(config.keep_ended_hours) * 3600),
            max_ended: config.keep_ended_tasks as usize,
            disk: (config.disk_high_percent < 100)
                .then(|| DiskMark::of(config.data_dir.clone(), config.disk_high_percent)),
            ignored_processes: IgnoredProcesses::new(config.ignore_processes.iter().cloned()),
            kernel_log: kernel_log(config)?,
            xid_table: Arc::new(xid_table(config)?),
            boot_id: Boot::read(Path::new("/")).map(|boot| boot.boot_id).unwrap_or_default(),
            looking: Some(Looking {
                period: Duration::from_secs(u64::from(config.health_interval_s)),
                modes: config.checks.clone(),
                expected_gpus: config.expected_gpus,
                root: config.host_root.clone(),
            }),
            remediation: config.remediation.clone(),
            per_user: (config.policy.per_user, config.file.display().to_string()),
            ..Tuning::default()
        },
    };
    let (api, running) = agent::start(parts, cancel.clone()).await?;
    let shared = Arc::new(api.clone());
    let security = security.audited(super::audit_log(&config.data_dir)?);
    let routes = rpc::agent_routes(shared.clone(), security).await?;
    let routes = routes.with_web(Web::of_agent(shared, host::host_names()));
    if let (Some(membership), Some(member), Some(controller)) = (membership, member, controller) {
        tokio::spawn(membership.renew(controller, member.clone(), config.data_dir.clone(), cancel.clone()));
    }
    tracing::info!(node = config.name, addresses = addresses.join(", "), "agent listens");
    let serving = tokio::spawn(rpc::serve(listeners, routes, cancel.clone()));
    Ok(AgentService { addresses, agent: api, running, _ports: ports, serving, cancel })
}

impl AgentService {
    /// Waits for the end as [`Self::join`] does, and keeps the service manager informed until then.
    pub async fn join_informing(self, manager: Option<ServiceManager>) -> Result<(), Error> {
        let (agent, cancel) = (self.agent.clone(), self.cancel.clone());
        let look = || pulse::of_agent(&agent);
        tokio::join!(self.join(), keep_informed(manager, look, cancel)).0
    }

    /// Waits for the end: asked for by the token, or the first failure of a part, which ends the others.
    pub async fn join(self) -> Result<(), Error> {
        let cancel = self.cancel;
        let running = async {
            let result = self.running.join().await;
            cancel.cancel();
            result
        };
        let serving = async {
            let result = self.serving.await;
            cancel.cancel();
            result.unwrap_or_else(|error| Err(Error::internal(format!("serving: {error}"))))
        };
        let (running, serving) = tokio::join!(running, serving);
        running.and(serving)
    }
}

/// The settings with what follows from the node's membership, and that.
fn settle(config: &AgentConfig) -> Result<(AgentConfig, Option<NodeIdentity>), Error> {
    let mut config = config.clone();
    let proves = !config.insecure && !config.own_account;
    let member = if proves { NodeIdentity::load(&config.data_dir)? } else { None };
    identity::check(&config, member.as_ref())?;
    if let Some(member) = member.as_ref().filter(|_| config.controller.is_empty()) {
        config.controller.clone_from(&member.controllers);
    }
    if config.listen.is_empty() {
        config.listen = config.usual_listeners();
    }
    if member.is_none() && !config.insecure {
        let because = "this node has no certificate, so nothing proves who calls it";
        let violations = refuse_outside("listen", &config.listen, because, "'wharf agent join ADDR TOKEN'");
        if let Some(first) = violations.first() {
            return Err(Error {
                violations: violations.clone(),
                ..Error::new(ErrorKind::Invalid, first.to_string())
            });
        }
    }
    Ok((config, member))
}

/// What counts on connections without TLS.
fn plain(config: &AgentConfig) -> Security {
    Security::plain(guard::plain(config.insecure, config.own_account))
}

/// Its cursor is beside the journal.
fn kernel_log(config: &AgentConfig) -> Result<Option<KernelLogOptions>, Error> {
    if config.kernel_log.as_os_str().is_empty() {
        return Ok(None);
    }
    let boot = Boot::read(Path::new("/")).map_err(|error| Error::internal(format!("which boot this is: {error}")))?;
    let cursor = config.data_dir.join("kernel_log.json");
    Ok(Some(KernelLogOptions::new(config.kernel_log.clone(), boot.boot_id, cursor)))
}

/// The built-in table with the site's own rows. A file that is wrong is an error: its author believes in it.
fn xid_table(config: &AgentConfig) -> Result<Table, Error> {
    let Some(path) = &config.xid_table else { return Ok(Table::builtin().clone()) };
    let wrong = |why: String| Error::new(ErrorKind::Invalid, format!("xid_table {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    Table::builtin().overridden(&text).map_err(|error| wrong(error.to_string()))
}

/// With port 0 the address is known only after binding; one of every machine is told as the one of ours that leads to
/// the controller.
fn advertised(config: &AgentConfig, bound: &[String]) -> Result<String, Error> {
    if let Some(address) = &config.advertise_address {
        return Ok(address.to_string());
    }
    let none = || Error::new(ErrorKind::Invalid, "listen is empty: the agent could not be reached");
    let first = bound.first().ok_or_else(none)?;
    match first.parse() {
        Ok(Endpoint::Tcp { port, .. }) if first.parse::<Endpoint>().is_ok_and(|first| first.is_unspecified()) => {
            let own = SocketAddr::new(host::address_towards(&config.controller), port);
            Ok(own.to_string())
        }
        _ => Ok(first.clone()),
    }
}

fn controller(
    config: &AgentConfig,
    membership: Option<&Membership>,
) -> Result<Option<Arc<dyn ControllerApi>>, Error> {
    if config.controller.is_empty() {
        return Ok(None);
    }
    let addresses: Vec<String> = config.controller.iter().map(ToString::to_string).collect();
    // A node with an identity never talks to anybody who has not the cluster's.
    let credentials = membership.map(|membership| membership.credentials.clone()).unwrap_or_default();
    Ok(Some(Arc::new(rpc::ControllerClient::with(&addresses, &credentials)?)))
}

/// The GPUs, and what they tell unasked.
fn gpus(config: &AgentConfig, node_uid: &NodeUid) -> Result<(Arc<dyn GpuSource>, Option<GpuEvents>), Error> {
    let (source, events): (Arc<dyn GpuSource>, _) = match &config.gpus {
        GpuChoice::None => (Arc::new(NoGpus), None),
        GpuChoice::Auto | GpuChoice::Nvml => {
            let (gpus, events) = nvml(config)?;
            (Arc::new(gpus), Some(events))
        }
        GpuChoice::Sim { count, model } => {
            let spec = SimGpus::parse(&format!("{count}x{model}"))
                .map_err(|error| Error::new(ErrorKind::Invalid, format!("gpus: {error}")))?;
            (Arc::new(SimGpus::new(spec, &node_uid.0)), None)
        }
    };
    Ok((Labelled::over(source, config.labels.get("gpu_type")), events))
}

/// The driver is not asked yet: whether there is one is found out, and said, again and again.
fn nvml(config: &AgentConfig) -> Result<(NvmlGpus, GpuEvents), Error> {
    // Not by its path: after an upgrade another version may lie there, which speaks otherwise, or none.
    let mut options = NvmlOptions::new("/proc/self/exe".into());
    options.insist = config.gpus == GpuChoice::Nvml;
    options.library = config.nvml_library.clone().or(options.library);
    let gpus = NvmlGpus::with_events(options);
    gpus.map_err(|error| Error::internal(format!("starting the supervisor of the GPU worker: {error}")))
}
