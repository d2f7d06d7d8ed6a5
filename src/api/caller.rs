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

    /// The connection names an account of this machine, and claims are held against it.
    fn is_proven(&self) -> bool;
}
