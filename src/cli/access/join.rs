//! `wharf agent join`.

use super::args::JoinArgs;
use super::{endpoints_of, token_of};
use crate::cli::context::Context;
use crate::cli::exit_code::OK;
use crate::cli::fail::Failure;
use crate::config::{self, AgentConfig};
use crate::daemon;
use crate::domain::command::Error;
use serde_json::json;
use std::path::Path;

const USUAL_CONFIG: &str = "/etc/wharf/agent.toml";

pub async fn join(context: &Context, args: JoinArgs) -> Result<u8, Failure> {
    let usual = Path::new(USUAL_CONFIG);
    let file = args.config.as_deref().or_else(|| usual.exists().then_some(usual));
    let settings: AgentConfig = match file {
        Some(file) => config::load(file).map_err(Error::from)?,
        None => AgentConfig::default(),
    };
    let (controllers, token) = (endpoints_of(&args.address)?, token_of(&args.token)?);
    let joined = daemon::join(&settings, controllers, &token).await?;
    let file = joined.file.display().to_string();
    if context.json {
        let controllers: Vec<String> = joined.controllers.iter().map(ToString::to_string).collect();
        context.print_json(
            &json!({"node": joined.node, "cluster_id": joined.cluster_id, "controllers": controllers, "file": file}),
        )?;
    } else {
        context.print(&format!(
            "node {} belongs to cluster {} now ({file}); start the agent, or restart it: systemctl restart wharf-agent\n",
            joined.node, joined.cluster_id
        ))?;
    }
    Ok(OK)
}
