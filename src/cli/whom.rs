//! Whom a command asks, and what proves who asks.

use super::access::Login;
use crate::config::CONTROLLER_SOCKET;
use crate::domain::access::token::Token;
use crate::domain::command::{Error, ErrorKind};
use crate::rpc::{self, Credentials};
use std::path::Path;

/// Where a controller of this machine listens on TCP, as long as its settings do not say otherwise.
const USUAL: &str = "127.0.0.1:7600";

/// Controllers, and what they are shown.
#[derive(Debug, Clone, Default)]
pub struct Whom {
    pub addresses: Vec<String>,
    pub credentials: Credentials,
    /// The controller knows who asks by a token.
    pub has_token: bool,
    /// Nobody has said whom to ask.
    is_guessed: bool,
}

impl Whom {
    /// This one, shown nothing.
    pub fn at(address: &str) -> Self {
        Self { addresses: vec![address.to_owned()], ..Self::default() }
    }

    /// Who was named, or where the user has logged in, or a controller of this machine.
    pub fn find(named: Option<&str>) -> Result<Self, Error> {
        let login = Login::load()?;
        let (addresses, is_guessed) = match (named, &login) {
            (Some(named), _) => (listed(named)?, false),
            (None, Some(login)) => (login.controllers.clone(), false),
            (None, None) if Path::new(CONTROLLER_SOCKET).exists() => {
                (vec![format!("unix:{CONTROLLER_SOCKET}")], false)
            }
            (None, None) => (vec![USUAL.to_owned()], true),
        };
        let token = token(named.is_some(), &addresses, login.as_ref())?;
        let credentials = token.as_ref().map(Credentials::of_token).transpose()?.unwrap_or_default();
        Ok(Self { addresses, credentials, has_token: token.is_some(), is_guessed })
    }

    /// What is guessed has no TLS, so nothing proves whose port it is; but the kernel knows the account.
    pub fn check(&self) -> Result<(), Error> {
        if !self.is_guessed || self.has_token {
            return Ok(());
        }
        let account = USUAL.parse().ok().and_then(rpc::of_listener);
        match account.filter(|uid| *uid != 0 && *uid != nix::unistd::getuid().as_raw()) {
            None => Ok(()),
            Some(uid) => Err(Error::new(
                ErrorKind::NotAllowed,
                format!(
                    "what listens at {USUAL} belongs to the account {uid}, and nothing proves that it is a controller: name \
                     one with --controller unix:PATH, or 'wharf login ADDR'"
                ),
            )),
        }
    }
}

fn listed(named: &str) -> Result<Vec<String>, Error> {
    let parts = named.split(',').map(str::trim).filter(|part| !part.is_empty());
    let addresses: Vec<String> = parts.map(str::to_owned).collect();
    if addresses.is_empty() {
        let message = "--controller names no address: HOST:PORT or unix:PATH is expected";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(addresses)
}

/// `WHARF_TOKEN`, or the login of these controllers. Nobody else is shown it.
fn token(is_named: bool, addresses: &[String], login: Option<&Login>) -> Result<Option<Token>, Error> {
    let named = std::env::var("WHARF_TOKEN").ok().filter(|text| !text.is_empty());
    let kept = login.filter(|login| !is_named || addresses.iter().any(|address| login.controllers.contains(address)));
    let (text, from) = match (named, kept) {
        (Some(text), _) => (text, "WHARF_TOKEN"),
        (None, Some(login)) => (login.token.clone(), "the login"),
        (None, None) => return Ok(None),
    };
    let wrong = |error| Error::new(ErrorKind::Invalid, format!("{from}: {error}"));
    text.parse().map(Some).map_err(wrong)
}
