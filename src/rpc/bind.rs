//! Listening sockets: loopback TCP, and Unix sockets whose file belongs to us.

use super::channel::MAX_SOCKET_PATH_BYTES;
use crate::domain::command::{Error, ErrorKind, Violation};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// For names that have to be looked up, and for whoever may sit on a socket file.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Everybody may connect: the kernel says who it is, and the table of calls what they may.
const SOCKET_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o755;

/// A socket that listens. Dropping it closes the socket and removes its file.
#[derive(Debug)]
pub struct BoundListener {
    address: String,
    pub(super) socket: Socket,
    pub(super) file: Option<SocketFile>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundListener {
    /// Where it really listens, as clients may be told: `HOST:PORT` (the port found, if 0 was asked) or `unix:PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The TCP port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Socket::Unix(_) => None,
        }
    }
}

/// Binds every address (`HOST:PORT`, port 0 for any; `unix:PATH`), or none. `is_guarded`: callers have to prove who they
/// are, or the operator has said that nobody has to; without it only loopback is allowed.
pub async fn bind<S: AsRef<str>>(addresses: &[S], is_guarded: bool) -> Result<Vec<BoundListener>, Error> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let address = address.as_ref();
        listeners.push(match address.strip_prefix("unix:") {
            Some(path) => bind_unix(path.strip_prefix("//").unwrap_or(path)).await?,
            None => bind_tcp(address, is_guarded).await?,
        });
    }
    Ok(listeners)
}

fn wrong(address: &str, message: &str, allowed: &str) -> Error {
    let violation = Violation {
        field: "listen".into(),
        message: message.into(),
        found: address.chars().take(120).collect(),
        allowed: allowed.into(),
    };
    Error { violations: vec![violation.clone()], ..Error::new(ErrorKind::Invalid, violation.to_string()) }
}

/// The one place that keeps unauthenticated listeners off the network.
fn check_exposure(address: &str, found: SocketAddr, is_guarded: bool) -> Result<(), Error> {
    if found.ip().is_loopback() || is_guarded {
        return Ok(());
    }
    let allowed =
        "a loopback address or unix:PATH; anything else only with TLS or --insecure, as nobody is authenticated";
    Err(wrong(address, "would be reachable from other machines", allowed))
}

async fn bind_tcp(address: &str, is_guarded: bool) -> Result<BoundListener, Error> {
    let has_port =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !has_port {
        return Err(wrong(address, "is no address to listen on", "HOST:PORT or unix:PATH"));
    }
    let found = tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host(address)).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found: Vec<SocketAddr> = found.map_err(|error| failed(address, &error))?.collect();
    for address_found in &found {
        check_exposure(address, *address_found, is_guarded)?;
    }
    let listener = TcpListener::bind(&found[..]).await.map_err(|error| failed(address, &error))?;
    let real = listener.local_addr().map_err(|error| failed(address, &error))?;
    Ok(BoundListener { address: real.to_string(), socket: Socket::Tcp(listener), file: None })
}

fn failed(address: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::AddrInUse => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied => ErrorKind::NotAllowed,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("listening on {address}: {error}"))
}

async fn bind_unix(path: &str) -> Result<BoundListener, Error> {
    let address = format!("unix:{path}");
    if path.is_empty() || path.len() > MAX_SOCKET_PATH_BYTES {
        let allowed = format!("1 to {MAX_SOCKET_PATH_BYTES} bytes");
        return Err(wrong(&address, "is not the path of a socket", &allowed));
    }
    let path = PathBuf::from(path);
    make_parent(&path).map_err(|error| failed(&address, &error))?;
    remove_stale(&path, &address).await?;
    let listener = UnixListener::bind(&path).map_err(|error| failed(&address, &error))?;
    let file = SocketFile::of(&path).map_err(|error| failed(&address, &error))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(|error| failed(&address, &error))?;
    Ok(BoundListener { address, socket: Socket::Unix(listener), file: Some(file) })
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
            fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent)?;
            // The umask may have taken more away; users have to get through.
            fs::set_permissions(parent, fs::Permissions::from_mode(DIRECTORY_MODE))
        }
        _ => Ok(()),
    }
}

/// Removes the file of a process that is gone; refuses to take it from one that is not.
async fn remove_stale(path: &Path, address: &str) -> Result<(), Error> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(address, &error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("listening on {address}: a file is there, no socket"),
        ));
    }
    match tokio::time::timeout(PROBE_LIMIT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed(address, &error))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected; or too busy to answer, which only the living are.
        _ => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("listening on {address}: another process listens there"),
        )),
    }
}

/// The file of a Unix socket, removed when we stop listening unless somebody else has put theirs in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            // Nothing is left to do about a failure: the next start finds the file stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(address: &str, insecure: bool) -> Error {
        bind(&[address], insecure).await.unwrap_err()
    }

    #[tokio::test]
    async fn only_loopback_is_bound_unless_insecure_is_spelled_out() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = refused(address, false).await;
            assert_eq!((error.kind, error.violations[0].found.as_str()), (ErrorKind::Invalid, address));
            assert!(error.message.contains("--insecure"), "{error}");
        }
        let open = bind(&["0.0.0.0:0"], true).await.unwrap();
        assert_ne!(open[0].port(), Some(0));
        let local = bind(&["127.0.0.1:0", "localhost:0"], false).await.unwrap();
        assert!(!local[0].address().ends_with(":0"));
        assert_eq!(refused(local[0].address(), false).await.kind, ErrorKind::AlreadyExists);
        for address in ["7600", "127.0.0.1", "127.0.0.1:99999", ":1", "unix:"] {
            assert_eq!(refused(address, true).await.kind, ErrorKind::Invalid, "{address}");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_taken_only_from_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/wharf/a.sock");
        let address = format!("unix:{}", path.display());
        let first = bind(&[&address], false).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o666, 0o755));
        let error = refused(&address, false).await;
        assert_eq!(error.kind, ErrorKind::AlreadyExists);
        assert!(error.message.contains("a.sock"), "{error}");
        drop(first);
        assert!(!path.exists());

        // Left behind by a process that was killed: bound, closed, not removed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = bind(&[&address], false).await.unwrap();
        assert_eq!(second[0].address(), address);

        // Somebody else's file is not removed.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(second);
        assert!(path.exists());
        assert!(refused(&address, false).await.message.contains("no socket"));
    }
}
