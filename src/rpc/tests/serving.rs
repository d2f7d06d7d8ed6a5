//! Health, reflection, shutdown.

use super::fakes::{FakeAgent, FakeController};
use super::samples::spec;
use super::*;
use crate::api::agent::AgentApi;
use crate::domain::command::ErrorKind;
use crate::domain::task::TaskSpec;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1, v1alpha};

async fn channel(served: &Served) -> Channel {
    Endpoint::from_shared(format!("http://{}", served.tcp())).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn health_answers_for_the_server_and_its_service() {
    let served = Served::agent(&Arc::default()).await;
    let mut health = HealthClient::new(channel(&served).await);
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
    for service in ["", "wharf.v1.Agent"] {
        let reply = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(reply.into_inner(), serving);
    }
    assert!(health.check(HealthCheckRequest { service: "wharf.v1.Controller".into() }).await.is_err());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap(), serving);
    served.shutdown.cancel();
    let going = within("the news", watched.next()).await.unwrap().unwrap();
    assert_eq!(going.status(), ServingStatus::NotServing);
    drop(watched);
    served.stop().await;
}

pub async fn services(served: &Served) -> Vec<String> {
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel(served).await);
    let mut replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    match replies.next().await.unwrap().unwrap().message_response.unwrap() {
        v1::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_lists_and_describes_what_is_served() {
    let (agent, controller) = (Arc::new(FakeAgent::default()), Arc::new(FakeController::default()));
    let one = Served::agent(&agent).await;
    let names = services(&one).await;
    assert!(names.contains(&"wharf.v1.Agent".to_owned()), "{names:?}");
    assert!(!names.contains(&"wharf.v1.Controller".to_owned()), "{names:?}");
    one.stop().await;

    let both = Served::new(routes::routes(Some(agent), Some(controller), believed()).await.unwrap()).await;
    let names = services(&both).await;
    for name in ["wharf.v1.Agent", "wharf.v1.Controller", "grpc.health.v1.Health"] {
        assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
    }
    // The older version of the protocol, and a description with everything that grpcurl needs.
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&both).await);
    for symbol in ["wharf.v1.Controller", "wharf.v1.Agent.Stage", "wharf.v1.TaskSpec", "grpc.health.v1.Health"] {
        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                symbol.to_owned(),
            )),
        };
        let mut replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let reply = replies.next().await.unwrap().unwrap().message_response.unwrap();
        let found = matches!(
            reply,
            v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(ref files)
                if !files.file_descriptor_proto.is_empty()
        );
        assert!(found, "{symbol}: {reply:?}");
    }
    both.stop().await;
}

#[tokio::test]
async fn shutdown_waits_for_calls_in_flight_but_not_for_ever() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let client = served.agents().remove(1);
    let socket = served.dir.path().join("s.sock");
    assert!(socket.exists());
    let hang = TaskSpec { job_name: "hang".into(), ..spec() };
    let header = CommandHeader { deadline_ms: 60_000, ..header() };
    let call = tokio::spawn(async move { client.prepare(header, hang).await });
    until("the command has begun", || agent.0.hanging.load(Ordering::SeqCst) == 1).await;
    // A connection that never says anything holds nothing up either.
    let silent = tokio::net::TcpStream::connect(served.tcp()).await.unwrap();
    let began = Instant::now();
    let (shutdown, server, _dir) = (served.shutdown, served.server, served.dir);
    shutdown.cancel();
    within("the shutdown", server).await.unwrap().unwrap();
    let took = began.elapsed();
    assert!((Duration::from_millis(4500)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert!(!socket.exists(), "the socket's file goes with the server");
    let error = within("the cut call", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    until("nothing of the call is left", || agent.0.dropped.load(Ordering::SeqCst) == 1).await;
    drop(silent);
}

#[tokio::test]
async fn a_server_whose_future_is_dropped_cuts_its_connections() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let client = served.agents().remove(0);
    let hang = TaskSpec { job_name: "hang".into(), ..spec() };
    let call = tokio::spawn(async move { client.prepare(header(), hang).await });
    until("the command has begun", || agent.0.hanging.load(Ordering::SeqCst) == 1).await;
    served.server.abort();
    let error = within("the cut call", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    until("nothing of the call is left", || agent.0.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_client_outlives_a_restart_of_its_server() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let addresses = served.addresses.clone();
    let clients = served.agents();
    for client in &clients {
        client.get_node(&alice()).await.unwrap();
    }
    served.stop().await;
    for client in &clients {
        assert_eq!(client.get_node(&alice()).await.unwrap_err().kind, ErrorKind::Unavailable);
    }
    let listeners = bind(&addresses, false).await.unwrap();
    let (shutdown, routes) = (CancellationToken::new(), agent_routes(agent.clone(), believed()).await.unwrap());
    let server = tokio::spawn(serve(listeners, routes, shutdown.clone()));
    for client in &clients {
        client.get_node(&alice()).await.unwrap();
    }
    shutdown.cancel();
    within("the shutdown", server).await.unwrap().unwrap();
}
