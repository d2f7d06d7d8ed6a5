//! What keeps a daemon's port: TLS of the cluster's own authority, the account of whoever connects, or nothing.

use super::cluster::Folder;
use crate::config::ControllerConfig;
use crate::controller::{Certification, Revocations};
use crate::domain::command::Error;
use crate::domain::time::Timestamp;
use crate::rpc::tls::authority::OwnAuthority;
use crate::rpc::tls::client::ClientTls;
use crate::rpc::tls::of_node;
use crate::rpc::tls::server::Keyring;
use crate::rpc::{Credentials, Dialer, Plain, Security};
use crate::telemetry::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Of a controller's own certificate, which it makes itself whenever it likes.
const CONTROLLER_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Between two looks at whether it is time for the next: clocks are set, machines sleep.
const LOOK: Duration = Duration::from_secs(600);

/// How a controller knows its callers, and how it is known.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) security: Security,
    pub(super) credentials: Credentials,
    pub(super) certification: Option<Certification>,
}

/// What a connection without TLS counts for.
pub(super) const fn plain(insecure: bool, own_account: bool) -> Plain {
    match (insecure, own_account) {
        (true, _) => Plain::Believed,
        (false, true) => Plain::OwnAccount,
        (false, false) => Plain::Nobody,
    }
}

/// Whether this controller has a certificate authority.
pub(super) const fn has_authority(config: &ControllerConfig) -> bool {
    !config.insecure && !config.own_account
}

impl Guard {
    /// Without an authority.
    pub(super) fn open(config: &ControllerConfig) -> Self {
        let security = Security::plain(plain(config.insecure, config.own_account));
        Self { security, credentials: Credentials::default(), certification: None }
    }

    /// With one. Its own certificate is renewed until `cancel`.
    pub(super) fn of(
        authority: OwnAuthority,
        folder: &Folder,
        config: &ControllerConfig,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let authority = Arc::new(authority);
        let hosts = super::host::host_names();
        let keyring = Keyring::new(authority.controller(&hosts, SystemClock.now(), CONTROLLER_LIFE)?)?;
        let security = Security::plain(Plain::Nobody).with_tls(keyring.clone(), authority.certificate())?;
        let revocations = Revocations::at(folder.revocations());
        let revoked = revocations.clone();
        let is_revoked = move |name: &str, number| number <= revoked.revoked_up_to(|node| of_node(&node.0) == name);
        let tls = ClientTls::refusing(authority.certificate(), keyring.clone(), Arc::new(is_revoked))?;
        let credentials = Credentials::of_tls(tls);
        tokio::spawn(renew(keyring, authority.clone(), hosts, cancel));
        let life = Duration::from_secs(config.tls.node_life_s);
        let certification = Certification { authority, life, revocations };
        Ok(Self { security, credentials, certification: Some(certification) })
    }

    pub(super) fn dialer(&self) -> Dialer {
        Dialer::new(self.credentials.clone())
    }
}

async fn renew(keyring: Arc<Keyring>, authority: Arc<OwnAuthority>, hosts: Vec<String>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = SystemClock.now();
        // A clock that was set back would make it one of the future.
        let is_early = keyring.validity().is_some_and(|(start, _)| now < start);
        if !is_early && !is_due(keyring.validity().map(|(_, end)| end), CONTROLLER_LIFE, now) {
            continue;
        }
        let renewed =
            authority.controller(&hosts, now, CONTROLLER_LIFE).and_then(|identity| keyring.replace(identity));
        match renewed {
            Ok(()) => tracing::info!("the controller's certificate was renewed"),
            Err(error) => tracing::error!(%error, "the controller's certificate was not renewed"),
        }
    }
}

/// Half of its life is over; or it cannot be told.
pub(super) fn is_due(end: Option<Timestamp>, life: Duration, now: Timestamp) -> bool {
    end.is_none_or(|end| end.since(now) < life / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_at_half_of_their_life() {
        let (now, life) = (Timestamp(1_800_000_000_000_000_000), Duration::from_secs(100));
        for (left, due) in [(100, false), (50, false), (49, true), (0, true)] {
            assert_eq!(is_due(Some(now.plus(Duration::from_secs(left))), life, now), due, "{left}");
        }
        assert!(is_due(Some(Timestamp(0)), life, now) && is_due(None, life, now));
    }
}
