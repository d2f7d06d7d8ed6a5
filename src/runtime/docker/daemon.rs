//! Asking dockerd: every question has a deadline and an error that names it. Says nothing about tasks.
//!
//! dockerd may not be there yet, may hang, may be replaced by another version at any time. So the client is made when
//! it is first needed, and agrees on a version with whoever answers, again after anything that looks like another dockerd.

use super::injection::EngineFacts;
use bollard::errors::Error as ClientError;
use bollard::{API_DEFAULT_VERSION, Docker};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// For questions that dockerd answers from memory.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// For agreeing on a version: one that does not answer this is not asked anything else.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// What it is and can changes with a restart, of which nobody tells.
const FACTS_AGE: Duration = Duration::from_secs(60);
/// The client's own limit on each request, in seconds. Longer than any of ours, which name what they are about.
const CLIENT_TIMEOUT_S: u64 = 3600;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DaemonError {
    /// It may or may not have done what was asked.
    #[error("dockerd does not answer ({operation} {object}): {message}")]
    NoAnswer { operation: &'static str, object: String, message: String },
    /// By an HTTP status.
    #[error("{operation} {object}: dockerd says: {message}")]
    Refused { operation: &'static str, object: String, status: u16, message: String },
    #[error("{operation} {object}: {message}")]
    Broken { operation: &'static str, object: String, message: String },
}

impl DaemonError {
    /// What was asked about is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

impl From<DaemonError> for std::io::Error {
    fn from(error: DaemonError) -> Self {
        Self::other(error)
    }
}

/// The dockerd of one socket. Clones are one.
#[derive(Debug, Clone)]
pub struct Daemon(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    /// From when the socket is first there. Its version only ever falls, for all of its clones.
    client: OnceLock<Docker>,
    /// What answered; unknown until it has, and after anything that looks like another one.
    engine: Mutex<Option<(EngineFacts, Instant)>>,
}

impl Daemon {
    /// Connects to nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Shared { socket: socket.into(), client: OnceLock::new(), engine: Mutex::default() }))
    }

    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    /// Whether it answers within `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), DaemonError> {
        let asked = tokio::time::timeout(limit, self.client()).await;
        asked
            .unwrap_or_else(|_| Err(self.silent(format!("nothing came back within {} s", limit.as_secs_f32()))))
            .map(drop)
    }

    /// A client that has agreed on a version with dockerd.
    pub async fn client(&self) -> Result<Docker, DaemonError> {
        let agreed = self.lock().is_some();
        match self.0.client.get().filter(|_| agreed) {
            Some(client) => Ok(client.clone()),
            None => Ok(self.hello().await?.0),
        }
    }

    /// What it is and can.
    pub async fn engine(&self) -> Result<EngineFacts, DaemonError> {
        let known = self.lock().clone();
        match known.filter(|(_, asked)| asked.elapsed() < FACTS_AGE) {
            Some((engine, _)) => Ok(engine),
            None => Ok(self.hello().await?.1),
        }
    }

    async fn hello(&self) -> Result<(Docker, EngineFacts), DaemonError> {
        let client = match self.0.client.get() {
            Some(client) => client.clone(),
            None => {
                let path = self.0.socket.to_string_lossy();
                let new = Docker::connect_with_unix(&path, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION);
                let new = new.map_err(|error| self.silent(explained(&error)))?;
                self.0.client.get_or_init(|| new).clone()
            }
        };
        let ask = async {
            let client = client.negotiate_version().await?;
            let (version, info) = (client.version().await?, client.info().await?);
            Ok::<_, ClientError>((client, EngineFacts::of(&version, &info)))
        };
        let late = |_| self.silent(format!("nothing came back within {} s", HELLO_DEADLINE.as_secs()));
        let asked = tokio::time::timeout(HELLO_DEADLINE, ask).await.map_err(late)?;
        let (client, engine) = asked.map_err(|error| self.silent(explained(&error)))?;
        *self.lock() = Some((engine.clone(), Instant::now()));
        Ok((client, engine))
    }

    fn silent(&self, message: String) -> DaemonError {
        DaemonError::NoAnswer { operation: "connect to", object: self.0.socket.display().to_string(), message }
    }

    /// Asks; `object` is what the question is about.
    pub async fn call<T, F>(
        &self,
        operation: &'static str,
        object: &str,
        limit: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, DaemonError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let client = self.client().await?;
        let object = object.to_owned();
        match tokio::time::timeout(limit, question(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ClientError::DockerResponseServerError { status_code, message })) => {
                // A newer client than dockerd: it has been replaced by an older one.
                if status_code == 400 && message.contains("client version") {
                    self.forget();
                }
                Err(DaemonError::Refused { operation, object, status: status_code, message: one_line(&message) })
            }
            Ok(Err(error)) if is_of_the_connection(&error) => {
                self.forget();
                Err(DaemonError::NoAnswer { operation, object, message: explained(&error) })
            }
            Ok(Err(error)) => Err(DaemonError::Broken { operation, object, message: explained(&error) }),
            Err(_) => Err(self.late(operation, &object, limit)),
        }
    }

    /// It has not answered in time.
    pub fn late(&self, operation: &'static str, object: &str, limit: Duration) -> DaemonError {
        self.forget();
        let message = format!("nothing came back within {} s", limit.as_secs_f32());
        DaemonError::NoAnswer { operation, object: object.to_owned(), message }
    }

    /// Who answers next may be another one.
    fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(EngineFacts, Instant)>> {
        // No code panics while it holds this.
        self.0.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_the_connection(error: &ClientError) -> bool {
    use ClientError as E;
    matches!(
        error,
        E::SocketNotFoundError(_)
            | E::IOError { .. }
            | E::HyperResponseError { .. }
            | E::HyperLegacyError { .. }
            | E::RequestTimeoutError
    )
}

/// The error with its causes: the client's own texts stop at `client error (Connect)`.
fn explained(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_at_the_socket_is_told_with_its_path() {
        let error = Daemon::new("/no/such/docker.sock").ping(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.is_no_answer(), "{error}");
        assert!(error.to_string().starts_with("dockerd does not answer"), "{error}");
        assert!(error.to_string().contains("/no/such/docker.sock"), "{error}");
    }

    #[tokio::test]
    async fn one_that_accepts_and_is_silent_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let error = Daemon::new(&path).ping(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.is_no_answer() && error.to_string().contains("nothing came back within 1 s"), "{error}");
    }
}
