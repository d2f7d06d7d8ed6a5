//! Lists, pages, and which job a text means.

use super::cluster::Cluster;
use super::jobs::{job, role, submission};
use super::user;
use crate::api::ControllerApi;
use crate::api::controller::JobFilter;
use crate::domain::command::ErrorKind;
use crate::domain::exit::Exit;
use crate::domain::run::Phase;

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let mut all = Vec::new();
    for number in 0..7 {
        let who = user(if number % 3 == 0 { "bob" } else { "ann" });
        let file = job(&format!("job-{number}"), &[role("worker", 1, 8)]);
        all.push(cluster.controller.submit(&who, submission(&file, "")).await.unwrap().job_id);
    }
    cluster.stop(all[1]).await;
    cluster.until_ended(all[1]).await;
    let pages = async |filter: JobFilter, size: u32| {
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let (page, next) =
                cluster.controller.list_jobs(&user("ann"), filter.clone(), size, &token).await.unwrap();
            assert!(page.iter().all(|job| job.tasks.is_none()));
            pages.push(page.iter().map(|job| job.job_id).collect::<Vec<_>>());
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    };
    let unfinished: Vec<u64> = all.iter().rev().copied().filter(|id| *id != all[1]).collect();
    let expected: Vec<Vec<u64>> = unfinished.chunks(2).map(<[u64]>::to_vec).collect();
    assert_eq!(pages(JobFilter::default(), 2).await, expected);
    assert_eq!(pages(JobFilter { all: true, user: None }, 100).await.concat().len(), 7);
    let bobs = JobFilter { all: true, user: Some("bob".into()) };
    assert_eq!(pages(bobs, 1).await.concat(), [all[6], all[3], all[0]]);
    assert_eq!(pages(JobFilter { all: true, user: Some("eve".into()) }, 0).await, [Vec::<u64>::new()]);
}

#[tokio::test]
async fn a_page_token_that_no_list_has_given_is_refused() {
    let cluster = Cluster::new(&[]).await;
    for token in ["x", "-1", "1.5", " ", "99999999999999999999999"] {
        let error = cluster.controller.list_jobs(&user("ann"), JobFilter::default(), 10, token).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{token:?}");
        assert!(error.message.contains(token), "{}", error.message);
    }
}

#[tokio::test]
async fn a_job_is_found_by_number_name_and_owner() {
    let cluster = Cluster::new(&[("n1", 2)]).await;
    let file = job("train", &[role("worker", 1, 1)]);
    let old = cluster.submit(&file).await;
    cluster.until_phase(old, Phase::Running).await;
    cluster.end_tasks(old, &Exit::success());
    cluster.until_ended(old).await;
    let bobs = cluster.controller.submit(&user("bob"), submission(&file, "")).await.unwrap().job_id;
    let found =
        async |who: &str, text: &str| cluster.controller.get_job(&user(who), text, None).await.map(|job| job.job_id);
    assert_eq!(found("ann", &old.to_string()).await, Ok(old));
    assert_eq!(found("ann", "train").await, Ok(old), "the newest, if none is unfinished");
    assert_eq!(found("bob", "train").await, Ok(bobs));
    assert_eq!(found("ann", "bob/train").await, Ok(bobs));
    let newer = cluster.submit(&file).await;
    assert_eq!(found("ann", "train").await, Ok(newer), "the unfinished one");
    assert_eq!(found("bob", "ann/train").await, Ok(newer));

    let not_found = async |who: &str, text: &str| {
        let error = cluster.controller.get_job(&user(who), text, None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{text}");
        error.message
    };
    assert_eq!(not_found("ann", "trains").await, "ann has no job named 'trains'; 'train' is the nearest name");
    let message = not_found("eve", "train").await;
    assert_eq!(message, "eve has no job named 'train'; others have: ann/train, bob/train");
    assert_eq!(not_found("ann", "99999").await, "there is no job 99999");
    assert_eq!(not_found("ann", "99999999999999999999999").await, "there is no job 99999999999999999999999");
    assert_eq!(not_found("eve", "something").await, "eve has no job named 'something'");
    let empty = cluster.controller.get_job(&user("ann"), "", None).await.unwrap_err();
    assert_eq!(empty.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_job_without_a_previous_run_says_which_runs_it_has() {
    let cluster = Cluster::new(&[]).await;
    let id = cluster.submit(&job("one", &[role("worker", 1, 1)])).await;
    for (run, what) in [(-1, "previous run"), (-2, "run -2"), (i64::MIN, "run -"), (0, "run 0")] {
        let error = cluster.controller.get_job(&user("ann"), "one", Some(run)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let expected = format!("its runs are {id}");
        assert!(error.message.contains(what) && error.message.contains(&expected), "{}", error.message);
    }
    let same = i64::try_from(id).unwrap();
    assert_eq!(cluster.controller.get_job(&user("ann"), "one", Some(same)).await.unwrap().run_id, id);
}

#[tokio::test]
async fn gpus_are_listed_with_the_tasks_that_have_them() {
    let cluster = Cluster::new(&[("n1", 2), ("n2", 1)]).await;
    let id = cluster.submit(&job("two", &[role("worker", 1, 2)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let gpus = cluster.controller.list_gpus(&user("ann"), None).await.unwrap();
    let held: Vec<Option<String>> = gpus.iter().map(|gpu| gpu.task.clone()).collect();
    let task = Some(format!("{id}.{id}.0.0"));
    assert_eq!(held, [task.clone(), task, None]);
    let detail = cluster.controller.describe_node(&user("ann"), "n1").await.unwrap();
    let shown: Vec<_> =
        detail.tasks.iter().map(|task| (task.job.as_str(), task.user.as_str(), task.gpus.len())).collect();
    assert_eq!(shown, [("two", "ann", 2)]);
    let held = detail.tasks[0].cpus;
    assert_eq!((detail.cpus_free, detail.gpus.len()), (detail.node.cpus - held, 2));
    let elsewhere = cluster.controller.describe_node(&user("ann"), "n2").await.unwrap();
    assert_eq!((elsewhere.tasks.len(), elsewhere.cpus_free), (0, elsewhere.node.cpus));
    assert_eq!(cluster.controller.describe_node(&user("ann"), "n3").await.unwrap_err().kind, ErrorKind::NotFound);
    let error = cluster.controller.list_gpus(&user("ann"), Some("n3")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.starts_with("there is no node 'n3'; 'n"), "{}", error.message);
}
