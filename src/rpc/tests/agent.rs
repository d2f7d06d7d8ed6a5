//! Every method of the agent, there and back.

use super::fakes::{FakeAgent, Notes, revealed};
use super::samples::{self, spec, status};
use super::*;
use crate::api::agent::{AgentApi, AgentDialer, WatchedStatus};
use crate::api::stream::{ExecInput, ExecOutput, ExecSignal, ExecSpec, LogQuery, StreamFilter};
use crate::domain::secret::{Secret, TaskSecrets};
use crate::domain::ssh::SshSeed;
use crate::domain::time::Timestamp;

#[tokio::test]
async fn every_method_arrives_and_answers_whole() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    for client in served.agents() {
        let (id, who) = (task(7), alice());
        let noted = |method: &str, what: &dyn std::fmt::Debug| {
            assert_eq!(agent.0.last(), Notes::form(method, &alice(), what));
        };
        assert_eq!(client.stage(header(), spec()).await.unwrap(), status(1));
        noted("stage", &(header(), spec()));
        assert_eq!(client.prepare(header(), spec()).await.unwrap(), status(2));
        noted("prepare", &(header(), spec()));
        let env = vec![("A".to_owned(), "1\n2".to_owned()), ("A".to_owned(), String::new())];
        let secret_env = vec![("S".to_owned(), Secret::new("hidden"))];
        let secrets = TaskSecrets { env: secret_env, ssh_seed: Some(SshSeed::new([7; 64])) };
        for secrets in [TaskSecrets::default(), secrets] {
            assert_eq!(client.launch(header(), id, env.clone(), secrets.clone()).await.unwrap(), status(3));
            noted("launch", &(header(), id, env.clone(), revealed(&secrets)));
        }
        assert_eq!(client.stop(header(), id, 1 << 40).await.unwrap(), status(4));
        noted("stop", &(header(), id, 1u64 << 40));
        assert_eq!(client.release(header(), id).await.unwrap(), status(5));
        noted("release", &(header(), id));
        let page = (vec![status(1), status(2)], "next".to_owned());
        assert_eq!(client.list_tasks(&who, 5000, "token").await.unwrap(), page);
        noted("list_tasks", &(1000, "token"));
        assert_eq!(client.get_node(&who).await.unwrap(), samples::node_info("node-1"));
    }
    served.stop().await;
}

#[tokio::test]
async fn streams_arrive_in_order_and_end() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    for client in served.agents() {
        let mut watched = client.watch(&alice(), Some("j-1:0".into())).await.unwrap();
        assert_eq!(agent.0.last(), Notes::form("watch", &alice(), &Some("j-1:0")));
        for i in [1, 2] {
            let expected = WatchedStatus { status: status(i), cursor: format!("j-1:{i}") };
            assert_eq!(watched.recv().await, Some(Ok(expected)));
        }
        assert_eq!(watched.recv().await, None);

        let query = LogQuery {
            task: task(1),
            cursor: Some("1.1.0.1:0.0".into()),
            stream: StreamFilter::Stderr,
            follow: true,
            since: Some(Timestamp(77)),
            tail: Some(0),
        };
        let mut logs = client.logs(&alice(), query.clone()).await.unwrap();
        assert_eq!(agent.0.last(), Notes::form("logs", &alice(), &query));
        for batch in samples::batches() {
            assert_eq!(logs.recv().await, Some(Ok(batch)));
        }
        assert_eq!(logs.recv().await, None);
    }
    served.stop().await;
}

#[tokio::test]
async fn commands_run_interactively() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    for client in served.agents() {
        let exec = ExecSpec {
            argv: vec!["bash".into(), "-c".into(), String::new()],
            tty: Some((24, 80)),
            ..ExecSpec::default()
        };
        let mut session = client.exec(&alice(), task(7), exec.clone()).await.unwrap();
        assert_eq!(agent.0.last(), Notes::form("exec", &alice(), &(task(7), &exec)));
        let said = format!("{exec:?}").into_bytes();
        assert_eq!(session.output.recv().await, Some(Ok(ExecOutput::Stdout(said))));
        session.input.send(ExecInput::Stdin(b"one".to_vec())).await.unwrap();
        assert_eq!(session.output.recv().await, Some(Ok(ExecOutput::Stderr(b"one".to_vec()))));
        // More than one message holds, in one piece.
        let large: Vec<u8> = (0..5 << 20).map(|i| i as u8).collect();
        session.input.send(ExecInput::Stdin(large.clone())).await.unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < large.len() {
            match within("the echo", session.output.recv()).await {
                Some(Ok(ExecOutput::Stderr(bytes))) => echoed.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(echoed == large);
        for (input, said) in [
            (ExecInput::Resize(50, 200), "Resize(50, 200)"),
            (ExecInput::Signal(ExecSignal::Interrupt), "Signal(Interrupt)"),
            (ExecInput::Signal(ExecSignal::Terminate), "Signal(Terminate)"),
        ] {
            // The end of its input is not the end of what it can be told.
            session.input.send(ExecInput::Eof).await.unwrap();
            session.input.send(input).await.unwrap();
            let echo = within("the echo", session.output.recv()).await;
            assert_eq!(echo, Some(Ok(ExecOutput::Stderr(said.as_bytes().to_vec()))));
        }
        drop(session.input);
        assert_eq!(within("the exit", session.output.recv()).await, Some(Ok(ExecOutput::Exited(7))));
        assert_eq!(session.output.recv().await, None);
    }
    served.stop().await;
}

#[tokio::test]
async fn dialed_agents_answer() {
    let agent = Arc::new(FakeAgent::default());
    let served = Served::agent(&agent).await;
    let dialer = Dialer::default();
    for address in &served.addresses {
        assert_eq!(
            dialer.dial(&"node-1".into(), address).unwrap().get_node(&alice()).await.unwrap(),
            samples::node_info("node-1")
        );
    }
    served.stop().await;
}
