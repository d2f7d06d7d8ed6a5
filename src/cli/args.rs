//! Every command and flag, once: help and shell completion come from here.

use super::access::args::{AgentCommand, LoginArgs, TokenCommand};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Paragraphs of one line each: they are wrapped to the terminal.
const EXIT_CODES: &str = concat!(
    "Exit codes: 0 ok; 1 the job failed or was stopped under --wait, or the operation was refused; 2 bad usage, an ",
    "invalid job file or an unknown name; 3 the controller or agent was not reached in time; 4 not allowed; 130 ",
    "after Ctrl-C, which detaches and never stops a job; exec passes the command's code, or 255.\n\n",
    "JOB is a job id, a name of yours, or USER/NAME."
);

const EXEC_HELP: &str = concat!(
    "The exit code is the command's (128 + N for signal N), or 255 when the controller or agent was not reached or ",
    "the connection broke. With --json every piece of output is an object with 'stream' and 'text' (or 'base64'), ",
    "and the last object has 'exit_code'.\n\n",
    "Without --tty, SIGINT, SIGTERM and SIGHUP are passed on to the command; the second one, or ten seconds, end ",
    "the wait for it. A command that nobody waits for gets SIGHUP and two seconds later SIGKILL. With --tty keys ",
    "such as Ctrl-C go to the terminal there.\n\n",
    "Examples:\n  wharf exec train-7 --role worker --index 0 -- nvidia-smi\n  wharf exec train-7 --tty -- bash"
);

const SSH_HELP: &str = concat!(
    "Where the image has an ssh server, the local ssh talks to it through the agent: no port has to be open. Where it ",
    "has none, for plain processes, and without a local ssh, the session goes through 'wharf exec'. The task's ",
    "variables are set in either. The exit code is the command's, or 255 when the connection broke.\n\n",
    "--config prints host entries ROLE-INDEX for ssh -F, scp, rsync, editors and port forwarding; the job's key is ",
    "left in a folder of yours that the first line names.\n\n",
    "Examples:\n  wharf ssh train-7 --role worker --index 0\n  wharf ssh train-7 -- nvidia-smi\n  ",
    "wharf ssh train-7 --config > train-7.conf; ssh -F train-7.conf -L 8888:localhost:8888 worker-0"
);

const SIM_HELP: &str = concat!(
    "A trace is a file with a header: submit_s,duration_s,tasks,gpus,cpus,memory_mb and, if wanted, ",
    "priority,gpu_type,user. gpus, cpus and memory_mb are of one task; lines are sorted by submit_s. 'synthetic' makes ",
    "one from the seed: most jobs with one GPU, few huge, durations with a heavy tail, more by day.\n\n",
    "The same arguments give the same outcome. With --json it is the object 'simulation', with one object for each policy; ",
    "'speed' says how fast this machine was.\n\n",
    "Examples:\n  wharf sim --nodes 100 --gpus 8 --trace synthetic --seed 1 --compare\n",
    "  wharf sim --nodes 40,10 --gpus 8xA100,4xT4 --trace jobs.csv --faults 0.01"
);

const SCAN_HELP: &str = concat!(
    "Lines may be those of dmesg (plain, -T, -x or with ISO times), of a journal or syslog, of /dev/kmsg, or bare. What ",
    "is seen again is counted, and what follows from a fault belongs to it. Times without a zone are taken for UTC; ",
    "+12.5 s counts from the boot. With --json one object for each fault, with its evidence word for word.\n\n",
    "Examples:\n  dmesg -T | wharf faults scan -\n  journalctl -k -b -1 -o short-iso | wharf faults scan --json -\n",
    "  wharf faults scan /var/log/kern.log"
);

/// Runs GPU jobs on a fleet of machines.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Controllers to ask, in turn: HOST:PORT or unix:PATH, separated by commas
    /// (default: where 'wharf login' was, else a controller of this machine)
    #[arg(long, global = true, env = "WHARF_CONTROLLER", value_name = "ADDR")]
    pub controller: Option<String>,
    /// Act as this user (default: who is logged in)
    #[arg(long = "as-user", global = true, env = "WHARF_USER", value_name = "USER")]
    pub as_user: Option<String>,
    /// Print JSON: one object, an array for a list, one object per line for a stream
    #[arg(long, global = true)]
    pub json: bool,
    /// Never colour the output
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show wharf at work: a controller and a node in this process run a job
    #[command(after_help = "Example:\n  wharf demo --gpus sim:8xH100")]
    Demo(DemoArgs),
    /// Run a controller and an agent in one process
    #[command(after_help = "Example:\n  wharf dev --data-dir ./state --gpus sim:8xH100")]
    Dev(DevArgs),
    /// Run the controller
    #[command(after_help = "Example:\n  wharf controller --config /etc/wharf/controller.toml")]
    Controller {
        /// Settings, in TOML
        #[arg(long, value_name = "FILE", default_value = "/etc/wharf/controller.toml")]
        config: PathBuf,
        /// Allow listeners that others can reach, without TLS and tokens
        #[arg(long)]
        insecure: bool,
    },
    /// Run the agent of this machine, or make this machine a node
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  wharf agent join controller.example:7600 TOKEN\n  wharf agent --config /etc/wharf/agent.toml"
    )]
    Agent {
        /// Settings, in TOML
        #[arg(long, value_name = "FILE", default_value = "/etc/wharf/agent.toml")]
        config: PathBuf,
        /// Allow listeners that others can reach, without TLS and tokens
        #[arg(long)]
        insecure: bool,
        #[command(subcommand)]
        command: Option<AgentCommand>,
    },
    /// Make, list and end tokens, by which people are known and machines join
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Keep a token for a controller, so that commands need not name either
    #[command(after_help = "Example:\n  wharf login controller.example:7600")]
    Login(LoginArgs),
    /// Forget the token that was kept
    #[command(after_help = "Example:\n  wharf logout")]
    Logout,
    /// Say who the controller takes you for
    #[command(after_help = "Example:\n  wharf whoami")]
    Whoami,
    /// Submit a job
    #[command(
        after_help = "Examples:\n  wharf submit job.json\n  wharf submit --wait --follow job.json\n  generate-job | wharf submit -"
    )]
    Submit(SubmitArgs),
    /// Check a job file without submitting it
    #[command(after_help = "Example:\n  wharf validate job.json")]
    Validate {
        /// Job file, or - for standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// List jobs
    #[command(after_help = "Example:\n  wharf jobs --all --user alice")]
    Jobs {
        /// Ended jobs too
        #[arg(long)]
        all: bool,
        /// Only this user's
        #[arg(long = "user", value_name = "USER")]
        only_user: Option<String>,
    },
    /// Look at one job
    #[command(after_help = "Examples:\n  wharf job show train-7\n  wharf job explain train-7")]
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Stop a job
    #[command(after_help = "Example:\n  wharf stop --grace 30 train-7")]
    Stop {
        /// Job id, a name of yours, or USER/NAME
        job: String,
        /// Seconds between SIGTERM and SIGKILL (default 10)
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
        grace: Option<u64>,
    },
    /// Print what a job's tasks wrote
    #[command(
        after_help = "Examples:\n  wharf logs train-7 --follow\n  wharf logs 42 --role worker --index 3 --stream stderr --tail 50"
    )]
    Logs(LogsArgs),
    /// Run a command beside a task, in its environment and limits
    #[command(after_help = EXEC_HELP)]
    Exec(ExecArgs),
    /// Open a session beside a task, by ssh where its image has an ssh server
    #[command(after_help = SSH_HELP)]
    Ssh(SshArgs),
    /// List nodes
    #[command(after_help = "Example:\n  wharf nodes --json")]
    Nodes,
    /// Look at one node, close it, empty it, forget it
    #[command(after_help = "Examples:\n  wharf node show gpu-03\n  wharf node drain gpu-03 --deadline 2h --wait")]
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Watch GPUs and jobs live
    #[command(
        after_help = "Keys: q leaves; arrows, PgUp and PgDn scroll. With --json one object a second.\n\nExample:\n  wharf top"
    )]
    Top,
    /// List GPUs and who holds them
    #[command(after_help = "Examples:\n  wharf gpus --node gpu-03\n  wharf gpus --agent 127.0.0.1:7601")]
    Gpus {
        /// Only this node's
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Ask this agent instead of the controller
        #[arg(long, value_name = "ADDR", env = "WHARF_AGENT", conflicts_with = "node")]
        agent: Option<String>,
    },
    /// List the hardware faults of all nodes
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  wharf faults\n  wharf faults --node gpu-03 --all --json\n  dmesg | wharf faults scan -"
    )]
    Faults {
        /// Only this node's
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Those that are over too
        #[arg(long)]
        all: bool,
        #[command(subcommand)]
        command: Option<FaultsCommand>,
    },
    /// Show or decide about one hardware fault
    #[command(after_help = "Examples:\n  wharf fault show 4837120001\n  wharf fault clear 4837120001")]
    Fault {
        #[command(subcommand)]
        command: FaultCommand,
    },
    /// Say what an Xid (of a GPU) or SXid (of an NVSwitch) means and what to do
    #[command(after_help = "Examples:\n  wharf xid 79\n  wharf xid 20034 --json")]
    Xid {
        /// The number that the driver gives, as in 'NVRM: Xid (PCI:0000:9b:00): 79'
        code: u32,
        #[command(flatten)]
        table: TableArgs,
    },
    /// Print what happened to jobs, tasks and nodes
    #[command(after_help = "Example:\n  wharf events --follow --job train-7")]
    Events(EventsArgs),
    /// Look whether what commands need is there, or show what every end of a job leads to
    #[command(after_help = "Examples:\n  wharf doctor\n  wharf doctor --exits --json")]
    Doctor(DoctorArgs),
    /// Simulate a cluster: how long jobs would wait, and how busy its GPUs would be
    #[command(after_help = SIM_HELP)]
    Sim(SimArgs),
    /// Save, restore or move the controller's state
    #[command(after_help = "Example:\n  wharf store backup /var/backups/wharf-$(date +%F)")]
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Print a completion script
    #[command(after_help = "Example:\n  wharf completion bash > /etc/bash_completion.d/wharf")]
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Ask NVML for the agent, which starts this by itself
    #[command(hide = true, after_help = "Example:\n  wharf agent")]
    GpuWorker,
    /// Test a GPU's memory for the agent, which starts this by itself
    #[command(hide = true, after_help = "Example:\n  wharf node check gpu-03 --deep")]
    GpuDeepCheck {
        /// Its UUID
        gpu: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Show one fault: what and where, since when, whose doing, what to do, whom it hit, and what became of them
    #[command(after_help = "Examples:\n  wharf fault show 4837120001\n  wharf fault show 4837120001 --json")]
    Show {
        /// As 'wharf faults' shows it
        id: u64,
        /// Whose, where two nodes have that id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Say that a fault is over: what it took out of use can be used again
    #[command(after_help = "Example:\n  wharf fault clear 4837120001")]
    Clear {
        /// As 'wharf faults' shows it
        id: u64,
        /// Whose, where two nodes have that id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum FaultsCommand {
    /// Find the hardware faults in a kernel log, without a controller or agent
    #[command(after_help = SCAN_HELP)]
    Scan {
        /// What dmesg or journalctl has written, /dev/kmsg, or - for standard input
        #[arg(value_name = "FILE")]
        file: String,
        #[command(flatten)]
        table: TableArgs,
    },
}

/// What codes mean.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// Rows in TOML that replace ours, as 'xid.109 = { action = "none" }'
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Show a job with its runs and tasks
    #[command(after_help = "Example:\n  wharf job show train-7 --run -1")]
    Show {
        /// Job id, a name of yours, or USER/NAME
        job: String,
        /// A run id, or -1 for the previous run
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        run: Option<i64>,
    },
    /// Say why a job waits, or how it ended
    #[command(after_help = "Example:\n  wharf job explain train-7")]
    Explain {
        /// Job id, a name of yours, or USER/NAME
        job: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Save everything at one moment, while the controller goes on
    #[command(
        after_help = "Examples:\n  wharf store backup /var/backups/wharf-$(date +%F)\n  wharf store backup --store etcd:127.0.0.1:2379 saved"
    )]
    Backup {
        /// File to write; one that is there is not overwritten
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        at: StoreArgs,
    },
    /// Put a backup into a store that no controller uses
    #[command(after_help = "Example:\n  wharf store restore --replace /var/backups/wharf-2026-11-22")]
    Restore {
        /// What 'wharf store backup' has written
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Delete what the store holds
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        at: StoreArgs,
    },
    /// Give up what is sealed in a store that no controller uses, when its cluster/seal.key is lost
    #[command(
        after_help = "Jobs lose their secret variables and SSH keys; the next start of a controller makes another key. Tasks that \
                      run keep what they have.\n\nExample:\n  wharf store forget-secrets --store sqlite:/var/lib/wharf/controller"
    )]
    ForgetSecrets {
        #[command(flatten)]
        at: StoreArgs,
    },
    /// Put everything of one store into another and give the first one up
    #[command(
        after_help = "Example:\n  wharf store move --from sqlite:/var/lib/wharf/controller --to etcd:127.0.0.1:2379"
    )]
    Move {
        /// sqlite:DIR or etcd:HOST:PORT,..., with /PREFIX/ behind it where it is not /wharf/
        #[arg(long, value_name = "STORE")]
        from: String,
        /// sqlite:DIR or etcd:HOST:PORT,..., with /PREFIX/ behind it where it is not /wharf/
        #[arg(long, value_name = "STORE")]
        to: String,
        /// Delete what the second store holds
        #[arg(long)]
        replace: bool,
        /// The controller's settings, whose table etcd says how its TLS is
        #[arg(long, value_name = "FILE", default_value = "/etc/wharf/controller.toml")]
        config: PathBuf,
        /// Allow an etcd on other machines, without TLS
        #[arg(long)]
        insecure: bool,
    },
}

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// sqlite:DIR or etcd:HOST:PORT,..., with /PREFIX/ behind it where it is not /wharf/ (default: what the controller's settings say)
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// The controller's settings
    #[arg(long, value_name = "FILE", default_value = "/etc/wharf/controller.toml")]
    pub config: PathBuf,
    /// Allow an etcd on other machines, without TLS
    #[arg(long)]
    pub insecure: bool,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show a node with its GPUs and the tasks on it
    #[command(after_help = "Example:\n  wharf node show gpu-03")]
    Show {
        /// The node's name
        node: String,
    },
    /// Place nothing more on a node; what runs there goes on
    #[command(after_help = "Example:\n  wharf node cordon gpu-03 --reason 'fan 2 is loud'")]
    Cordon {
        /// The node's name
        node: String,
        /// Why, for those who look
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let a node take tasks again; ends a drain
    #[command(after_help = "Example:\n  wharf node uncordon gpu-03")]
    Uncordon {
        /// The node's name
        node: String,
    },
    /// Empty a node: place nothing more there, and let what runs end or move it
    #[command(after_help = "Example:\n  wharf node drain gpu-03 --reason 'new driver' --deadline 2h --wait")]
    Drain {
        /// The node's name
        node: String,
        /// Why, for those who look
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// After this long (90s, 15m, 2h, 1d) stop what still runs there and run it elsewhere, uncounted
        #[arg(long, value_name = "DURATION")]
        deadline: Option<String>,
        /// Wait until nothing is held there
        #[arg(long)]
        wait: bool,
    },
    /// Look at the GPUs of a node now: what was looked at, found and allowed
    #[command(
        after_help = "Examples:\n  wharf node check gpu-03\n  wharf node check gpu-03 --gpus 0,1 --deep --json"
    )]
    Check {
        /// The node's name
        node: String,
        /// Only these, by index or UUID
        #[arg(long, value_name = "GPU", value_delimiter = ',')]
        gpus: Vec<String>,
        /// Write a pattern to their memory and read it back; refused for GPUs that tasks hold
        #[arg(long)]
        deep: bool,
    },
    /// Forget a node; an agent that comes back joins anew
    #[command(after_help = "Example:\n  wharf node remove gpu-03")]
    Remove {
        /// The node's name
        node: String,
        /// Also while it may hold tasks: they are taken for dead and run again elsewhere
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Job file (OpenPAI JSON), or - for standard input
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Submit as this user
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Wait for the end; exit 1 unless the job succeeded
    #[arg(long)]
    pub wait: bool,
    /// Print the output as it comes
    #[arg(long)]
    pub follow: bool,
    /// Submitting again with the same id submits nothing and gives the same answer
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Check everything, on the controller too, and submit nothing
    #[arg(long, conflicts_with_all = ["wait", "follow"])]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct TaskArgs {
    /// Only tasks of this role
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Only the task of this index in its role
    #[arg(long, value_name = "N")]
    pub index: Option<u32>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Job id, a name of yours, or USER/NAME
    pub job: String,
    #[command(flatten)]
    pub task: TaskArgs,
    /// A run id, or -1 for the previous run
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub run: Option<i64>,
    /// Only what was written to one stream
    #[arg(long, value_enum, default_value_t = StreamArg::All)]
    pub stream: StreamArg,
    /// Go on until the job has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Only output since a time (RFC 3339) or for a duration (90s, 15m, 2h, 1d)
    #[arg(long, value_name = "T")]
    pub since: Option<String>,
    /// Resume after this cursor; one per task, separated by commas
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Only the last N lines of each task
    #[arg(long, value_name = "N")]
    pub tail: Option<u32>,
    /// Put the time before every line
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StreamArg {
    Stdout,
    Stderr,
    All,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Job id, a name of yours, or USER/NAME
    pub job: String,
    #[command(flatten)]
    pub task: TaskArgs,
    /// Allocate a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Accepted for those who type -it: input is always passed on
    #[arg(long, short = 'i', hide = true)]
    pub interactive: bool,
    /// Set a variable for the command, over the task's own; may be repeated
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Start in this folder (default: where the task's command started)
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<String>,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SshArgs {
    /// Job id, a name of yours, or USER/NAME
    pub job: String,
    #[command(flatten)]
    pub task: TaskArgs,
    /// A run id, or -1 for the previous run
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub run: Option<i64>,
    /// Print a configuration for ssh -F instead
    #[arg(long, conflicts_with_all = ["command", "tty", "stdio"])]
    pub config: bool,
    /// Allocate a terminal for a command too
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Be the ProxyCommand of an ssh
    #[arg(long, hide = true, conflicts_with = "command")]
    pub stdio: bool,
    /// Command and its arguments (default: a shell)
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is expected".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the table of ends: whose doing each is, and what retryCount makes of it
    #[arg(long)]
    pub exits: bool,
    /// The agent of this machine
    #[arg(long, value_name = "ADDR", env = "WHARF_AGENT", default_value = "unix:/run/wharf/agent.sock")]
    pub agent: String,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens
    #[arg(long, short)]
    pub follow: bool,
    /// Only of this job
    #[arg(long, value_name = "JOB")]
    pub job: Option<String>,
    /// Only of this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only events after this sequence number
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
}

#[derive(Debug, Args)]
pub struct SimArgs {
    /// Nodes, or those of each kind: 40,10
    #[arg(long, value_name = "N", default_value = "100")]
    pub nodes: String,
    /// GPUs of each node, with their type if wanted; or for each kind of node: 8xA100,4xT4
    #[arg(long, value_name = "M", default_value = "8")]
    pub gpus: String,
    /// CPUs of each node (default: 12 for each GPU; 96 without GPUs)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub cpus: Option<u32>,
    /// Memory of each node (default: 8000 MB for each CPU)
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_099_511_627_776))]
    pub memory_mb: Option<u64>,
    /// What is submitted when: a CSV file, or synthetic
    #[arg(long, value_name = "FILE", default_value = "synthetic")]
    pub trace: String,
    /// What chance comes from: one seed, one outcome
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Jobs of the synthetic trace
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub jobs: u64,
    /// Load of the synthetic trace: GPUs asked for, over time, by those of the cluster
    #[arg(long, value_name = "L", default_value_t = 0.9)]
    pub load: f64,
    /// Who may pass whom: the product's order, or plain first in, first out
    #[arg(long, value_enum, default_value_t = PolicyArg::Wharf, conflicts_with = "compare")]
    pub policy: PolicyArg,
    /// Run the trace under both policies, and print what that changes
    #[arg(long)]
    pub compare: bool,
    /// Tasks that fail, prepares that are vetoed, and times a day that a node goes down: 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    pub faults: f64,
    /// Compare every decision with what may be, and stop at a mistake
    #[arg(long)]
    pub checks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PolicyArg {
    Wharf,
    Fifo,
}

/// What `dev` and `demo` share.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// auto, nvml, sim:COUNTxMODEL or none
    #[arg(long, default_value = "auto", value_name = "GPUS")]
    pub gpus: String,
    /// auto, docker or process
    #[arg(long, default_value = "auto", value_name = "RUNTIME")]
    pub runtime: String,
    /// CPUs to hand out (default: all)
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory to hand out (default: all)
    #[arg(long, value_name = "MB")]
    pub memory_mb: Option<u64>,
}

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where the state is kept; it survives a restart
    #[arg(long, value_name = "DIR", default_value = "wharf-dev")]
    pub data_dir: PathBuf,
    /// Where the controller listens: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7600")]
    pub listen: String,
    /// Where the agent listens: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7601")]
    pub agent_listen: String,
    #[command(flatten)]
    pub node: NodeArgs,
    /// Allow listeners that others can reach, without TLS and tokens
    #[arg(long)]
    pub insecure: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Keep the state in this folder instead of one that is deleted at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_explained() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            if command.has_subcommands() {
                command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(check);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("wharf "), "'{}' has no example in its help", command.get_name());
            }
        }
        check(&Cli::command());
    }
}
