//! The other end of a connection, for whoever serves something else than gRPC on it.

use crate::domain::command::Error;
use crate::domain::principal::Principal;
use async_trait::async_trait;

/// Who calls, as far as the connection can tell. The rules are the same for every protocol of a port.
#[async_trait]
pub trait Caller: std::fmt::Debug + Send + Sync + 'static {
    /// The caller, who claims to be `claim`; an empty user is whoever the connection proves. `NotAllowed` if the
    /// caller may not speak as that, `Invalid` if nobody is claimed and the connection proves nobody.
    async fn admit(&self, claim: Principal) -> Result<Principal, Error>;

    /// What `who` asked for (`method` as gRPC names it) has been done to `object`, or refused: for the audit log.
    fn ended(&self, who: Option<&Principal>, method: &'static str, object: &str, error: Option<&Error>);

    /// Something proves who this is, and claims are held against it.
    fn is_proven(&self) -> bool;

    /// No browser can be at the other end.
    fn is_no_browser(&self) -> bool;

    /// What it is sent goes through TLS.
    fn is_encrypted(&self) -> bool;

    /// It is on another machine, and what it is sent can be read on the way, which nobody has allowed.
    fn is_overheard(&self) -> bool;
}
