//! Refusals, nonsense from either side, deadlines and broken connections.

use super::fakes::{FakeAgent, FakeController};
use super::samples::{self, spec};
use super::*;
use crate::api::agent::AgentApi;
use crate::api::controller::{ControllerApi, Submit};
use crate::domain::command::{ErrorKind, Violation};
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use generated as pb;
use std::sync::atomic::Ordering;
use tokio::io::AsyncReadExt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// An address where nobody listens.
pub(super) async fn dead_address() -> String {
    bind(&["127.0.0.1:0"], false).await.unwrap()[0].address().to_owned()
}

fn violations(count: usize) -> Vec<Violation> {
    let one = |i| Violation {
        field: format!("taskRoles[{i}].ports[{i}].label"),
        message: "is not a label; found what it should not".into(),
        found: format!("'grüße {i}'"),
        allowed: "letters, digits".into(),
    };
    (0..count).map(one).collect()
}

#[tokio::test]
async fn errors_with_many_violations_arrive_whole() {
    let controller = Arc::new(FakeController::default());
    let served = Served::controller(&controller).await;
    for count in [1, 50, 200] {
        let mut error = Error::new(ErrorKind::Invalid, "submitting job.json: wrong in many ways");
        error.violations = violations(count);
        error.retry_after_ms = Some(1500);
        *controller.0.failure.lock().unwrap() = Some(error.clone());
        for client in served.controllers() {
            assert_eq!(client.submit(&alice(), Submit::default()).await.unwrap_err(), error);
        }
    }
    // More than anybody can take: cut, and counted.
    controller.0.failure.lock().unwrap().as_mut().unwrap().violations = violations(20_000);
    let error = served.controllers()[0].submit(&alice(), Submit::default()).await.unwrap_err();
    assert!(error.violations.len() > 300 && error.message.contains("20000 fields"), "{error}");
    // A client that announced nothing gets what fits everywhere.
    let mut plain = plain_controller(&served).await;
    let principal = Some(alice().into());
    let status = plain.submit(pb::SubmitRequest { principal, ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert!(fields.len() > 10, "{}", fields.len());
    assert!(fields[3].description.ends_with("; found 'grüße 3'; allowed: letters, digits"), "{:?}", fields[3]);
    served.stop().await;
}

async fn plain_agent(served: &Served) -> pb::agent_client::AgentClient<tonic::transport::Channel> {
    pb::agent_client::AgentClient::connect(format!("http://{}", served.tcp())).await.unwrap()
}

async fn plain_controller(served: &Served) -> pb::controller_client::ControllerClient<tonic::transport::Channel> {
    pb::controller_client::ControllerClient::connect(format!("http://{}", served.tcp())).await.unwrap()
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_field_named() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let mut client = plain_agent(&served).await;
    let good = || pb::PrepareRequest { header: Some(header().into()), task: Some(spec().into()) };
    type Change = fn(&mut pb::PrepareRequest);
    let changes: [(&str, Change); 15] = [
        ("header", |r| r.header = None),
        ("header.deadline_ms", |r| r.header.as_mut().unwrap().deadline_ms = 0),
        ("header.principal", |r| r.header.as_mut().unwrap().principal = None),
        ("header.principal.user", |r| principal(r).user.clear()),
        ("header.principal.user", |r| principal(r).user = "x".repeat(257)),
        ("header.principal.user", |r| principal(r).user = "bob/train".into()),
        ("header.principal.roles[1]", |r| principal(r).roles[1] = "king".into()),
        ("header.request_id", |r| r.header.as_mut().unwrap().request_id = "x".repeat(1000)),
        ("task", |r| r.task = None),
        ("task.id", |r| r.task.as_mut().unwrap().id = "7.7.0".into()),
        ("task.job_name", |r| r.task.as_mut().unwrap().job_name.clear()),
        ("task.command_style", |r| r.task.as_mut().unwrap().command_style = "perl".into()),
        ("task.gpus[1]", |r| r.task.as_mut().unwrap().gpus[1].clear()),
        ("task.ports[0].label", |r| r.task.as_mut().unwrap().ports[0].label.clear()),
        ("task.ports[0].ports[1]", |r| r.task.as_mut().unwrap().ports[0].ports[1] = 65536),
    ];
    for (field, change) in changes {
        let mut request = good();
        change(&mut request);
        names_field(&client.prepare(request).await.unwrap_err(), field);
    }
    let wrong_logs = pb::LogsRequest { principal: Some(alice().into()), task: "x".into(), ..Default::default() };
    names_field(&client.logs(wrong_logs).await.unwrap_err(), "task");
    let start = pb::ExecStart { principal: Some(alice().into()), task: "1.1.0.0".into(), ..Default::default() };
    for (field, start) in [
        ("start", None),
        ("start.principal", Some(pb::ExecStart { principal: None, ..start.clone() })),
        ("start.argv", Some(start.clone())),
        ("start.rows", Some(pb::ExecStart { argv: vec!["a".into()], rows: 70000, ..start })),
    ] {
        let first = pb::ExecRequest { start, ..Default::default() };
        names_field(&client.exec(tokio_stream::once(first)).await.unwrap_err(), field);
    }
    assert_eq!(agent.0.count(), 0, "nothing of this reached the agent: {}", agent.0.last());
    served.stop().await;
}

fn principal(request: &mut pb::PrepareRequest) -> &mut pb::Principal {
    request.header.as_mut().unwrap().principal.as_mut().unwrap()
}

fn names_field(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field, "{status}");
}

#[tokio::test]
async fn nonsense_from_an_agent_names_the_agent_and_the_field() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let who = Principal { user: "nonsense".into(), ..alice() };
    let error = AgentClient::new(served.tcp()).unwrap().get_node(&who).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains(served.tcp()) && error.message.contains("name: is empty"), "{error}");
    served.stop().await;
}

#[tokio::test]
async fn a_server_of_something_else_is_an_error_that_names_it() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    // An agent where a controller is expected.
    let error = ControllerClient::new(&[served.tcp()]).unwrap().list_nodes(&alice()).await.unwrap_err();
    assert!(error.message.contains(served.tcp()), "{error}");
    assert_eq!(error.kind, ErrorKind::Refused);
    served.stop().await;
    // No HTTP/2 at all: it hangs up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hang_up = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    let client = AgentClient::new(&address).unwrap();
    let error = within("an answer", client.get_node(&alice())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains(&address), "{error}");
    hang_up.abort();
}

#[tokio::test]
async fn nobody_there_is_unavailable_with_the_address() {
    let dir = tempfile::tempdir().unwrap();
    for address in [dead_address().await, format!("unix:{}", dir.path().join("none.sock").display())] {
        let error = AgentClient::new(&address).unwrap().get_node(&alice()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(
            error.message.starts_with("no connection to the agent") && error.message.contains(&address),
            "{error}"
        );
        assert!(!never_sent(&error), "only what concerns a controller says that: {error}");
        let error = ControllerClient::new(&[&address]).unwrap().list_nodes(&alice()).await.unwrap_err();
        assert!(never_sent(&error) && error.message.contains(&address), "{error}");
    }
}

#[tokio::test]
async fn a_controller_that_hangs_is_followed_by_the_next_and_one_that_hung_up_is_not_called_unsent() {
    let hang_up = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cut = hang_up.local_addr().unwrap().to_string();
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = hang_up.accept().await {
            let _ = stream.read(&mut [0; 16]).await;
        }
    });
    let dead = dead_address().await;
    let client = ControllerClient::new(&[&dead, &cut]).unwrap();
    let error = within("an answer", client.list_nodes(&alice())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains(&dead) && error.message.contains(&cut), "{error}");
    assert!(!never_sent(&error), "{error}");
    accepting.abort();
}

#[tokio::test]
async fn a_command_ends_by_its_deadline_on_both_sides() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    for (i, client) in served.agents().into_iter().enumerate() {
        let hang = crate::domain::task::TaskSpec { job_name: "hang".into(), ..spec() };
        let header = CommandHeader { deadline_ms: 100, ..header() };
        let error = within("the deadline", client.prepare(header.clone(), hang)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
        assert!(error.message.contains(&served.addresses[i]), "{error}");
        until("the server lets go of the command", || agent.0.dropped.load(Ordering::SeqCst) == i + 1).await;
        let late = CommandHeader { deadline_ms: 0, ..header };
        assert_eq!(client.stop(late, task(1), 0).await.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    }
    served.stop().await;
}

#[tokio::test]
async fn a_caller_who_goes_away_takes_the_call_along() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let client = served.agents().remove(0);
    let hang = crate::domain::task::TaskSpec { job_name: "hang".into(), ..spec() };
    let call = tokio::spawn(async move { client.prepare(header(), hang).await });
    until("the command has begun", || agent.0.hanging.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the command is dropped", || agent.0.dropped.load(Ordering::SeqCst) == 1).await;
    served.stop().await;
}

#[tokio::test]
async fn a_submission_cut_in_the_middle_leaves_nothing() {
    let controller = Arc::new(FakeController::default());
    let served = Served::controller(&controller).await;
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    let server = served.tcp().to_owned();
    let cut = tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let mut some = (&mut from_client).take(40_000);
        tokio::select! {
            _ = tokio::io::copy(&mut some, &mut to_server) => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    });
    let client = ControllerClient::new(&[address]).unwrap();
    let submit = Submit { content: vec![b'x'; 400_000], ..Submit::default() };
    let error = within("the error", client.submit(&alice(), submit.clone())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    cut.await.unwrap();
    // The server is fine, and has seen nothing of it.
    served.controllers()[0].list_nodes(&alice()).await.unwrap();
    assert_eq!(controller.0.count(), 1, "{}", controller.0.last());
    served.stop().await;
}

#[tokio::test]
async fn messages_above_the_limit_are_exhausted_on_either_side() {
    let controller = Arc::new(FakeController::default());
    controller.0.many_tasks.store(80_000, Ordering::SeqCst);
    let served = Served::controller(&controller).await;
    let client = served.controllers().remove(0);
    let large = Submit { content: vec![0; MAX_MESSAGE_BYTES], ..Submit::default() };
    let error = client.submit(&alice(), large).await.unwrap_err();
    assert_eq!((error.kind, controller.0.count()), (ErrorKind::Exhausted, 0), "{error}");
    let error = client.get_job(&alice(), "7", None).await.map(|job| job.job_id).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted, "{error}");
    let mut plain = plain_controller(&served).await;
    let content = vec![0; MAX_MESSAGE_BYTES + 1];
    let status = plain.submit(pb::SubmitRequest { content, ..Default::default() }).await.unwrap_err();
    assert_eq!(status::from_status(&status, "controller", "Submit").kind, ErrorKind::Exhausted, "{status}");
    assert_eq!(samples::submitted(), client.submit(&alice(), Submit::default()).await.unwrap());
    served.stop().await;
}
