//! Which user a task runs as. The agent resolves names to numbers here; the shim gets numbers only.
//! Blocking: user databases may sit behind a network.

use crate::runtime::rights::Rights;
use nix::unistd::{Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::path::PathBuf;

/// Whose rights a task has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RunAs {
    /// The user that the agent runs as.
    #[default]
    AgentUser,
    /// The job's user, by name, as this machine knows it.
    Submitter,
    /// One user for all tasks.
    User(String),
}

/// A user as the kernel wants it, and what a login would put into the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

impl Account {
    pub fn rights(&self) -> Rights {
        Rights { uid: self.uid, gid: self.gid, groups: self.groups.clone() }
    }
}

/// Why no account was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error(
        "user: this node has no user '{0}', and its tasks run as their submitter; allowed are users that 'getent \
         passwd' lists"
    )]
    Unknown(String),
    #[error("run_as: the configured user '{0}' is not known on this node")]
    ConfiguredUnknown(String),
    #[error("run_as: the agent runs as uid {agent} and cannot run a task as '{name}'; only root can")]
    NotPermitted { agent: u32, name: String },
    #[error("looking up user '{name}': {message}")]
    Lookup { name: String, message: String },
}

impl AccountError {
    /// The job names somebody who cannot be; another node of the same site would say the same.
    pub fn is_user_error(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Finds the account for a task of `submitter`.
pub fn resolve(run_as: &RunAs, submitter: &str) -> Result<Account, AccountError> {
    let (name, missing): (&str, fn(String) -> AccountError) = match run_as {
        RunAs::AgentUser => return own_account(),
        RunAs::Submitter => (submitter, AccountError::Unknown),
        RunAs::User(name) => (name, AccountError::ConfiguredUnknown),
    };
    let user = User::from_name(name).map_err(|error| lookup(name, error))?;
    let user = user.ok_or_else(|| missing(name.to_owned()))?;
    let agent = Uid::effective();
    if !agent.is_root() && agent != user.uid {
        return Err(AccountError::NotPermitted { agent: agent.as_raw(), name: name.to_owned() });
    }
    of(user)
}

/// The agent's own user; one without an entry in the user database still works.
fn own_account() -> Result<Account, AccountError> {
    let uid = Uid::effective();
    match User::from_uid(uid).map_err(|error| lookup(&uid.to_string(), error))? {
        Some(user) => of(user),
        None => Ok(Account {
            name: uid.to_string(),
            uid: uid.as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: nix::unistd::getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect(),
            home: PathBuf::from("/"),
            shell: PathBuf::from("/bin/sh"),
        }),
    }
}

fn of(user: User) -> Result<Account, AccountError> {
    let name = CString::new(user.name.as_bytes())
        .map_err(|error| AccountError::Lookup { name: user.name.clone(), message: error.to_string() })?;
    let groups = getgrouplist(&name, user.gid).map_err(|error| lookup(&user.name, error))?;
    Ok(Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
        home: user.dir,
        shell: user.shell,
    })
}

fn lookup(name: &str, error: nix::Error) -> AccountError {
    AccountError::Lookup { name: name.to_owned(), message: error.desc().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_submitter_is_the_users_mistake() {
        let error = resolve(&RunAs::Submitter, "no-such-user-here").unwrap_err();
        assert!(error.is_user_error());
        assert!(error.to_string().contains("'no-such-user-here'"), "{error}");
        let error = resolve(&RunAs::User("no-such-user-here".into()), "root").unwrap_err();
        assert!(!error.is_user_error(), "the operator's mistake: {error}");
    }

    #[test]
    fn the_agents_own_user_needs_no_rights() {
        let account = resolve(&RunAs::AgentUser, "no-such-user-here").unwrap();
        assert_eq!(account.uid, Uid::effective().as_raw());
    }

    #[test]
    fn root_may_run_as_anybody() {
        if !Uid::effective().is_root() {
            return;
        }
        let account = resolve(&RunAs::Submitter, "nobody").unwrap();
        assert_eq!(account.name, "nobody");
        assert!(account.uid != 0 && account.groups.contains(&account.gid));
    }
}
