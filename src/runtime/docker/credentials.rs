//! A login for one registry, read from a job's `authFile`: three lines, registry, user name, password.
//!
//! The agent reads the file as root, and so only where jobs may name files, and only what the submitter could read: a file
//! of the account of that name, or one that everybody may read.
//!
//! The password leaves this module only in the request to dockerd. Nothing here implements `Serialize` or `Display`;
//! `Debug` leaves it out; no error quotes a line of the file, since what the job names need not be an `authFile`.

use super::beneath::Held;
use super::images::reference::{Reference, canonical_registry, is_registry};
use super::request::RequestError;
use super::request::allowed::Allowed;
use super::request::place::{Place, place};
use crate::domain::command::Violation;
use crate::domain::secret::Secret;
use crate::runtime::rights::Rights;
use crate::runtime::shimmed::Failure;
use crate::runtime::shimmed::disks::Disks;
use bollard::auth::DockerCredentials;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Three lines need no more.
const MAX_BYTES: u64 = 16 * 1024;
/// A file system that does not answer by then is broken.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// What Docker calls Docker Hub in a login.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

const NOT_THEIRS: &str = "belongs neither to the submitter's account on this node, nor may everybody read it";

/// A login. Two are equal only if registry, user and password are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    registry: String,
    username: String,
    password: Secret,
}

/// What an `authFile` gave for one image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub credentials: Option<Credentials>,
    /// Why the image is pulled without the login, if it is.
    pub notices: Vec<String>,
}

/// Why an `authFile` cannot be used. Never says what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("{0}")]
    Field(Violation),
    #[error("authFile: {path} {why}")]
    Content { path: PathBuf, why: &'static str },
    #[error("authFile: reading {path}: {error}")]
    Read { path: PathBuf, error: String, missing: bool },
}

impl CredentialsError {
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub fn is_user_error(&self) -> bool {
        match self {
            Self::Field(_) | Self::Content { .. } => true,
            Self::Read { missing, .. } => *missing,
        }
    }
}

impl Credentials {
    /// Reads the three lines. A byte order mark, CRLF and empty lines at the end are allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const LINES: &str = "does not hold three lines: registry, user name, password";
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut next = || lines.next().ok_or(LINES);
        // Blanks around a host or a user are slips; in a password they may be meant.
        let (registry, username, password) = (next()?.trim(), next()?.trim(), next()?);
        if lines.any(|line| !line.trim().is_empty()) {
            return Err("holds more than three lines: registry, user name, password");
        }
        let registry = canonical_registry(registry);
        if !is_registry(&registry) {
            return Err("names no registry in its first line: a host name with an optional port");
        }
        if username.is_empty() || password.is_empty() {
            return Err(LINES);
        }
        if [username, password].iter().any(|text| text.chars().any(char::is_control)) {
            return Err("holds a control character in the user name or the password");
        }
        Ok(Self { registry, username: username.to_owned(), password: Secret::new(password) })
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Only the registry that it names may see a login.
    pub fn is_for(&self, image: &Reference) -> bool {
        self.registry == image.registry
    }

    /// What goes to dockerd.
    pub(super) fn for_dockerd(&self) -> DockerCredentials {
        let hub = self.registry == super::images::reference::DOCKER_HUB;
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.reveal().to_owned()),
            serveraddress: Some(if hub { DOCKER_HUB_SERVER.to_owned() } else { self.registry.clone() }),
            ..DockerCredentials::default()
        }
    }

    /// Somebody else's words without the password.
    pub(super) fn crossed_out(&self, words: &str) -> String {
        let password = self.password.reveal();
        let quoted = format!("{password:?}");
        let words = words.replace(password, "***");
        // As a Go or JSON string it may look otherwise.
        words.replace(quoted.trim_matches('"'), "***")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// The login that a job's `authFile` gives for an image. An empty `auth_file` is no login. Reads the node's files off
/// the async threads, in bounded time.
pub async fn login_for(
    auth_file: &str,
    image: &str,
    submitter: &str,
    allowed: Allowed,
    disks: &Disks,
) -> Result<Login, CredentialsError> {
    let path = match place("authFile", auth_file).map_err(CredentialsError::Field)? {
        Place::None => return Ok(Login::default()),
        Place::Elsewhere(scheme) => {
            let notice =
                format!("authFile cannot be read here ({scheme}://...): image {image} is pulled without a login");
            return Ok(Login { credentials: None, notices: vec![notice] });
        }
        Place::Node(path) => path,
    };
    let read = {
        let (path, submitter) = (path.clone(), submitter.to_owned());
        move || Ok(read(&path, &submitter, &allowed))
    };
    let failed =
        |failure: Failure| CredentialsError::Read { path: path.clone(), error: failure.message, missing: false };
    let answer = disks.look("reading it", READ_DEADLINE, &CancellationToken::new(), read).await;
    let credentials = answer.map_err(failed)??;
    let reference = Reference::parse(image);
    // A wrong image name is told when the image is asked for.
    if reference.as_ref().is_ok_and(|reference| !credentials.is_for(reference)) {
        let its = reference.map(|it| it.registry).unwrap_or_default();
        // Which one is a line of the file.
        let notice = format!("authFile is for another registry: image {image} is pulled from {its} without a login");
        return Ok(Login { credentials: None, notices: vec![notice] });
    }
    Ok(Login { credentials: Some(credentials), notices: Vec::new() })
}

/// Reads a small regular file. Blocking.
fn read(path: &Path, submitter: &str, allowed: &Allowed) -> Result<Credentials, CredentialsError> {
    let failed = |error: std::io::Error| CredentialsError::Read {
        path: path.to_owned(),
        missing: error.kind() == std::io::ErrorKind::NotFound,
        error: error.to_string(),
    };
    let content = |why| CredentialsError::Content { path: path.to_owned(), why };
    let named = allowed.named("authFile", path).map_err(|error| match error {
        RequestError::Field(violation) => CredentialsError::Field(violation),
        RequestError::Node { error, .. } => failed(std::io::Error::other(error)),
        RequestError::Refused(_) => content("is not for jobs"),
    })?;
    let whose = Rights::of_account(submitter).map_err(failed)?.unwrap_or_else(Rights::of_nobody);
    // The whole way to it with the submitter's rights: who may not enter a folder has no file in it. A pipe without a
    // writer must not hold us up, a terminal not become ours.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let open =
        || Held::at(Path::new("/"))?.open(named.path().strip_prefix("/").map_err(std::io::Error::other)?, flags);
    let file = match whose.open(open) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Err(content(NOT_THEIRS)),
        opened => File::from(opened.map_err(failed)?),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(content("is not a regular file"));
    }
    if !may_read(submitter, &found) {
        return Err(content(NOT_THEIRS));
    }
    if found.len() > MAX_BYTES {
        return Err(content("is bigger than 16 KiB: three lines are expected"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Credentials::parse(&bytes).map_err(content)
}

fn may_read(submitter: &str, found: &Metadata) -> bool {
    let everybody = found.permissions().mode() & 0o004 != 0;
    let account = || nix::unistd::User::from_name(submitter).ok().flatten();
    everybody || account().is_some_and(|account| account.uid.as_raw() == found.uid())
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
