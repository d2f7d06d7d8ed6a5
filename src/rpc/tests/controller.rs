//! Every method of the controller, there and back, and several controllers.

use super::fakes::{FakeController, Notes};
use super::samples;
use super::*;
use crate::api::controller::{ControllerApi, EventFilter, JobFilter, Submit};
use crate::api::stream::{ExecOutput, ExecSpec, LogQuery, StreamFilter};
use crate::domain::command::{ErrorKind, HeartbeatReply, Registered, Registration, SequencedStatus};
use crate::domain::fault::FaultId;
use crate::domain::level::Level;
use crate::domain::node::NodeChange;
use crate::domain::remediation::Permit;
use crate::domain::ssh::{SshAccess, SshSeed};
use std::sync::atomic::Ordering;

fn submit() -> Submit {
    Submit { file_name: "job.json".into(), content: vec![0, 255, 10], request_id: "r-9".into(), dry_run: true }
}

#[tokio::test]
async fn every_question_of_a_user_arrives_and_answers_whole() {
    let controller = Arc::new(FakeController::default());
    controller.0.many_tasks.store(2, Ordering::SeqCst);
    let served = Served::controller(&controller).await;
    for client in served.controllers() {
        let who = alice();
        let noted = |method: &str, what: &dyn std::fmt::Debug| {
            assert_eq!(controller.0.last(), Notes::form(method, &alice(), what));
        };
        assert_eq!(client.submit(&who, submit()).await.unwrap(), samples::submitted());
        noted("submit", &(&submit(), &submit().content));
        let filter = JobFilter { all: true, user: Some("bob".into()) };
        let page = (vec![samples::job_view(None)], "next".to_owned());
        assert_eq!(client.list_jobs(&who, filter.clone(), 10, "t").await.unwrap(), page);
        noted("list_jobs", &(filter, 10, "t"));
        let job = client.get_job(&who, "bob/train", Some(-1)).await.unwrap();
        assert_eq!(job, samples::job_view(Some(vec![samples::task_view(); 2])));
        noted("get_job", &("bob/train", Some(-1)));
        assert_eq!(client.explain_job(&who, "7").await.unwrap(), samples::explanation());
        noted("explain_job", &"7");
        let access = SshAccess::of(7, &SshSeed::new([7; 64]));
        assert_eq!(client.ssh_access(&who, "7").await.unwrap(), access);
        noted("ssh_access", &"7");
        assert_eq!(client.stop_job(&who, "7", Some(0)).await.unwrap(), samples::job_view(None));
        noted("stop_job", &("7", Some(0)));
        assert_eq!(client.list_nodes(&who).await.unwrap(), vec![samples::node_view()]);
        assert_eq!(client.describe_node(&who, "node-1").await.unwrap(), samples::node_detail());
        noted("describe_node", &"node-1");
        assert_eq!(client.list_gpus(&who, Some("node-1")).await.unwrap(), vec![samples::gpu_view()]);
        noted("list_gpus", &Some("node-1"));
        let (reason, deadline) = ("fan".to_owned(), Some(std::time::Duration::from_millis(1500)));
        for change in [
            NodeChange::Cordon { reason: reason.clone() },
            NodeChange::Uncordon,
            NodeChange::Drain { reason: reason.clone(), deadline },
            NodeChange::Drain { reason, deadline: None },
            NodeChange::Remove { force: true },
            NodeChange::Remove { force: false },
        ] {
            assert_eq!(client.change_node(&who, "node-1", change.clone()).await.unwrap(), samples::node_view());
            noted("change_node", &("node-1", change));
        }
        client.list_gpus(&who, None).await.unwrap();
        noted("list_gpus", &None::<&str>);
    }
    controller.0.many_tasks.store(0, Ordering::SeqCst);
    let job = served.controllers()[0].get_job(&alice(), "7", None).await.unwrap();
    assert_eq!(job, samples::job_view(Some(Vec::new())));
    served.stop().await;
}

#[tokio::test]
async fn what_agents_say_arrives_whole() {
    let controller = Arc::new(FakeController::default());
    let served = Served::controller(&controller).await;
    for client in served.controllers() {
        let who = Principal { user: "node-1".into(), uid: None, roles: vec![Role::Agent] };
        let registered = Registered { cluster_id: "c-1".into(), term: Term(5), heartbeat_ms: 2000, level: Level(4) };
        assert_eq!(client.register(&who, samples::registration()).await.unwrap(), registered);
        assert_eq!(controller.0.last(), Notes::form("register", &who, &samples::registration()));
        let reply = HeartbeatReply {
            term: Term(5),
            register_again: true,
            faults_version: 9,
            permit: Some(Permit { fault: FaultId(7), refusal: Some("2 of 10 nodes are out".to_owned()) }),
        };
        assert_eq!(client.heartbeat(&who, samples::heartbeat()).await.unwrap(), reply);
        assert_eq!(controller.0.last(), Notes::form("heartbeat", &who, &samples::heartbeat()));
        let statuses = vec![SequencedStatus { sequence: 77, status: samples::status(3) }];
        let (uid, journal) = ("u-1".into(), "j-1".into());
        assert_eq!(client.report(&who, uid, journal, statuses.clone()).await.unwrap(), 77);
    }
    served.stop().await;
}

#[tokio::test]
async fn streams_arrive_and_end() {
    let controller = Arc::new(FakeController::default());
    let served = Served::controller(&controller).await;
    for client in served.controllers() {
        let filter = EventFilter { after: Some(0), follow: true, job: Some("7".into()), node: None };
        let mut events = client.watch(&alice(), filter.clone()).await.unwrap();
        assert_eq!(controller.0.last(), Notes::form("watch", &alice(), &filter));
        assert_eq!(events.recv().await, Some(Ok(samples::event())));
        assert_eq!(events.recv().await, None);

        let stream = StreamFilter::All;
        let query = LogQuery { task: task(4), cursor: None, stream, follow: false, since: None, tail: None };
        let mut logs = client.logs(&alice(), query).await.unwrap();
        assert_eq!(logs.recv().await.unwrap().unwrap(), samples::batches()[0]);
        let error = logs.recv().await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::OutOfRange, "the oldest cursor is 1.1.0.1:77.0")
        );
        assert_eq!(logs.recv().await, None);

        let exec = ExecSpec { argv: vec!["true".into()], tty: None, ..ExecSpec::default() };
        let mut session = client.exec(&alice(), task(7), exec).await.unwrap();
        drop(session.input);
        assert!(matches!(session.output.recv().await, Some(Ok(ExecOutput::Stdout(_)))));
        assert_eq!(session.output.recv().await, Some(Ok(ExecOutput::Exited(7))));
    }
    served.stop().await;
}

#[tokio::test]
async fn the_next_controller_is_asked_when_one_is_away() {
    let (standby, leader) = (Arc::new(FakeController::default()), Arc::new(FakeController::default()));
    *standby.0.failure.lock().unwrap() = Some(Error::unavailable("not the leader"));
    let (first, second) = (Served::controller(&standby).await, Served::controller(&leader).await);
    let dead = failures::dead_address().await;
    let client = ControllerClient::new(&[&dead, first.tcp(), second.tcp()]).unwrap();
    let unnamed = Submit { request_id: String::new(), ..submit() };
    assert_eq!(client.submit(&alice(), unnamed.clone()).await.unwrap(), samples::submitted());
    // Both were asked for the same submission, so that it cannot be taken twice.
    assert_eq!(standby.0.last(), leader.0.last());
    assert!(!leader.0.last().contains("request_id: \"\""), "{}", leader.0.last());
    client.list_nodes(&alice()).await.unwrap();
    assert_eq!(standby.0.count(), 1, "the one that answered last is asked first");
    second.stop().await;
    let error = client.list_nodes(&alice()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains(&dead) && error.message.contains("not the leader"), "{error}");
    first.stop().await;
    assert!(ControllerClient::new(&[] as &[&str]).is_err());
}

#[test]
fn fields_of_the_next_level_are_passed_over() {
    use crate::rpc::generated as pb;
    use prost::Message;
    // A number, a text and a message, in fields that no message of ours has.
    let more = [0xf8, 0x7f, 0x05, 0xf2, 0x7f, 0x01, b'x', 0xea, 0x7f, 0x02, 0x08, 0x01];
    fn same<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, more: &[u8]) {
        let longer = [message.encode_to_vec(), more.to_vec()].concat();
        assert_eq!(M::decode(&*longer).unwrap(), *message);
    }
    let who = Principal { user: "node-1".into(), uid: None, roles: vec![Role::Agent] };
    let register = crate::rpc::convert::node::register_request(who.clone(), samples::registration());
    same(&register, &more);
    same(&register.inventory.clone().unwrap(), &more);
    same(&crate::rpc::convert::node::heartbeat_request(who, samples::heartbeat()), &more);
    same(&pb::RegisterReply { cluster_id: "c".into(), term: 1, heartbeat_ms: 2, level: 3 }, &more);
    same(&pb::CommandHeader::from(super::header()), &more);
    same(&pb::TaskSpec::from(samples::spec()), &more);
}

#[test]
fn peers_from_before_there_were_levels_are_of_the_first() {
    use crate::rpc::generated as pb;
    let who = Principal { user: "node-1".into(), uid: None, roles: vec![Role::Agent] };
    let mut register = crate::rpc::convert::node::register_request(who, samples::registration());
    register.level = 0;
    assert_eq!(Registration::try_from(register).unwrap().level, Level::FIRST);
    let reply = pb::RegisterReply { cluster_id: "c".into(), term: 1, heartbeat_ms: 2, level: 0 };
    assert_eq!(Registered::try_from(reply).unwrap().level, Level::FIRST);
    let header = pb::CommandHeader { level: 0, ..super::header().into() };
    assert_eq!(CommandHeader::try_from(header).unwrap().level, Level::FIRST);
}
