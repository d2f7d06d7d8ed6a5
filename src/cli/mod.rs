//! The command line: arguments in, calls on the two services, text or JSON out, an exit code at the end.

mod access;
mod args;
mod context;
mod demo;
mod doctor;
mod duration;
mod events;
mod exec;
mod fail;
mod faults;
mod gpu_worker;
mod job;
mod jobs;
mod logs;
mod node;
mod node_change;
mod node_check;
mod nodes;
mod output;
mod patience;
#[cfg(test)]
mod samples;
mod serve;
mod signals;
mod sim;
mod ssh;
mod store;
mod submit;
mod table;
mod terminal;
mod top;
mod validate;
mod wait;
mod whom;
mod xid;

pub use args::Cli;

use access::args::AgentCommand;
use args::{Command, FaultCommand, FaultsCommand, JobCommand};
use clap::{CommandFactory, Parser};
use context::Context;
use fail::Failure;

/// What a command ends with; see the table in `wharf --help`.
pub mod exit_code {
    pub const OK: u8 = 0;
    /// The job failed or was stopped (under `--wait`), or the operation was refused.
    pub const FAILED: u8 = 1;
    /// Bad usage, an invalid job file, or something named that does not exist.
    pub const USAGE: u8 = 2;
    /// The controller or agent was not reached in time.
    pub const UNREACHED: u8 = 3;
    pub const NOT_ALLOWED: u8 = 4;
    /// Ctrl-C: detached; nothing was stopped.
    pub const INTERRUPTED: u8 = 130;
    /// `exec`: the command could not be run.
    pub const EXEC_TRANSPORT: u8 = 255;
}

/// Parses `arguments` (with the program's name first), does what they say, and returns the exit code.
pub fn run(arguments: Vec<std::ffi::OsString>) -> u8 {
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return fail::usage(&error, json),
    };
    if let Command::Completion { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "wharf", &mut script);
        return fail::finish(output::write_all(&script), json);
    }
    if matches!(cli.command, Command::GpuWorker) {
        return fail::finish(gpu_worker::run(), json);
    }
    if matches!(cli.command, Command::GpuDeepCheck { .. }) {
        return fail::finish(gpu_worker::deep_check(), json);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("starting the runtime: {error}");
            return fail::finish(Err(Failure::from(crate::domain::command::Error::internal(message))), json);
        }
    };
    let result = runtime.block_on(dispatch(cli));
    // Blocking reads of a terminal cannot be cancelled; they end with the process.
    runtime.shutdown_background();
    fail::finish(result, json)
}

async fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let context = Context::new(&cli.global);
    match cli.command {
        Command::Submit(args) => submit::submit(&context, args).await,
        Command::Validate { file } => validate::validate(&context, &file).await,
        Command::Jobs { all, only_user } => jobs::list(&context, all, only_user).await,
        Command::Job { command: JobCommand::Show { job, run } } => job::show(&context, &job, run).await,
        Command::Job { command: JobCommand::Explain { job } } => job::explain(&context, &job).await,
        Command::Stop { job, grace } => job::stop(&context, &job, grace).await,
        Command::Logs(args) => logs::logs(&context, args).await,
        Command::Exec(args) => exec::exec(&context, args).await,
        Command::Ssh(args) => ssh::ssh(&context, args).await,
        Command::Nodes => nodes::nodes(&context).await,
        Command::Node { command } => node_change::change(&context, command).await,
        Command::Top => top::top(&context).await,
        Command::Gpus { node, agent } => nodes::gpus(&context, node, agent).await,
        Command::Faults { command: Some(FaultsCommand::Scan { file, table }), .. } => {
            faults::scan(&context, file, table).await
        }
        Command::Faults { node, all, command: None } => faults::list(&context, node, all).await,
        Command::Fault { command: FaultCommand::Show { id, node } } => faults::show(&context, id, node).await,
        Command::Fault { command: FaultCommand::Clear { id, node } } => faults::clear(&context, id, node).await,
        Command::Xid { code, table } => xid::xid(&context, code, &table),
        Command::Events(args) => events::events(&context, args).await,
        Command::Doctor(args) => doctor::doctor(&context, args).await,
        Command::Demo(args) => demo::demo(&context, args).await,
        Command::Dev(args) => serve::dev(&context, args).await,
        Command::Controller { config, insecure } => serve::controller(&context, &config, insecure).await,
        Command::Agent { command: Some(AgentCommand::Join(args)), .. } => access::join(&context, args).await,
        Command::Token { command } => access::token(&context, command).await,
        Command::Login(args) => access::login(&context, args).await,
        Command::Logout => access::logout(&context),
        Command::Whoami => access::whoami(&context).await,
        Command::Agent { config, insecure, command: None } => serve::agent(&context, &config, insecure).await,
        Command::Sim(args) => sim::sim(&context, args).await,
        Command::Store { command } => store::store(&context, command).await,
        Command::Completion { .. } | Command::GpuWorker | Command::GpuDeepCheck { .. } => Ok(exit_code::OK),
    }
}
