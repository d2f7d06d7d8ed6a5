//! A job's life when nothing goes wrong with the platform: placing, launching, completion rules, retries.

use super::agent::Agent;
use super::cluster::Cluster;
use super::jobs::{job, role, submission, with};
use super::{failure, user};
use crate::api::ControllerApi;
use crate::domain::command::ErrorKind;
use crate::domain::exit::Exit;
use crate::domain::run::{Phase, Verb};
use crate::domain::ssh::{SEED_FEATURE, SEED_VARIABLE};
use crate::domain::view::JobView;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn how_far_staging_is_is_shown_until_it_is_over() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.script(|script| _ = script.hangs.insert(Verb::Stage));
    let id = cluster.submit(&job("pulling", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Staging).await;
    let run = cluster.run(id);
    let task = run.task_id(run.tasks[0].role, run.tasks[0].index);
    let line = "pulling a:1: 3 of 7 layers, 120 MB";
    cluster.agent("n1").with(|inner| inner.progress = vec![(task, line.to_owned())]);
    let shown = |view: JobView| view.tasks.unwrap().remove(0).progress;
    for _ in 0..40 {
        if shown(cluster.job(id).await).is_some() {
            break;
        }
        cluster.some_ticks().await;
    }
    assert_eq!(shown(cluster.job(id).await).as_deref(), Some(line));
    // An agent that goes on telling tells of nothing once its task is further.
    cluster.script(|script| script.hangs.clear());
    cluster.until_phase(id, Phase::Running).await;
    cluster.some_ticks().await;
    assert_eq!(shown(cluster.job(id).await), None);
}

#[tokio::test]
async fn a_gang_of_two_roles_over_two_nodes_gets_its_environment_and_succeeds() {
    let cluster = Cluster::new(&[("n1", 4), ("n2", 4)]).await;
    let ports = json!([{ "label": "mpi", "beginAt": 0, "portNumber": 2 }]);
    let ps = with(role("ps", 1, 3), "portList", ports);
    let gang = with(job("train", &[ps, role("worker", 2, 2)]), "jobEnvs", json!({ "EPOCHS": "3" }));
    let id = cluster.submit(&gang).await;
    cluster.until_phase(id, Phase::Running).await;

    let view = cluster.job(id).await;
    assert_eq!((view.state.as_str(), view.tasks_running, view.tasks_total, view.gpus_total), ("RUNNING", 3, 3, 7));
    let tasks = view.tasks.unwrap();
    let nodes: std::collections::BTreeSet<_> = tasks.iter().map(|task| task.node.clone().unwrap()).collect();
    assert_eq!(nodes.len(), 2, "3 + 2 + 2 GPUs need both nodes");
    for task in &tasks {
        let agent = cluster.agent(task.node.as_deref().unwrap());
        let environment: BTreeMap<String, String> =
            agent.see(|inner| inner.environments[&task.id.parse().unwrap()].iter().cloned().collect());
        let expected = [
            ("PAI_JOB_NAME", "train".to_owned()),
            ("PAI_USER_NAME", "ann".to_owned()),
            ("PAI_DEFAULT_FS_URI", "hdfs://default:9000".to_owned()),
            ("PAI_TASK_ROLE_LIST", "ps,worker".to_owned()),
            ("PAI_CURRENT_TASK_ROLE_NAME", task.role.clone()),
            ("PAI_TASK_INDEX", task.index.to_string()),
            ("PAI_CURRENT_CONTAINER_IP", task.ip.clone().unwrap()),
            ("PAI_CONTAINER_SSH_PORT", task.ports["ssh"][0].to_string()),
            ("NVIDIA_VISIBLE_DEVICES", task.gpus.join(",")),
            ("CUDA_VISIBLE_DEVICES", task.gpus.join(",")),
            ("WHARF_TASK_ID", task.id.clone()),
            ("WHARF_RUN_ID", id.to_string()),
            ("EPOCHS", "3".to_owned()),
        ];
        for (name, value) in expected {
            assert_eq!(environment.get(name), Some(&value), "{name} of {}", task.id);
        }
        // Everybody knows everybody's address and ports.
        for other in &tasks {
            let (role, index) = (&other.role, other.index);
            assert_eq!(environment[&format!("PAI_HOST_IP_{role}_{index}")], *other.ip.as_ref().unwrap());
            for (label, ports) in &other.ports {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                assert_eq!(environment[&format!("PAI_PORT_LIST_{role}_{index}_{label}")], ports.join(","));
            }
        }
    }
    assert_eq!(tasks[0].ports["mpi"].len(), 2);

    cluster.end_tasks(id, &Exit::success());
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "SUCCEEDED");
    assert_eq!(view.exit.unwrap().code, Some(0));
    assert!(view.tasks.unwrap().iter().all(|task| task.state == "SUCCEEDED"));
    assert_eq!(cluster.launches(cluster.run(id).id), [1, 1, 1]);
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_gang_over_processes_and_containers_tells_each_task_its_gpus_in_the_words_of_its_node() {
    let cluster = Cluster::with([Agent::new("n1", 2), Agent::with_containers("n2", 2)]).await;
    let id = cluster.submit(&job("mixed", &[role("worker", 2, 2)])).await;
    cluster.until_phase(id, Phase::Running).await;
    for task in cluster.job(id).await.tasks.unwrap() {
        let agent = cluster.agent(task.node.as_deref().unwrap());
        let environment: BTreeMap<String, String> =
            agent.see(|inner| inner.environments[&task.id.parse().unwrap()].iter().cloned().collect());
        let uuids = task.gpus.join(",");
        let cuda = if agent.name.0 == "n2" { "0,1" } else { uuids.as_str() };
        assert_eq!(environment["CUDA_VISIBLE_DEVICES"], cuda, "on {}", agent.name);
        assert_eq!(environment["NVIDIA_VISIBLE_DEVICES"], uuids, "on {}", agent.name);
    }
}

#[tokio::test]
async fn a_jobs_tasks_are_launched_only_when_all_of_them_are_at_their_barrier() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| script.stuck_prepare = true);
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    let prepared = |c: &Cluster, node: &str| c.agent(node).see(|inner| inner.holding().len() == 1);
    cluster.until("both hold", |c| prepared(c, "n1") && prepared(c, "n2")).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Preparing);
    assert!(cluster.launches(cluster.run(id).id).is_empty());
}

#[tokio::test]
async fn one_failure_ends_the_others_and_the_job() {
    let cluster = Cluster::new(&[("n1", 4)]).await;
    let id = cluster.submit(&job("fails", &[role("worker", 3, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    cluster.agent("n1").end(run.task_id(0, 1), failure(7));
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "FAILED");
    let exit = view.exit.unwrap();
    assert_eq!(exit.code, Some(7));
    assert!(exit.reason.starts_with("task worker[1]: "), "{}", exit.reason);
    let states: Vec<String> = view.tasks.unwrap().into_iter().map(|task| task.state).collect();
    assert_eq!(states, ["STOPPED", "FAILED", "STOPPED"]);
    cluster.check_all_free().await;
}

#[tokio::test]
async fn enough_successes_end_the_others_and_the_job() {
    let cluster = Cluster::new(&[("n1", 4)]).await;
    let chief = with(role("chief", 1, 1), "minSucceededTaskCount", json!(1));
    let id = cluster.submit(&job("chief-decides", &[chief, role("ps", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").end(cluster.run(id).task_id(0, 0), Exit::success());
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "SUCCEEDED");
    let states: Vec<String> = view.tasks.unwrap().into_iter().map(|task| task.state).collect();
    assert_eq!(states, ["SUCCEEDED", "STOPPED", "STOPPED"]);
}

#[tokio::test]
async fn a_failure_that_the_job_allows_frees_its_gpu_at_once_and_fails_nothing() {
    let cluster = Cluster::new(&[("n1", 2)]).await;
    let tolerant = with(role("worker", 2, 1), "minFailedTaskCount", json!(2));
    let id = cluster.submit(&job("tolerant", &[tolerant])).await;
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    cluster.agent("n1").end(run.task_id(0, 0), failure(1));
    cluster.until("it is released", |c| c.run(id).tasks[0].released).await;
    assert_eq!(cluster.phase(id), Phase::Running);
    // Somebody else may have the GPU while the rest of the job runs.
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    cluster.agent("n1").end(run.task_id(0, 1), Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
}

#[tokio::test]
async fn a_failed_job_gets_another_run_after_the_back_off_until_its_retries_are_used_up() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&with(job("again", &[role("worker", 1, 1)]), "retryCount", json!(2))).await;
    let mut runs = Vec::new();
    for attempt in 1..=3 {
        cluster.until_phase(id, Phase::Running).await;
        let run = cluster.run(id);
        assert_eq!(run.attempt, attempt);
        runs.push(run.id.0);
        cluster.end_tasks(id, &failure(1));
        if attempt < 3 {
            cluster
                .until("the next run waits", |c| c.phase(id) == Phase::Waiting && c.run(id).attempt == attempt + 1)
                .await;
            assert_eq!(cluster.state(id), "WAITING");
            let explained = cluster.controller.explain_job(&user("ann"), "again").await.unwrap();
            assert_eq!(explained.reasons[0].reason, "back_off", "{explained:?}");
            cluster.some_ticks().await;
            assert_eq!(cluster.phase(id), Phase::Waiting, "not before its back-off has passed");
            cluster.clock.advance(Duration::from_secs(2 * u64::from(attempt)));
        }
    }
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "FAILED");
    assert_eq!(view.runs.iter().map(|run| run.run_id).collect::<Vec<_>>(), runs);
    assert!(view.runs.iter().all(|run| run.state == "FAILED"));
    assert_eq!((runs[0], runs[1] > runs[0], runs[2] > runs[1]), (id, true, true));
    let previous = cluster.controller.get_job(&user("ann"), "again", Some(-1)).await.unwrap();
    assert!(previous.tasks.unwrap()[0].id.starts_with(&format!("{id}.{}.", runs[1])));
    let none = cluster.controller.get_job(&user("ann"), "again", Some(9999)).await.unwrap_err();
    assert_eq!(none.kind, ErrorKind::NotFound);
    cluster.check_all_free().await;
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_even_from_the_next_controller() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let file = job("once", &[role("worker", 1, 9)]);
    let first = cluster.controller.submit(&user("ann"), submission(&file, "r1")).await.unwrap();
    assert_eq!(first.warnings.len(), 1, "nine GPUs are never there: {:?}", first.warnings);
    let again = cluster.controller.submit(&user("ann"), submission(&file, "r1")).await.unwrap();
    assert_eq!((again.job_id, again.run_id, &again.name), (first.job_id, first.run_id, &first.name));
    let chain = cluster.job(first.job_id).await.chain_id;
    cluster.restart().await;
    let again = cluster.controller.submit(&user("ann"), submission(&file, "r1")).await.unwrap();
    assert_eq!((again.job_id, again.run_id), (first.job_id, first.run_id));
    assert_eq!(cluster.job(first.job_id).await.chain_id, chain);

    // Another user's request of that id is another request.
    let other = cluster.controller.submit(&user("bob"), submission(&file, "r1")).await.unwrap();
    assert_ne!(other.job_id, first.job_id);
    cluster.stop(first.job_id).await;
    cluster.until_ended(first.job_id).await;
    let again = cluster.controller.submit(&user("ann"), submission(&file, "r1")).await.unwrap();
    assert_eq!(again.job_id, first.job_id, "also when the job has ended");
}

#[tokio::test]
async fn a_name_is_free_again_once_its_job_has_ended() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let file = job("name", &[role("worker", 1, 1)]);
    let first = cluster.submit(&file).await;
    let refused = cluster.controller.submit(&user("ann"), submission(&file, "r2")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    assert!(refused.message.contains(&format!("job {first} of ann is unfinished")), "{}", refused.message);
    cluster.restart().await;
    let refused = cluster.controller.submit(&user("ann"), submission(&file, "r2")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    cluster.until_phase(first, Phase::Running).await;
    cluster.end_tasks(first, &Exit::success());
    cluster.until_ended(first).await;
    // What was refused was not remembered as an answer.
    let second = cluster.controller.submit(&user("ann"), submission(&file, "r2")).await.unwrap();
    assert!(second.job_id > first);
}

#[tokio::test]
async fn nothing_is_kept_of_a_dry_run_or_of_a_file_with_mistakes() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let mut dry = submission(&job("dry", &[role("worker", 1, 1)]), "r1");
    dry.dry_run = true;
    let answer = cluster.controller.submit(&user("ann"), dry).await.unwrap();
    assert_eq!((answer.job_id, answer.run_id, answer.name.as_str()), (0, 0, "dry"));
    let wrong = with(job("wrong", &[with(role("worker", 0, 1), "command", json!(""))]), "image", json!(""));
    let error = cluster.controller.submit(&user("ann"), submission(&wrong, "r2")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    let fields: Vec<&str> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["image", "taskRoles[0].taskNumber", "taskRoles[0].command"]);
    for name in ["", "a/b", "a\nb"] {
        let error = cluster.controller.submit(&user(name), submission(&wrong, "")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{name:?}");
    }
    assert_eq!(cluster.keys().await, Vec::<String>::new());
    assert_eq!(cluster.agent("n1").see(|inner| inner.count(Verb::Stage)), 0);
}

#[tokio::test]
async fn what_keys_come_from_goes_to_agents_that_announce_it_and_into_no_environment() {
    for features in [vec![], vec![SEED_FEATURE.to_owned()]] {
        let agent = Agent::with_containers("n1", 1);
        agent.with(|inner| inner.features = features.clone());
        let cluster = Cluster::with([agent]).await;
        let id = cluster.submit(&job("train", &[role("worker", 1, 1)])).await;
        cluster.until_phase(id, Phase::Running).await;
        cluster.agent("n1").see(|inner| {
            assert_eq!(inner.ssh_seeds.len(), features.len(), "{features:?}");
            let environment = inner.environments.values().next().unwrap();
            assert!(environment.iter().all(|(name, _)| name != SEED_VARIABLE), "{environment:?}");
        });
    }
}
