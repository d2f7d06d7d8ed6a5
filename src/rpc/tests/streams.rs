//! Long streams: slow readers, readers that leave, servers that go.

use super::fakes::{FakeAgent, LOG_BYTES};
use super::*;
use crate::api::agent::AgentApi;
use crate::api::stream::{ExecSpec, LogContent, LogQuery, StreamFilter};
use crate::domain::command::ErrorKind;
use std::sync::atomic::Ordering;

fn query(job: u64) -> LogQuery {
    LogQuery { task: task(job), cursor: None, stream: StreamFilter::All, follow: true, since: None, tail: None }
}

/// What may wait between a task's log and a reader who pauses: two channels, a window, buffers of the transport.
const MOST_IN_FLIGHT: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_the_source_and_nobody_else() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let client = served.agents().remove(0);
    let mut logs = client.logs(&alice(), query(2)).await.unwrap();
    let (mut read, mut sequence) = (0, 0u64);
    let produced = || agent.0.produced.load(Ordering::SeqCst);
    until("output is made", || produced() > 0).await;
    // The reader pauses; commands and other streams go on.
    client.get_node(&alice()).await.unwrap();
    let mut other = client.logs(&alice(), query(1)).await.unwrap();
    while other.recv().await.is_some() {}
    while let Some(batch) = within("more output", logs.recv()).await {
        for record in batch.unwrap().records {
            let LogContent::Output { bytes, .. } = record.content else { panic!("a gap") };
            assert_eq!(record.sequence, sequence);
            assert!(bytes.iter().all(|byte| *byte == sequence as u8));
            (read, sequence) = (read + bytes.len(), sequence + 1);
        }
        let waiting = produced().saturating_sub(read);
        assert!(waiting <= MOST_IN_FLIGHT, "{waiting} bytes wait for the reader");
    }
    assert_eq!(read, LOG_BYTES);
    served.stop().await;
}

#[tokio::test]
async fn readers_who_leave_end_the_work_behind_the_stream() {
    for job in [2, 3] {
        let agent = Arc::new(FakeAgent::default());
        let served = Served::agent(&agent).await;
        for client in served.agents() {
            agent.0.abandoned.store(false, Ordering::SeqCst);
            drop(client.logs(&alice(), query(job)).await.unwrap());
            until("the source is told", || agent.0.abandoned.load(Ordering::SeqCst)).await;
        }
        served.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_is_dropped_kills_the_command() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    for client in served.agents() {
        agent.0.abandoned.store(false, Ordering::SeqCst);
        let exec = ExecSpec { argv: vec!["cat".into()], tty: None, ..ExecSpec::default() };
        let session = client.exec(&alice(), task(7), exec).await.unwrap();
        drop(session.output);
        until("the command is told", || agent.0.abandoned.load(Ordering::SeqCst)).await;
        until("the input is closed", || session.input.is_closed()).await;
    }
    served.stop().await;
}

#[tokio::test]
async fn a_server_that_shuts_down_ends_its_streams_at_once() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let client = served.agents().remove(0);
    let mut logs = client.logs(&alice(), query(3)).await.unwrap();
    served.shutdown.cancel();
    let error = within("the end of the stream", logs.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(logs.recv().await, None);
    served.stop().await;
}
