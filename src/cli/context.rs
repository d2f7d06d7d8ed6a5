//! What every command needs: who asks, whom to ask, and how to print.

use super::args::Global;
use super::fail::Failure;
use super::output::write_all;
use super::whom::Whom;
use crate::api::{AgentApi, ControllerApi};
use crate::domain::command::Error;
use crate::domain::principal::{Principal, Role};
use crate::rpc;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The caller's side of a command.
#[derive(Debug)]
pub struct Context {
    pub who: Principal,
    pub json: bool,
    /// Colour words on stdout.
    pub color: bool,
    /// The controllers as they were named, for a program that we start.
    pub controllers: String,
    /// Whom the caller asked to be, for the same.
    pub named_user: Option<String>,
    /// Nobody asked for plain output.
    pub color_allowed: bool,
    /// It has been said that the controller does not answer; shared, so that many streams say it once.
    pub silence_told: Arc<AtomicBool>,
    whom: Whom,
    /// Why nobody can be asked.
    trouble: Option<Error>,
}

impl Context {
    pub fn new(global: &Global) -> Self {
        // Commands that ask nobody are not concerned.
        let (whom, trouble) = match Whom::find(global.controller.as_deref()) {
            Ok(whom) => (whom, None),
            Err(error) => (Whom::default(), Some(error)),
        };
        let plain = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !plain && !global.json && io::stdout().is_terminal();
        Self {
            who: principal(global.as_user.as_deref(), whom.has_token),
            json: global.json,
            controllers: whom.addresses.join(","),
            named_user: global.as_user.clone(),
            color,
            color_allowed: !plain,
            silence_told: Arc::default(),
            whom,
            trouble,
        }
    }

    /// The same for a controller of this process, as `demo` needs it.
    pub fn with_controller(&self, address: &str) -> Self {
        let whom = Whom::at(address);
        Self { who: principal(self.named_user.as_deref(), false), trouble: None, ..self.with(whom) }
    }

    /// The same for a caller who acts as `user`, where one is named.
    pub fn for_user(&self, user: Option<&str>) -> Self {
        let mut context = self.with(self.whom.clone());
        if let Some(user) = user {
            context.who = principal(Some(user), self.whom.has_token);
            context.named_user = Some(user.to_owned());
        }
        context
    }

    fn with(&self, whom: Whom) -> Self {
        Self {
            who: self.who.clone(),
            silence_told: self.silence_told.clone(),
            controllers: whom.addresses.join(","),
            named_user: self.named_user.clone(),
            trouble: self.trouble.clone(),
            whom,
            ..*self
        }
    }

    pub fn controller(&self) -> Result<Arc<dyn ControllerApi>, Failure> {
        if let Some(trouble) = &self.trouble {
            return Err(Failure::Error(trouble.clone()));
        }
        self.whom.check()?;
        Ok(Arc::new(rpc::ControllerClient::with(&self.whom.addresses, &self.whom.credentials)?))
    }

    pub fn agent(&self, address: &str) -> Result<Arc<dyn AgentApi>, Failure> {
        Ok(Arc::new(rpc::AgentClient::new(address)?))
    }

    /// One object, or a list as an array, on one line.
    pub fn print_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
        line.push(b'\n');
        write_all(&line)?;
        Ok(())
    }

    pub fn print(&self, text: &str) -> Result<(), Failure> {
        write_all(text.as_bytes())?;
        Ok(())
    }

    /// One that asks nobody.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        let who = Principal { user: "alice".to_owned(), uid: None, roles: vec![Role::User] };
        Self {
            who,
            json: false,
            controllers: "127.0.0.1:1".to_owned(),
            named_user: None,
            color: false,
            color_allowed: false,
            silence_told: Arc::default(),
            whom: Whom::at("127.0.0.1:1"),
            trouble: None,
        }
    }

    /// A remark beside the output, never part of it.
    pub fn remark(&self, text: &str) {
        let _ = writeln!(io::stderr(), "wharf: {text}");
    }
}

/// The caller: the user that was named, else whose the token is, else the one who is logged in here. Root is everything.
fn principal(named: Option<&str>, has_token: bool) -> Principal {
    let uid = nix::unistd::getuid();
    if has_token {
        // The controller knows whose it is.
        return Principal { user: named.unwrap_or_default().to_owned(), uid: None, roles: vec![Role::User] };
    }
    let login = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = named.map(str::to_owned).or_else(login).unwrap_or_else(|| format!("uid-{uid}"));
    let mut roles = vec![Role::User];
    if uid.is_root() && named.is_none() {
        roles.extend([Role::Operator, Role::Admin]);
    }
    Principal { user, uid: Some(uid.as_raw()), roles }
}
