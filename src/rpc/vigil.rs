//! Looks again and again whether a caller may still make the call that it made: streams outlast tokens and certificates.

use super::admission::{Admission, Asked};
use super::peer::Peer;
use crate::domain::command::ErrorKind;
use crate::domain::principal::Principal;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);

/// Ends when the caller may not go on; dropping it ends the looking.
pub(super) struct Vigil {
    pub(super) over: Pin<Box<WaitForCancellationFutureOwned>>,
    _watched: DropGuard,
}

impl Vigil {
    /// None where what proves the caller cannot end: an account of this machine, or a claim that is believed.
    pub(super) fn over(admission: Arc<Admission>, asked: Asked, principal: Principal) -> Option<Self> {
        let can_end = asked.bearer.is_some() || matches!(asked.peer, Peer::Tls { .. });
        if !can_end || admission.security.keeper.is_none() {
            return None;
        }
        let (over, watched) = (CancellationToken::new(), CancellationToken::new());
        let (ends, unwatched) = (over.clone(), watched.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = unwatched.cancelled() => return,
                    () = tokio::time::sleep(PERIOD) => {}
                }
                let again = admission.admit(&asked, principal.clone(), "principal").await;
                // Whoever cannot be asked now is asked again.
                if again.is_err_and(|error| error.kind == ErrorKind::NotAllowed) {
                    return ends.cancel();
                }
            }
        });
        Some(Self { over: Box::pin(over.cancelled_owned()), _watched: watched.drop_guard() })
    }
}
