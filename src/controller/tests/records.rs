//! Job files as they were submitted: kept as long as their jobs, and no longer.

use super::cluster::Cluster;
use super::jobs::{job, role, submission};
use super::user;
use crate::api::controller::{JobFilter, Submit};
use crate::api::{ControllerApi, RecordsApi};
use crate::domain::command::ErrorKind;
use crate::store::Range;

#[tokio::test]
async fn a_file_is_kept_byte_for_byte_and_goes_with_its_job() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let ann = user("ann");
    // More than one value of the store holds.
    let padding = " ".repeat(400_000);
    let content = format!("// {padding}\n{}", job("kept", &[role("worker", 1, 8)])).into_bytes();
    let submit = Submit { content: content.clone(), ..submission(&job("x", &[]), "") };
    let id = cluster.controller.submit(&ann, submit.clone()).await.unwrap().job_id;
    assert_eq!(cluster.controller.job_file(&ann, "kept").await.unwrap(), Some(content.clone()));
    let dry = Submit { dry_run: true, ..submission(&job("dry", &[role("w", 1, 1)]), "") };
    cluster.controller.submit(&ann, dry).await.unwrap();
    assert_eq!(cluster.controller.job_file(&ann, "dry").await.unwrap_err().kind, ErrorKind::NotFound);

    cluster.restart().await;
    let refused = cluster.controller.job_file(&user("bob"), "ann/kept").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotAllowed, "it may say more than its owner wants others to read");
    let files = cluster.store.range(Range::prefix("file/")).await.unwrap().0;
    assert_eq!(files.len(), 2, "two chunks of one file");

    // Of a job that was submitted before files were kept there is none.
    for entry in files {
        let op = crate::store::Op::Delete { key: entry.key };
        let delete = crate::store::Transaction { compares: Vec::new(), ops: vec![op] };
        cluster.store.commit(delete).await.unwrap();
    }
    assert_eq!(cluster.controller.job_file(&ann, &id.to_string()).await.unwrap(), None);
}

#[tokio::test]
async fn a_record_has_what_was_asked_and_where_it_is() {
    let cluster = Cluster::new(&[("n1", 4)]).await;
    let id = cluster.submit(&job("train", &[role("worker", 1, 2)])).await;
    cluster.until_phase(id, crate::domain::run::Phase::Running).await;
    let record = cluster.controller.get_record(&user("ann"), &id.to_string()).await.unwrap();
    assert_eq!((record.spec.name.as_str(), record.job.name.as_str()), ("train", "train"));
    let tasks = record.view.tasks.unwrap();
    let mut indexes: Vec<u32> = tasks[0].gpus.iter().map(|gpu| record.gpu_indexes[gpu]).collect();
    indexes.sort_unstable();
    assert_eq!((tasks.len(), indexes.len()), (1, 2));
    assert!(indexes.iter().all(|index| *index < 4) && indexes[0] != indexes[1], "{indexes:?}");
    let (page, next) = cluster.controller.list_records(&user("ann"), JobFilter::default(), 10, "").await.unwrap();
    assert_eq!((page.len(), next.as_str(), page[0].view.tasks.is_none()), (1, "", true));
}
