//! Arguments of what concerns who may call.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make this machine a node of a cluster: a key is made here, and certified by the controller
    #[command(
        after_help = "The token is one of 'wharf token create --role agent'. Joining again replaces what was before.\n\nExamples:\n  wharf agent join controller.example:7600 wharf1.0f3c...\n  wharf agent join controller.example:7600 - < token"
    )]
    Join(JoinArgs),
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Where the controllers listen: HOST:PORT, several separated by commas
    #[arg(value_name = "ADDR")]
    pub address: String,
    /// The token, or - to read it from standard input, where nobody sees it in a list of processes
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The agent's settings, of which the state directory and the node's name are used (default: /etc/wharf/agent.toml, if it
    /// is there)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, for the only time
    #[command(
        after_help = "A token of role agent lets machines join. The others are people's: user (own jobs), operator (nodes and every job's end), admin (everything).\n\nExamples:\n  wharf token create --role agent --uses 40\n  wharf token create --role user --user alice --ttl 30d"
    )]
    Create(CreateArgs),
    /// List tokens, never their secrets
    #[command(after_help = "Example:\n  wharf token list")]
    List,
    /// End a token at once
    #[command(after_help = "Example:\n  wharf token revoke 0f3c1122aabbccdd")]
    Revoke {
        /// Its id: the second part of the token
        id: String,
    },
}

/// Whom a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    Agent,
    User,
    Operator,
    Admin,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it may be used for
    #[arg(long)]
    pub role: TokenRole,
    /// Whose calls it makes
    #[arg(long, value_name = "USER", required_if_eq_any([("role", "user"), ("role", "operator"), ("role", "admin")]), conflicts_with_all = ["node", "uses"])]
    pub user: Option<String>,
    /// How long it is valid, such as 90m, 12h or 30d; 'never' has no end (default: 1d of role agent, else 90d)
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<String>,
    /// The one node that it lets join, also in the place of a machine that has the name
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// How many machines it lets join
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub uses: u32,
}

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Where the controllers listen: HOST:PORT, several separated by commas
    #[arg(value_name = "ADDR")]
    pub address: String,
    /// The token (default: it is asked for, or read from standard input)
    #[arg(value_name = "TOKEN", default_value = "-", hide_default_value = true)]
    pub token: String,
}
