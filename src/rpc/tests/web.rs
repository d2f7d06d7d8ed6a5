//! HTTP and gRPC on one port, over every kind of socket.

use super::fakes::FakeController;
use super::serving::services;
use super::*;
use crate::api::ControllerApi;
use crate::api::controller::JobFilter;
use crate::api::records::{JobRecord, RecordsApi};
use crate::rpc::door::FIRST_BYTES_LIMIT;
use crate::rpc::undecided::MAX_EACH;
use crate::web::Web;
use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

#[async_trait]
impl RecordsApi for FakeController {
    async fn list_records(
        &self,
        _who: &Principal,
        _filter: JobFilter,
        _page_size: u32,
        _token: &str,
    ) -> Result<(Vec<JobRecord>, String), Error> {
        Ok((Vec::new(), String::new()))
    }

    async fn get_record(&self, _who: &Principal, job: &str) -> Result<JobRecord, Error> {
        Err(Error::not_found(format!("there is no {job}")))
    }

    async fn job_file(&self, _who: &Principal, _job: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
}

async fn served() -> Served {
    let controller = Arc::new(FakeController::default());
    let web = Web::new(controller.clone(), Vec::new());
    Served::new(controller_routes(controller, Security::plain(Plain::Believed)).await.unwrap().with_web(web)).await
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn both_are_served_on_both_sockets() {
    let served = served().await;
    let request = b"GET /api/v1/user/a/jobs/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let tcp = ask(TcpStream::connect(served.tcp()).await.unwrap(), request).await;
    let unix = ask(UnixStream::connect(served.dir.path().join("s.sock")).await.unwrap(), request).await;
    for answer in [tcp, unix] {
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert!(answer.ends_with(r#"{"code":"NoJobError","message":"Job x is not found."}"#), "{answer}");
    }
    for client in served.controllers() {
        client.list_nodes(&alice()).await.unwrap();
    }
    let names = services(&served).await;
    assert!(names.contains(&"wharf.v1.Controller".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("api")), "HTTP is no service of gRPC: {names:?}");
    served.stop().await;
}

#[tokio::test]
async fn a_preface_that_comes_in_pieces_is_grpcs() {
    let served = served().await;
    let mut stream = TcpStream::connect(served.tcp()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS frame; the server's own comes back.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut header = [0; 9];
    within("the server's settings", stream.read_exact(&mut header)).await.unwrap();
    assert_eq!(header[3], 4, "{header:?}");
    drop(stream);
    // What only begins like it is HTTP/1.
    let answer = ask(TcpStream::connect(served.tcp()).await.unwrap(), b"PRI * HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_nobody_who_is_idle() {
    let served = served().await;
    let silent = TcpStream::connect(served.tcp()).await.unwrap();
    let mut idle = TcpStream::connect(served.tcp()).await.unwrap();
    idle.write_all(b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    within("an answer", idle.read_exact(&mut first)).await.unwrap();
    served.stop().await;
    for mut stream in [silent, idle] {
        let mut rest = Vec::new();
        within("the end", stream.read_to_end(&mut rest)).await.unwrap();
    }
}

#[tokio::test]
async fn silent_connections_cost_each_other_their_places_and_nobody_else_one() {
    let served = served().await;
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_EACH {
        silent.push(TcpStream::connect(served.tcp()).await.unwrap());
    }
    let request = b"GET /api/v1/user/a/jobs/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = ask(TcpStream::connect(served.tcp()).await.unwrap(), request).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // Long before their time is over.
    for stream in &mut silent[..MAX_EACH] {
        let end = tokio::time::timeout(FIRST_BYTES_LIMIT / 2, stream.read(&mut [0; 1])).await;
        assert_eq!(end.expect("the oldest have to go").unwrap_or(0), 0);
    }
    served.stop().await;
}
