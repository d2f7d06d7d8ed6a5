//! What every command needs: who asks, whom to ask, and how to print.

use super::access::Login;
use super::args::Global;
use super::fail::{Failure, bad_usage};
use super::output::write_all;
use crate::api::{AgentApi, ControllerApi};
use crate::config::CONTROLLER_SOCKET;
use crate::domain::access::token::Token;
use crate::domain::principal::{Principal, Role};
use crate::rpc::{self, Credentials};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
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
    addresses: Vec<String>,
    credentials: Credentials,
}

/// Where a controller of this machine listens on TCP, as long as its settings do not say otherwise.
const USUAL: &str = "127.0.0.1:7600";

impl Context {
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let login = Login::load()?;
        let addresses = addresses(global.controller.as_deref(), login.as_ref())?;
        let token = token(global.controller.is_some(), &addresses, login.as_ref())?;
        let credentials = token.as_ref().map(Credentials::of_token).transpose()?.unwrap_or_default();
        let plain = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !plain && !global.json && io::stdout().is_terminal();
        Ok(Self {
            who: principal(global.as_user.as_deref(), token.is_some()),
            json: global.json,
            controllers: addresses.join(","),
            named_user: global.as_user.clone(),
            color,
            color_allowed: !plain,
            silence_told: Arc::default(),
            addresses,
            credentials,
        })
    }

    /// The same for a controller of this process, as `demo` needs it.
    pub fn with_controller(&self, address: &str) -> Self {
        let context = self.with_addresses(vec![address.to_owned()]);
        let who = principal(self.named_user.as_deref(), false);
        Self { credentials: Credentials::default(), who, ..context }
    }

    /// The same for a caller who acts as `user`, where one is named.
    pub fn for_user(&self, user: Option<&str>) -> Self {
        let mut context = self.with_addresses(self.addresses.clone());
        if let Some(user) = user {
            context.who = principal(Some(user), false);
            context.named_user = Some(user.to_owned());
        }
        context
    }

    fn with_addresses(&self, addresses: Vec<String>) -> Self {
        Self {
            who: self.who.clone(),
            silence_told: self.silence_told.clone(),
            controllers: addresses.join(","),
            named_user: self.named_user.clone(),
            credentials: self.credentials.clone(),
            addresses,
            ..*self
        }
    }

    pub fn controller(&self) -> Result<Arc<dyn ControllerApi>, Failure> {
        Ok(Arc::new(rpc::ControllerClient::with(&self.addresses, &self.credentials)?))
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
            addresses: vec!["127.0.0.1:1".to_owned()],
            credentials: Credentials::default(),
        }
    }

    /// A remark beside the output, never part of it.
    pub fn remark(&self, text: &str) {
        let _ = writeln!(io::stderr(), "wharf: {text}");
    }
}

/// Whom to ask: who was named, or where the user has logged in, or a controller of this machine.
fn addresses(named: Option<&str>, login: Option<&Login>) -> Result<Vec<String>, Failure> {
    if let Some(named) = named {
        let addresses: Vec<String> =
            named.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if addresses.is_empty() {
            return Err(bad_usage("--controller names no address: HOST:PORT or unix:PATH is expected"));
        }
        return Ok(addresses);
    }
    let own =
        || if Path::new(CONTROLLER_SOCKET).exists() { format!("unix:{CONTROLLER_SOCKET}") } else { USUAL.to_owned() };
    Ok(login.map_or_else(|| vec![own()], |login| login.controllers.clone()))
}

/// What proves who asks: `WHARF_TOKEN`, or the login of these controllers. Nobody else is shown it.
fn token(is_named: bool, addresses: &[String], login: Option<&Login>) -> Result<Option<Token>, Failure> {
    let named = std::env::var("WHARF_TOKEN").ok().filter(|text| !text.is_empty());
    let kept = login.filter(|login| !is_named || addresses.iter().any(|address| login.controllers.contains(address)));
    let (text, from) = match (named, kept) {
        (Some(text), _) => (text, "WHARF_TOKEN"),
        (None, Some(login)) => (login.token.clone(), "the login"),
        (None, None) => return Ok(None),
    };
    text.parse().map(Some).map_err(|error| bad_usage(format!("{from}: {error}")))
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
