//! Who the server believes its caller to be.

use super::fakes::FakeAgent;
use super::*;
use generated as pb;
use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const NOBODY: u32 = 65534;

/// A connection made under another account: the kernel notes the account of the thread that connects.
fn connect_as(uid: u32, path: PathBuf) -> UnixStream {
    let connect = move || {
        // SAFETY: the raw system call takes numbers only and changes this short-lived thread alone.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1i64, i64::from(uid), -1i64) };
        assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
        UnixStream::connect(path).unwrap()
    };
    std::thread::spawn(connect).join().unwrap()
}

async fn client_as(uid: u32, path: &Path) -> pb::agent_client::AgentClient<Channel> {
    let stream = connect_as(uid, path.to_owned());
    stream.set_nonblocking(true).unwrap();
    let mut stream = Some(tokio::net::UnixStream::from_std(stream).unwrap());
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| std::io::Error::other("only once")) }
    });
    let channel = Endpoint::from_static("http://socket").connect_with_connector(connector).await.unwrap();
    pb::agent_client::AgentClient::new(channel)
}

async fn asks(client: &mut pb::agent_client::AgentClient<Channel>, user: &str, roles: &[&str]) -> Option<Status> {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    let principal = Some(pb::Principal { user: user.into(), uid: Some(0), roles });
    client.get_node(pb::GetNodeRequest { principal }).await.err()
}

#[tokio::test]
async fn the_kernel_names_the_caller_on_a_unix_socket() {
    if !nix::unistd::Uid::effective().is_root() {
        // Only root can take another account for a test.
        return;
    }
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let path = served.dir.path().join("s.sock");
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(served.dir.path(), 0o755);
    open(&path, 0o666);
    let name = nix::unistd::User::from_uid(NOBODY.into()).unwrap().map_or(NOBODY.to_string(), |user| user.name);

    let mut nobody = client_as(NOBODY, &path).await;
    for user in ["", name.as_str()] {
        assert!(asks(&mut nobody, user, &["user"]).await.is_none());
        let seen = agent.0.last();
        assert!(seen.contains(&format!("user: {name:?}")) && seen.contains("uid: Some(65534)"), "{seen}");
    }
    let calls = agent.0.count();
    for (user, roles) in [("root", &["user"][..]), ("alice", &[]), ("", &["admin"]), ("node-1", &["agent"])] {
        let status = asks(&mut nobody, user, roles).await.unwrap();
        assert_eq!(status.code(), Code::PermissionDenied, "{user}: {status}");
        assert!(status.message().contains(&name), "{status}");
    }
    assert_eq!(agent.0.count(), calls, "nothing of this reached the agent");

    let mut root = client_as(0, &path).await;
    assert!(asks(&mut root, "alice", &["admin"]).await.is_none());
    assert!(agent.0.last().contains("user: \"alice\""), "{}", agent.0.last());
    assert!(asks(&mut root, "", &[]).await.is_none());
    assert!(agent.0.last().contains("user: \"root\""), "{}", agent.0.last());
    drop((nobody, root));
    served.stop().await;
}

#[tokio::test]
async fn on_loopback_the_claim_is_believed_but_has_to_be_made() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let uri = format!("http://{}", served.tcp());
    let mut client = pb::agent_client::AgentClient::connect(uri).await.unwrap();
    assert!(asks(&mut client, "alice", &["admin"]).await.is_none());
    assert!(agent.0.last().contains("user: \"alice\""), "{}", agent.0.last());
    assert_eq!(asks(&mut client, "", &[]).await.unwrap().code(), Code::InvalidArgument);
    let status = client.get_node(pb::GetNodeRequest { principal: None }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(agent.0.count(), 1);
    served.stop().await;
}
