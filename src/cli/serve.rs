//! `wharf controller`, `wharf agent` and `wharf dev`: processes that stay until they are told to end.

use super::args::{DevArgs, NodeArgs};
use super::context::Context;
use super::exit_code::OK;
use super::fail::{Failure, bad_usage};
use crate::config::{self, AgentConfig, ControllerConfig, Endpoint, GpuChoice, PolicyTable, RuntimeChoice, Settings};
use crate::daemon::{self, AgentService, ControllerService, ServiceManager, start_agent, start_controller};
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::telemetry::{self, LogFormat};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio_util::sync::CancellationToken;

pub async fn controller(context: &Context, path: &Path, insecure: bool) -> Result<u8, Failure> {
    start_log(context)?;
    let mut settings: ControllerConfig = load(path)?;
    settings.insecure |= insecure;
    check(&settings)?;
    daemon::keep_out_of_dumps(false);
    let cancel = daemon::until_asked_to_end()?;
    start_controller(&settings, cancel).await?.join_informing(ServiceManager::from_environment()).await?;
    Ok(OK)
}

pub async fn agent(context: &Context, path: &Path, insecure: bool) -> Result<u8, Failure> {
    start_log(context)?;
    let mut settings: AgentConfig = load(path)?;
    settings.insecure |= insecure;
    check(&settings)?;
    daemon::keep_out_of_dumps(true);
    let cancel = daemon::until_asked_to_end()?;
    start_agent(&settings, cancel).await?.join_informing(ServiceManager::from_environment()).await?;
    Ok(OK)
}

pub async fn dev(context: &Context, args: DevArgs) -> Result<u8, Failure> {
    start_log(context)?;
    let data_dir = std::path::absolute(&args.data_dir)
        .map_err(|error| bad_usage(format!("--data-dir {}: {error}", args.data_dir.display())))?;
    daemon::keep_out_of_dumps(true);
    let cancel = daemon::until_asked_to_end()?;
    let listen = parse("--listen", &args.listen)?;
    let agent_listen = parse("--agent-listen", &args.agent_listen)?;
    let both = start_both(&data_dir, listen, agent_listen, &args.node, args.insecure, cancel).await?;
    context.remark(&format!(
        "controller on {}, agent on {}; try: wharf --controller {} nodes",
        both.controller.addresses.join(", "),
        both.agent.addresses.join(", "),
        both.controller.addresses[0],
    ));
    both.join().await?;
    Ok(OK)
}

/// A controller and the agent of this machine.
pub(super) struct Both {
    pub(super) controller: ControllerService,
    pub(super) agent: AgentService,
}

impl Both {
    pub(super) async fn join(self) -> Result<(), Error> {
        let (controller, agent) = tokio::join!(self.controller.join(), self.agent.join());
        controller.and(agent)
    }
}

/// Starts both with their state under `data_dir`.
pub(super) async fn start_both(
    data_dir: &Path,
    listen: Endpoint,
    agent_listen: Endpoint,
    node: &NodeArgs,
    insecure: bool,
    cancel: CancellationToken,
) -> Result<Both, Failure> {
    let settings = ControllerConfig {
        data_dir: data_dir.join("controller"),
        listen: vec![listen],
        insecure,
        own_account: true,
        // On a single node there is no other place for jobs without GPUs.
        kept_for_gpus_percent: 0,
        ..ControllerConfig::default()
    };
    let controller = start_controller(&settings, cancel.clone()).await?;
    let settings = AgentConfig {
        data_dir: data_dir.join("agent"),
        run_dir: data_dir.join("run"),
        controller: vec![parse("the controller's address", &controller.addresses[0])?],
        listen: vec![agent_listen],
        gpus: parse::<GpuChoice>("--gpus", &node.gpus)?,
        runtime: parse::<RuntimeChoice>("--runtime", &node.runtime)?,
        docker_socket: docker_socket(),
        kernel_log: kernel_log(&node.gpus),
        cpus: node.cpus,
        memory_mb: node.memory_mb,
        insecure,
        own_account: true,
        // Whoever starts it runs tasks as themselves, root as well.
        policy: PolicyTable { users: Some(vec!["0-4294967295".to_owned()]), ..PolicyTable::default() },
        ..AgentConfig::default()
    };
    let agent = start_agent(&settings, cancel).await?;
    Ok(Both { controller, agent })
}

/// What the kernel says is of real GPUs: simulated ones may have the same places.
fn kernel_log(gpus: &str) -> PathBuf {
    if matches!(gpus, "auto" | "nvml") { AgentConfig::default().kernel_log } else { PathBuf::new() }
}

/// dockerd's socket, as Docker's own command line would find it.
pub(super) fn docker_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let named = host.strip_prefix("unix://").filter(|path| path.starts_with('/'));
    named.map_or_else(|| AgentConfig::default().docker_socket, PathBuf::from)
}

/// Daemons log to standard error; colour only where a person looks.
fn start_log(context: &Context) -> Result<(), Failure> {
    let format = if context.json { LogFormat::Json } else { LogFormat::Text };
    let color = std::io::stderr().is_terminal() && context.color_allowed;
    telemetry::init(format, tracing::Level::INFO, color).map_err(|error| bad_usage(error.to_string()))
}

fn load<T: Settings>(path: &Path) -> Result<T, Failure> {
    config::load(path).map_err(|error| Failure::from(Error::from(error)))
}

/// What flags changed has to be as right as what the file said.
fn check<T: Settings>(settings: &T) -> Result<(), Failure> {
    let violations: Vec<Violation> = settings.check();
    if violations.is_empty() {
        return Ok(());
    }
    let message = format!("{} settings are wrong", violations.len());
    Err(Error { violations, ..Error::new(ErrorKind::Invalid, message) }.into())
}

pub(super) fn parse<T: FromStr>(flag: &str, text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| bad_usage(format!("{flag}: {error}")))
}
