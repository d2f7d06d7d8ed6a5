//! `wharf token create`, `list` and `revoke`.

use super::args::{CreateArgs, TokenCommand, TokenRole};
use crate::cli::context::Context;
use crate::cli::duration::duration;
use crate::cli::exit_code::OK;
use crate::cli::fail::Failure;
use crate::cli::table::{ago, now, paint, row, table, text};
use crate::domain::access::token::TokenId;
use crate::domain::access::{NewToken, TokenView};
use crate::domain::principal::Role;
use crate::domain::time::Timestamp;
use serde_json::{Value, json};

const DAY_S: u64 = 86_400;

pub async fn token(context: &Context, command: TokenCommand) -> Result<u8, Failure> {
    match command {
        TokenCommand::Create(args) => create(context, args).await,
        TokenCommand::List => list(context).await,
        TokenCommand::Revoke { id } => revoke(context, id).await,
    }
}

fn asked(args: CreateArgs) -> Result<NewToken, Failure> {
    let (role, usual) = match args.role {
        TokenRole::Agent => (Role::Agent, DAY_S),
        TokenRole::User => (Role::User, 90 * DAY_S),
        TokenRole::Operator => (Role::Operator, 90 * DAY_S),
        TokenRole::Admin => (Role::Admin, 90 * DAY_S),
    };
    let ttl_s = match args.ttl.as_deref() {
        None => Some(usual),
        Some("never") => None,
        Some(text) => Some(duration("--ttl", text)?.as_secs().max(1)),
    };
    Ok(NewToken { role, subject: args.user.or(args.node), ttl_s, uses: args.uses })
}

async fn create(context: &Context, args: CreateArgs) -> Result<u8, Failure> {
    let (view, token) = context.controller()?.create_token(&context.who, asked(args)?).await?;
    if context.json {
        let mut object = object(&view);
        object["token"] = json!(token.to_string());
        context.print_json(&object)?;
        return Ok(OK);
    }
    context.print(&format!("{token}\n"))?;
    let until =
        view.expires_at.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", at.to_rfc3339()));
    let whose = view.subject.as_deref().map_or_else(String::new, |subject| format!(" of {subject}"));
    let next = match view.role {
        Role::Agent => "on the machine: wharf agent join ADDR TOKEN",
        _ => "its user: wharf login ADDR",
    };
    context.remark(&format!("token {}{whose}, role {}, valid {until}; {next}", view.id, view.role.as_str()));
    Ok(OK)
}

async fn list(context: &Context) -> Result<u8, Failure> {
    let tokens = context.controller()?.list_tokens(&context.who).await?;
    if context.json {
        context.print_json(&tokens.iter().map(object).collect::<Vec<_>>())?;
        return Ok(OK);
    }
    let mut rows = table(["ID", "ROLE", "OF", "STATE", "AGE", "EXPIRES", "USES", "BY"]);
    for view in tokens {
        let expires = view.expires_at.map_or_else(|| "never".to_owned(), Timestamp::to_rfc3339);
        row(
            &mut rows,
            [
                view.id.to_string(),
                view.role.as_str().to_owned(),
                view.subject.clone().unwrap_or_else(|| "-".to_owned()),
                view.state(now()).as_str().to_owned(),
                ago(view.created_at),
                expires,
                view.uses_left.map_or_else(|| "-".to_owned(), |uses| uses.to_string()),
                view.created_by,
            ],
        );
    }
    context.print(&paint(text(&rows), context.color))?;
    Ok(OK)
}

async fn revoke(context: &Context, id: String) -> Result<u8, Failure> {
    let view = context.controller()?.revoke_token(&context.who, &TokenId(id)).await?;
    if context.json {
        context.print_json(&object(&view))?;
    } else {
        context.print(&format!("token {} is revoked\n", view.id))?;
    }
    Ok(OK)
}

fn object(view: &TokenView) -> Value {
    json!({
        "id": view.id,
        "role": view.role.as_str(),
        "of": view.subject,
        "state": view.state(now()).as_str(),
        "created_at": view.created_at.to_rfc3339(),
        "created_by": view.created_by,
        "expires_at": view.expires_at.map(Timestamp::to_rfc3339),
        "revoked_at": view.revoked_at.map(Timestamp::to_rfc3339),
        "uses_left": view.uses_left,
    })
}
