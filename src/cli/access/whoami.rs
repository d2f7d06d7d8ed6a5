//! `wharf whoami`.

use crate::cli::context::Context;
use crate::cli::exit_code::OK;
use crate::cli::fail::Failure;
use serde_json::json;

pub async fn whoami(context: &Context) -> Result<u8, Failure> {
    let (who, cluster_id) = context.controller()?.who_am_i(&context.who).await?;
    let roles: Vec<&str> = who.roles.iter().map(|role| role.as_str()).collect();
    if context.json {
        context.print_json(&json!({"user": who.user, "roles": roles, "cluster_id": cluster_id}))?;
    } else {
        context.print(&format!("{} ({}) at {}\n", who.user, roles.join(", "), context.controllers))?;
    }
    Ok(OK)
}
