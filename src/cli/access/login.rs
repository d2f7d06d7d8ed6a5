//! `wharf login` and `logout`: whom to ask and what proves who asks, in a file of the user's own.

use super::args::LoginArgs;
use super::{endpoints_of, token_of};
use crate::api::ControllerApi;
use crate::cli::context::Context;
use crate::cli::exit_code::OK;
use crate::cli::fail::{Failure, bad_usage};
use crate::domain::access::token::Token;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::principal::Principal;
use crate::rpc::{ControllerClient, Credentials};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What `wharf login` has stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub controllers: Vec<String>,
    pub token: String,
}

impl Login {
    /// None where nobody has logged in.
    pub fn load() -> Result<Option<Self>, Error> {
        let Some(path) = path() else { return Ok(None) };
        let wrong = |why: String| {
            let advice = "'wharf login ADDR' writes it anew, 'wharf logout' deletes it";
            Error::new(ErrorKind::Invalid, format!("{}: {why}; {advice}", path.display()))
        };
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        serde_json::from_str(&text).map(Some).map_err(|_| wrong("is not what 'wharf login' writes".to_owned()))
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let draft = folder.join(format!(".login.{}", std::process::id()));
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        let written = file
            .write_all(serde_json::to_string_pretty(self).map_err(io::Error::other)?.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// Only what nobody else could have read or written.
fn read(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "others may read it (its mode should be 0600): revoke its token, and log in again",
        ));
    }
    io::read_to_string(file)
}

fn path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("wharf/login.json"))
}

pub async fn login(context: &Context, args: LoginArgs) -> Result<u8, Failure> {
    let path = path().ok_or_else(|| bad_usage("neither HOME nor XDG_CONFIG_HOME says where to keep the login"))?;
    let controllers: Vec<String> = endpoints_of(&args.address)?.iter().map(ToString::to_string).collect();
    let token: Token = token_of(&args.token)?;
    let client = ControllerClient::with(&controllers, &Credentials::of_token(&token)?)?;
    // Whoever the token says.
    let nobody = Principal { user: String::new(), uid: None, roles: Vec::new() };
    let (who, cluster_id) = client.who_am_i(&nobody).await?;
    let kept = Login { controllers, token: token.to_string() }.save(&path);
    kept.map_err(|error| Error::new(ErrorKind::Refused, format!("writing {}: {error}", path.display())))?;
    let roles: Vec<&str> = who.roles.iter().map(|role| role.as_str()).collect();
    if context.json {
        context.print_json(&json!({"user": who.user, "roles": roles, "cluster_id": cluster_id}))?;
    } else {
        context.print(&format!("logged in as {} ({}); kept in {}\n", who.user, roles.join(", "), path.display()))?;
    }
    Ok(OK)
}

pub fn logout(context: &Context) -> Result<u8, Failure> {
    let removed = match path().map(fs::remove_file) {
        Some(Ok(())) => true,
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::Refused, format!("deleting the login: {error}")).into());
        }
        _ => false,
    };
    if context.json {
        context.print_json(&json!({"was_logged_in": removed}))?;
    } else if removed {
        context.print("logged out; the token itself is valid until 'wharf token revoke'\n")?;
    } else {
        context.print("nobody was logged in\n")?;
    }
    Ok(OK)
}
