//! What comes over a connection: messages of every kind and their conversions, errors of a peer, HTTP/1, REST.

use super::fakes::FakeController;
use super::messages::Messages;
use crate::api::agent::{NodeInfo, WatchedStatus};
use crate::api::authority::Authority;
use crate::api::stream::{ExecOutput, LogBatch, LogRecord};
use crate::domain::access::TokenView;
use crate::domain::access::token::{Fingerprint, Token};
use crate::domain::checked::{CheckedGpu, CheckedNode, CheckedThing};
use crate::domain::command::{
    CommandHeader, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus, Violation,
};
use crate::domain::container::{ContainerSpec, JobFiles, Ulimit};
use crate::domain::event::Event;
use crate::domain::exit::Exit;
use crate::domain::fault::Fault;
use crate::domain::gpu::condition::GpuCondition;
use crate::domain::gpu::{Gpu, GpuDriver, Link, MigSlice};
use crate::domain::principal::Principal;
use crate::domain::ssh::SshAccess;
use crate::domain::task::{AssignedPorts, Inventory, TaskSpec, TaskStatus};
use crate::domain::time::Timestamp;
use crate::domain::view::{
    ExplainedDecision, ExplainedReason, ExplainedTask, Explanation, GpuView, JobView, NodeDetail, NodeTask, NodeView,
    RetriesView, RunView, Submitted, TaskView,
};
use crate::fuzz::Target;
use crate::rpc::admission::Admission;
use crate::rpc::connection::{Connection, Transport};
use crate::rpc::convert;
use crate::rpc::generated as pb;
use crate::rpc::http1::Http1;
use crate::rpc::peer::{Peer, Visitor};
use crate::rpc::security::{Plain, Security};
use crate::rpc::status;
use crate::rpc::tls::authority::OwnAuthority;
use crate::rpc::tls::key::{self, make};
use crate::rpc::tls::server::Certified;
use crate::web::Web;
use http_body_util::BodyExt;
use prost::Message;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// Longer messages are only more of the same.
const BYTES: usize = 48 * 1024;

macro_rules! targets {
    (of { $($wire:ident => $domain:ty,)* } by { $($request:ident => $convert:expr,)* } others { $($other:expr,)* }) => {
        pub(crate) const TARGETS: &[Target] = &[
            $(Target {
                name: concat!("protobuf ", stringify!($wire)),
                seeds: || made(stringify!($wire)),
                parse: |bytes| converted(bytes, |wire: pb::$wire| <$domain>::try_from(wire)),
                most_bytes: BYTES,
            },)*
            $(Target {
                name: concat!("protobuf ", stringify!($request), ", its fields"),
                seeds: || made(stringify!($request)),
                parse: |bytes| converted(bytes, $convert),
                most_bytes: BYTES,
            },)*
            $($other,)*
        ];
        /// What the list has of the types that conversions are written for.
        const CONVERTED: &[&str] = &[$(stringify!($wire)),*];
    };
}

targets! {
    of {
    AssignedPorts => AssignedPorts,
    CheckHealthReply => CheckedNode,
    CheckedGpu => CheckedGpu,
    CheckedThing => CheckedThing,
    CommandHeader => CommandHeader,
    ContainerSpec => ContainerSpec,
    ExecReply => ExecOutput,
    Exit => Exit,
    ExplainJobReply => Explanation,
    ExplainedDecision => ExplainedDecision,
    ExplainedReason => ExplainedReason,
    ExplainedTask => ExplainedTask,
    Fault => Fault,
    GetNodeReply => NodeInfo,
    Gpu => Gpu,
    GpuCondition => GpuCondition,
    GpuDriver => GpuDriver,
    GpuLink => Link,
    GpuView => GpuView,
    HeartbeatReply => HeartbeatReply,
    HeartbeatRequest => Heartbeat,
    Inventory => Inventory,
    Job => JobView,
    JobFiles => JobFiles,
    LogRecord => LogRecord,
    LogsReply => LogBatch,
    MigSlice => MigSlice,
    Node => NodeView,
    NodeDetail => NodeDetail,
    NodeTask => NodeTask,
    Principal => Principal,
    RegisterReply => Registered,
    RegisterRequest => Registration,
    Retries => RetriesView,
    Run => RunView,
    SequencedStatus => SequencedStatus,
    SshAccess => SshAccess,
    SubmitReply => Submitted,
    Task => TaskView,
    TaskSpec => TaskSpec,
    Token => TokenView,
    TaskStatus => TaskStatus,
    Ulimit => Ulimit,
    WatchReply => Event,
    WatchTasksReply => WatchedStatus,
    } by {
    ExecStart => |wire: pb::ExecStart| convert::exec_spec(wire),
    ExecRequest => |wire: pb::ExecRequest| Ok::<_, Violation>(convert::exec_inputs(wire).count()),
    LaunchRequest => |wire: pb::LaunchRequest| -> convert::Parsed<_> {
        convert::ssh_seed(&wire.ssh_seed)?;
        convert::task_id(&wire.task, "task")?;
        convert::launch_variables(wire.env, &wire.secret_names)
    },
    CreateTokenRequest => |wire: pb::CreateTokenRequest| convert::access::new_token(wire),
    CreateTokenReply => |wire: pb::CreateTokenReply| convert::access::created(wire),
    CertificateReply => |wire: pb::CertificateReply| convert::access::issued(wire),
    ListJobsRequest => |wire: pb::ListJobsRequest| convert::job_filter(wire.all, wire.user),
    WatchRequest => |wire: pb::WatchRequest| convert::event_filter(wire),
    LogsRequest => |wire: pb::LogsRequest| convert::log_query(wire),
    ReportRequest => |wire: pb::ReportRequest| -> convert::Parsed<_> {
        convert::each::<_, SequencedStatus>(wire.statuses, "statuses")?;
        convert::node::journal(wire.node_uid, wire.journal_id)
    },
    ChangeNodeRequest => |wire: pb::ChangeNodeRequest| convert::node_change::parse(wire.change),
    FaultList => |wire: pb::FaultList| Ok::<_, Violation>(convert::fault::parsed(wire)),
    } others {
    Target { name: "errors of a peer", seeds: statuses, parse: of_peer, most_bytes: BYTES },
    Target { name: "HTTP/1 requests", seeds: requests, parse: request, most_bytes: BYTES },
    Target { name: "REST paths", seeds: paths, parse: path, most_bytes: BYTES },
    Target { name: "tokens", seeds: tokens, parse: token, most_bytes: BYTES },
    Target { name: "certificate requests", seeds: certificate_requests, parse: certificate_request, most_bytes: BYTES },
    Target { name: "certificates", seeds: certificates, parse: certificate, most_bytes: BYTES },
    }
}

fn made(kind: &str) -> Vec<Vec<u8>> {
    let mut messages = Messages::new(kind.len() as u64);
    (0..40).map(|_| messages.one(kind)).collect()
}

/// A message is parsed, or its wrong field is named.
fn converted<P: Message + Default, D, E: Into<Wrong>>(bytes: &[u8], convert: impl Fn(P) -> Result<D, E>) {
    let Ok(wire) = P::decode(bytes) else { return };
    if let Err(Wrong(violation)) = convert(wire).map_err(Into::into) {
        assert!(!violation.field.is_empty() && !violation.message.is_empty(), "{violation:?}");
        assert!(violation.found.chars().count() <= 120, "what was found is shown whole: {violation:?}");
    }
}

/// Conversions that cannot fail are tried too.
struct Wrong(Violation);

impl From<Violation> for Wrong {
    fn from(violation: Violation) -> Self {
        Self(violation)
    }
}

impl From<std::convert::Infallible> for Wrong {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// The details of a status are what a peer says they are.
fn statuses() -> Vec<Vec<u8>> {
    let error = crate::domain::command::Error {
        violations: vec![Violation {
            field: "a.b".into(),
            message: "is wrong".into(),
            found: "x".into(),
            allowed: "y".into(),
        }],
        retry_after_ms: Some(1500),
        busy_ports: vec![80, 81],
        ..crate::domain::command::Error::new(crate::domain::command::ErrorKind::Invalid, "no")
    };
    vec![status::to_status(error, 6000).details().to_vec(), Vec::new()]
}

fn of_peer(bytes: &[u8]) {
    for code in [Code::InvalidArgument, Code::Unknown, Code::Ok, Code::OutOfRange] {
        let found = Status::with_details(code, "said by a peer", bytes.to_vec().into());
        let error = status::from_status(&found, "agent at x", "Stage");
        assert!(!error.message.is_empty());
        // And on to the next.
        let _ = status::to_status(error, 6000);
    }
}

thread_local! {
    static SERVED: OnceCell<(tokio::runtime::Runtime, Http1, Web)> = const { OnceCell::new() };
}

fn served<T>(work: impl FnOnce(&tokio::runtime::Runtime, &Http1, &Web) -> T) -> T {
    SERVED.with(|served| {
        let (runtime, http1, web) = served.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
            let web = Web::new(Arc::new(FakeController::default()), Vec::new());
            (runtime, Http1::new(web.clone(), believed()), web)
        });
        work(runtime, http1, web)
    })
}

fn requests() -> Vec<Vec<u8>> {
    let file = br#"{"jobName": "a", "image": "i", "taskRoles": []}"#;
    let put = format!(
        "PUT /api/v1/user/a/jobs/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        file.len()
    );
    let chunked = b"POST /api/v1/jobs HTTP/1.1\r\nHost: [::1]:7\r\nContent-Type: application/json; charset=utf-8\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n3\r\n 1}\r\n0\r\n\r\n";
    vec![
        b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/v1/jobs?username=a HTTP/1.0\r\n\r\n".to_vec(),
        b"HEAD /api/v1/user/a/jobs/b%2Fc/ssh HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n\r\n".to_vec(),
        b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\nExpect: 100-continue\r\n\r\n".to_vec(),
        [put.as_bytes(), file].concat(),
        chunked.to_vec(),
        b"PUT /api/v1/jobs/a~b/executionType HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
            Content-Length: 16\r\n\r\n{\"value\":\"STOP\"}"
            .to_vec(),
    ]
}

/// All of it at once, then the end: what comes back is answers or nothing.
fn request(bytes: &[u8]) {
    let answer = served(|runtime, http1, _| {
        runtime.block_on(async {
            let (mut client, server) = tokio::net::UnixStream::pair().expect("sockets can be made");
            let connection =
                Connection::new(Transport::Unix(server), Peer::Unix { uid: 0 }, &CancellationToken::new());
            let place = http1.place().expect("nobody else is here");
            let serving = http1.clone().serve(connection, place, CancellationToken::new());
            let asking = async {
                // It may have heard enough before the end.
                let _ = client.write_all(bytes).await;
                let _ = client.shutdown().await;
                let mut answer = Vec::new();
                let _ = client.read_to_end(&mut answer).await;
                answer
            };
            tokio::join!(serving, asking).1
        })
    });
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{shown}");
    assert!(!answer.windows(13).any(|some| some == b"HTTP/1.1 500 "), "{shown}");
}

fn tokens() -> Vec<Vec<u8>> {
    let token = Token::new([7; 8], [9; 32], Some(Fingerprint([1; 32])));
    vec![token.to_string().into_bytes(), token.bearer().into_bytes()]
}

fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Token>() {
        Ok(token) => assert_eq!(token.to_string().parse(), Ok(token)),
        Err(error) => assert!(error.to_string().contains("wharf token create"), "{error}"),
    }
}

thread_local! {
    static AUTHORITY: OwnAuthority = {
        let (certificate, key) = OwnAuthority::make(Timestamp(1_800_000_000_000_000_000)).expect("it is made");
        OwnAuthority::from_pem(&certificate, &key).expect("it is whole")
    };
}

fn certificate_requests() -> Vec<Vec<u8>> {
    ["n1", ""].map(|node| make(node).expect("a key is made").1.into_bytes()).to_vec()
}

/// Whatever it asks for, only its key is taken.
fn certificate_request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    AUTHORITY.with(|authority| {
        let life = std::time::Duration::from_secs(60);
        let Ok(issued) = authority.certify("n1", text, 5, Timestamp(1_800_000_000_000_000_000), life) else { return };
        let found = key::certificates(&issued.certificate_pem).expect("it is a certificate");
        let certified = Certified::of(&found[0]).expect("it can be read");
        assert!(certified.is_node("n1") && !certified.is_controller() && certified.number == 5, "{certified:?}");
    });
}

fn certificates() -> Vec<Vec<u8>> {
    AUTHORITY.with(|authority| {
        let life = std::time::Duration::from_secs(60);
        let own = authority.controller(&["h".to_owned()], Timestamp(0), life).expect("it is made");
        own.chain.iter().map(|certificate| certificate.to_vec()).collect()
    })
}

fn certificate(bytes: &[u8]) {
    let _ = Certified::of(&bytes.into());
    let _ = std::str::from_utf8(bytes).map(key::certificates);
}

fn believed() -> Arc<Admission> {
    Arc::new(Admission::new(Security::plain(Plain::Believed)))
}

fn paths() -> Vec<Vec<u8>> {
    let paths = [
        "/api/v1/user/a%2Fb/jobs/%C3%A9%7e..%00/?x=1&y=a+b%26&&=2&z",
        "/api/v1/jobs/a~b/logs/worker.0/3?username=x&tail=5&follow=true",
        "/api/v1/user/a/jobs/b/config",
        "/metrics",
        "http://localhost:1/api/v1/jobs",
    ];
    paths.map(|path| path.as_bytes().to_vec()).to_vec()
}

fn path(bytes: &[u8]) {
    let Ok(uri) = http::Uri::try_from(bytes) else { return };
    for method in [http::Method::GET, http::Method::PUT] {
        let request = http::Request::builder().method(method).uri(uri.clone());
        let request = request.header("host", "localhost").header("content-type", "application/json");
        let request = request.body(http_body_util::Full::from("{\"value\": \"STOP\"}")).expect("it is a request");
        let status = served(|runtime, _, web| {
            runtime.block_on(async {
                let caller =
                    Visitor { peer: Peer::Unix { uid: 0 }, bearer: None, admission: believed(), by: OnceLock::new() };
                let response = web.answer(Arc::new(caller), request).await;
                let status = response.status();
                let _ = response.into_body().collect().await;
                status
            })
        });
        // The fake has nothing to measure.
        let unavailable = status == http::StatusCode::SERVICE_UNAVAILABLE && uri.path().starts_with("/metrics");
        assert!(status.is_client_error() || status.is_success() || unavailable, "{status} for {uri}");
    }
}

#[test]
fn no_conversion_is_left_out() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rpc/convert");
    let mut written = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("sources are there") {
        let text = std::fs::read_to_string(entry.expect("it can be read").path()).expect("sources are UTF-8");
        for line in
            text.lines().filter(|line| line.starts_with("impl TryFrom<pb::") || line.starts_with("impl From<pb::"))
        {
            let name = line.split("pb::").nth(1).and_then(|rest| rest.split('>').next());
            written.insert(name.expect("a type of the protocol").to_owned());
        }
    }
    let listed: BTreeSet<String> = CONVERTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(written, listed, "types of the protocol that are converted, and those that the list has");
}
