//! `wharf demo`: the main job from end to end, over real sockets, shims and processes, on this machine alone.

mod choice;
mod clear;

use self::choice::{Choice, choose};
use self::clear::{Folder, clear_away, end};
use super::args::DemoArgs;
use super::context::Context;
use super::exit_code::{FAILED, OK};
use super::fail::Failure;
use super::serve::{parse, start_both};
use super::signals::interrupted;
use super::wait::{has_ended, wait_for_end};
use super::{jobs, logs, nodes};
use crate::api::ControllerApi;
use crate::api::controller::{JobFilter, Submit};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::view::{JobView, Submitted};
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const JOB: &str = include_str!("demo.json");
/// As the job file says it.
const JOB_NAME: &str = "demo";
/// For the node to join, for the tasks to begin, and for them to be gone at the end.
const PATIENCE: Duration = Duration::from_secs(30);
const STOP_GRACE_MS: u64 = 1_000;
/// Between two looks at what changes by itself within moments.
const LOOK: Duration = Duration::from_millis(20);

pub async fn demo(context: &Context, args: DemoArgs) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let unread = |failure| ended_unread(context, failure);
    let first = format!("wharf {version}: a controller and a node in this process run a job of two roles");
    say(context, &first).map_err(unread)?;
    let Choice { node, image, why } = choose(&args.node).await;
    why.iter().try_for_each(|line| say(context, line)).map_err(unread)?;
    let mut folder = Folder::make(args.data_dir.as_deref())?;
    let cancel = CancellationToken::new();
    let address = || parse("127.0.0.1:0", "127.0.0.1:0");
    let starting = start_both(&folder.path, address()?, address()?, &node, false, cancel.clone());
    let both = tokio::select! {
        both = starting => both?,
        failure = interrupted() => return Err(failure),
    };
    let inner = context.with_controller(&both.controller.addresses[0]);
    let (controller, agent) = (inner.controller()?, inner.agent(&both.agent.addresses[0])?);
    let played = tokio::select! {
        played = play(&inner, image) => played,
        failure = interrupted() => {
            inner.remark("stopping the job: it lives in this demo only");
            Err(failure)
        }
    };
    let cleared = clear_away(&inner, &*controller, &*agent).await;
    end(both, cancel).await;
    let played = played.map_err(|failure| ended_unread(&inner, failure));
    let Err(error) = cleared else { return played };
    folder.keep = true;
    let path = folder.path.display();
    inner.remark(&format!("its tasks may still run ({error}); 'wharf dev --data-dir {path}' takes them over again"));
    played.and(Err(Failure::Silent(FAILED)))
}

/// A demo that nobody watched to its end did not succeed.
fn ended_unread(context: &Context, failure: Failure) -> Failure {
    match failure {
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            context.remark("nobody reads the demo any more: it ends, and its job with it");
            Failure::Silent(FAILED)
        }
        failure => failure,
    }
}

async fn play(context: &Context, image: &str) -> Result<u8, Failure> {
    let controller = context.controller()?;
    wait_for_node(&*controller, context).await?;
    let submitted = submit(&*controller, context, image).await?;
    let job = submitted.job_id.to_string();
    say(context, &format!("\nQUEUE: job {job} is submitted"))?;
    let (queue, _) = controller.list_jobs(&context.who, JobFilter::default(), 10, "").await?;
    say(context, jobs::jobs_table(&queue).trim_end())?;
    wait_until_it_runs(&*controller, context, &job).await?;
    say(context, "\nGPUS: who holds which")?;
    let gpus = controller.list_gpus(&context.who, None).await?;
    say(context, nodes::gpus_table(&gpus).trim_end())?;
    say(context, "\nTASKS")?;
    show_tasks(&*controller, context, &job).await?;
    say(context, "\nOUTPUT: from the tasks, through shim, agent and controller")?;
    if let Some(incomplete) = logs::follow_job(context, controller.clone(), &job).await? {
        return Err(incomplete.into());
    }
    let ended = wait_for_end(&*controller, context, &job).await?;
    say(context, &format!("\nEND: job {job} {}: {}", ended.state, ended.reason.as_deref().unwrap_or_default()))?;
    show_tasks(&*controller, context, &job).await?;
    if context.json {
        context.print_json(&ended)?;
    }
    Ok(if ended.state == "SUCCEEDED" { OK } else { FAILED })
}

/// What is shown beside the log goes to stderr under `--json`, so that stdout stays a stream of objects.
fn say(context: &Context, text: &str) -> Result<(), Failure> {
    if context.json {
        eprintln!("{text}");
        return Ok(());
    }
    context.print(&format!("{text}\n"))
}

/// The job file for a node with this many GPUs: two of them for each of two workers, or what there is.
fn job_file(gpus: usize, image: &str) -> Result<Vec<u8>, Error> {
    let broken = |error| Error::internal(format!("reading the demo's own job file: {error}"));
    let mut file: serde_json::Value = serde_json::from_str(JOB).map_err(broken)?;
    file["image"] = image.into();
    let workers = &mut file["taskRoles"][1];
    workers["taskNumber"] = if gpus == 1 { 1 } else { 2 }.into();
    workers["gpuNumber"] = if gpus == 1 { 1 } else { (gpus / 2).min(2) }.into();
    serde_json::to_vec(&file).map_err(broken)
}

/// A folder that was kept may hold the job of a demo that was killed: it goes first.
async fn submit(controller: &dyn ControllerApi, context: &Context, image: &str) -> Result<Submitted, Failure> {
    let gpus = controller.list_gpus(&context.who, None).await?.len();
    let submit = Submit {
        file_name: "demo.json".to_owned(),
        content: job_file(gpus, image)?,
        request_id: uuid::Uuid::new_v4().to_string(),
        dry_run: false,
    };
    // Its file is faultless: what there is to warn of is the node, which stays as it is.
    let tried = controller.submit(&context.who, Submit { dry_run: true, ..submit.clone() }).await;
    if let Some(warning) = tried.as_ref().ok().and_then(|tried| tried.warnings.first()) {
        let message = format!("the demo's job does not fit; change --gpus, --cpus or --memory-mb: {warning}");
        return Err(Error::refused(message).into());
    }
    match controller.submit(&context.who, submit.clone()).await {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            context.remark(&format!("an earlier demo left its job: {error}; stopping it"));
            let old = controller.stop_job(&context.who, JOB_NAME, Some(STOP_GRACE_MS)).await?;
            let id = old.job_id.to_string();
            let ended = wait_for_end(controller, context, &id);
            let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the job of the earlier demo does not end");
            tokio::time::timeout(PATIENCE, ended).await.map_err(late)??;
            Ok(controller.submit(&context.who, submit).await?)
        }
        submitted => Ok(submitted?),
    }
}

async fn show_tasks(controller: &dyn ControllerApi, context: &Context, job: &str) -> Result<(), Failure> {
    let view = controller.get_job(&context.who, job, None).await?;
    say(context, jobs::tasks_table(view.tasks.as_deref().unwrap_or_default()).trim_end())
}

/// Waits until all tasks run, or the job has ended already.
async fn wait_until_it_runs(controller: &dyn ControllerApi, context: &Context, job: &str) -> Result<(), Failure> {
    let all_run = |job: &JobView| job.tasks_running == job.tasks_total;
    let running = async {
        loop {
            let view = controller.get_job(&context.who, job, None).await?;
            if all_run(&view) || has_ended(&view) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    if let Ok(result) = tokio::time::timeout(PATIENCE, running).await {
        return result;
    }
    let why = controller.explain_job(&context.who, job).await?.summary;
    let seconds = PATIENCE.as_secs();
    Err(Error::refused(format!("the tasks of the demo did not begin in {seconds} s: {why}")).into())
}

async fn wait_for_node(controller: &dyn ControllerApi, context: &Context) -> Result<(), Failure> {
    let joined = async {
        // A folder that was kept knows its node, which has yet to come back.
        while !controller.list_nodes(&context.who).await?.iter().any(|node| node.state == "READY") {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    let late = |_| Error::new(ErrorKind::DeadlineExceeded, "the node did not join the controller in time");
    tokio::time::timeout(PATIENCE, joined).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_fits_whatever_gpus_there_are() {
        for (gpus, workers, each) in [(0, 2, 0), (1, 1, 1), (2, 2, 1), (3, 2, 1), (4, 2, 2), (8, 2, 2)] {
            let parsed = crate::jobfile::parse("demo.json", &job_file(gpus, "none").unwrap()).unwrap();
            assert_eq!(parsed.spec.name, JOB_NAME);
            assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
            let role = &parsed.spec.roles[1];
            assert_eq!((role.count, role.gpus), (workers, each), "{gpus} GPUs");
        }
    }
}
