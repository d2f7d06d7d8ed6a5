//! `wharf submit`.

use super::args::SubmitArgs;
use super::context::Context;
use super::exit_code::{FAILED, OK};
use super::fail::{Failure, bad_usage};
use super::logs;
use super::output::{Muted, reader_gone};
use super::signals::interrupted;
use super::wait::wait_for_end;
use crate::api::ControllerApi;
use crate::api::controller::Submit;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use crate::domain::view::{JobView, Submitted};
use crate::rpc;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// Pauses before a submit that was cut is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

pub async fn submit(context: &Context, args: SubmitArgs) -> Result<u8, Failure> {
    let content = read_job_file(&args.file)?;
    let context = context.for_user(args.user.as_deref());
    let controller = context.controller()?;
    let request_id = args.request_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let submit = Submit { file_name: file_name(&args.file), content, request_id, dry_run: args.dry_run };
    let submitted = tokio::select! {
        submitted = submit_once(&*controller, &context, &submit) => submitted?,
        failure = interrupted() => {
            context.remark(&unknown_outcome(&submit));
            return Err(failure);
        }
    };
    for warning in &submitted.warnings {
        context.remark(&format!("warning: {warning}"));
    }
    let told = tell(&context, &submitted, args.dry_run);
    if args.dry_run || !(args.wait || args.follow) {
        return told.map(|()| OK);
    }
    let job = submitted.job_id.to_string();
    tokio::select! {
        ended = see_through(&context, controller.clone(), &job, &args, told) => ended,
        failure = interrupted() => {
            context.remark(&format!("detached; job {job} goes on ('wharf stop {job}' ends it)"));
            Err(failure)
        }
        () = reader_gone(), if !args.wait => Err(Failure::Output(io::ErrorKind::BrokenPipe.into())),
    }
}

fn tell(context: &Context, submitted: &Submitted, dry_run: bool) -> Result<(), Failure> {
    let told = if context.json {
        context.print_json(submitted)
    } else if dry_run {
        context.print(&format!("{} is fine; nothing was submitted\n", submitted.name))
    } else {
        context.print(&format!("{}\n", submitted.job_id))
    };
    if matches!(&told, Err(Failure::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe) && !dry_run {
        context.remark(&format!("job {} is submitted", submitted.job_id));
    }
    told
}

/// Follows and waits. Under `--wait` the job's end is ours, whether or not anybody still reads what it says.
async fn see_through(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    job: &str,
    args: &SubmitArgs,
    told: Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut muted = Muted::default();
    let mut bear = |result| if args.wait { muted.note(result) } else { result };
    bear(told)?;
    if args.follow {
        let followed = logs::follow_job(context, controller.clone(), job).await;
        bear(followed.map(|incomplete| {
            if let Some(error) = incomplete {
                context.remark(&error.message);
            }
        }))?;
    }
    let ended = wait_for_end(&*controller, context, job).await?;
    let code = conclude(context, &ended, args.wait);
    match muted.lost() {
        Some(error) if code == OK => {
            context.remark(&format!("its output could not be written: {error}"));
            Ok(FAILED)
        }
        _ => Ok(code),
    }
}

/// Says how the job ended.
fn conclude(context: &Context, job: &JobView, wait: bool) -> u8 {
    let reason = job.reason.as_deref().unwrap_or("no reason was given");
    context.remark(&format!("job {} {}: {reason}", job.job_id, job.state));
    if wait && job.state != "SUCCEEDED" { FAILED } else { OK }
}

/// Submitting twice with one request id is submitting once, so a lost answer is simply asked for again. A controller
/// that was never reached is not waited for.
async fn submit_once(controller: &dyn ControllerApi, context: &Context, submit: &Submit) -> Result<Submitted, Error> {
    let (mut pauses, mut unknown) = (PAUSES.into_iter(), false);
    loop {
        let error = match controller.submit(&context.who, submit.clone()).await {
            Ok(submitted) => return Ok(submitted),
            Err(error) => error,
        };
        let lost = matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded);
        unknown |= lost && !rpc::never_sent(&error);
        if unknown && !lost && error.retry_after_ms.is_none() {
            // It answered at last.
            return Err(error);
        }
        let pause = match error.retry_after_ms {
            Some(ms) => pauses.next().map(|_| Duration::from_millis(ms.min(5_000))),
            None if unknown => pauses.next(),
            None => None,
        };
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None if unknown && !submit.dry_run => {
                let message = format!("{error}; {}", unknown_outcome(submit));
                return Err(Error { message, ..error });
            }
            None => return Err(error),
        }
    }
}

fn unknown_outcome(submit: &Submit) -> String {
    let id = &submit.request_id;
    format!(
        "whether the job was taken is not known; submitting it again with --request-id {id} takes it once at most"
    )
}

pub(super) fn file_name(file: &str) -> String {
    if file == "-" { "standard input".to_owned() } else { file.to_owned() }
}

/// Reads at most one byte more than is allowed, so that a huge file costs nothing.
pub(super) fn read_job_file(file: &str) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let limit = MAX_JOB_FILE_BYTES as u64 + 1;
    let read = match file {
        "-" => io::stdin().lock().take(limit).read_to_end(&mut content),
        path => std::fs::File::open(path).and_then(|opened| opened.take(limit).read_to_end(&mut content)),
    };
    read.map_err(|error| bad_usage(format!("reading {}: {error}", file_name(file))))?;
    if content.len() > MAX_JOB_FILE_BYTES {
        return Err(bad_usage(format!(
            "{} is too large: at most {MAX_JOB_FILE_BYTES} bytes are allowed",
            file_name(file)
        )));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::Scripted;

    fn request() -> Submit {
        Submit { request_id: "r-1".to_owned(), ..Submit::default() }
    }

    fn taken() -> Submitted {
        Submitted { job_id: 7, run_id: 7, name: "train".to_owned(), warnings: Vec::new() }
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_id() {
        let controller = Scripted::new();
        controller.submit_answer(Err(Error::unavailable("Submit on the controller at x: broken pipe")));
        controller.submit_answer(Err(Error::unavailable("no connection to the controller at x: refused")));
        controller.submit_answer(Ok(taken()));
        assert_eq!(submit_once(&controller, &Context::for_tests(), &request()).await, Ok(taken()));
        assert_eq!(controller.submitted(), [request(), request(), request()]);
    }

    #[tokio::test]
    async fn an_outcome_that_stays_unknown_names_the_request() {
        let controller = Scripted::new();
        for _ in 0..3 {
            controller.submit_answer(Err(Error::new(ErrorKind::DeadlineExceeded, "no answer in 10000 ms")));
        }
        let error = submit_once(&controller, &Context::for_tests(), &request()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
        assert!(error.message.contains("--request-id r-1"), "{error}");
        assert_eq!(controller.submitted().len(), 3);
    }

    #[tokio::test]
    async fn a_controller_that_was_never_reached_and_a_refusal_are_final() {
        let controller = Scripted::new();
        let away = Error::unavailable("no connection to the controller at x: refused");
        for error in [away, Error::new(ErrorKind::Invalid, "job.json: taskRoles is missing")] {
            controller.submit_answer(Err(error.clone()));
            assert_eq!(submit_once(&controller, &Context::for_tests(), &request()).await, Err(error));
        }
        assert_eq!(controller.submitted().len(), 2);
    }

    #[tokio::test]
    async fn a_busy_controller_is_asked_again_when_it_says_so() {
        let controller = Scripted::new();
        let busy = Error { retry_after_ms: Some(1), ..Error::new(ErrorKind::Exhausted, "too much to do") };
        controller.submit_answer(Err(busy.clone()));
        controller.submit_answer(Ok(taken()));
        assert_eq!(submit_once(&controller, &Context::for_tests(), &request()).await, Ok(taken()));
        (0..3).for_each(|_| controller.submit_answer(Err(busy.clone())));
        assert_eq!(submit_once(&controller, &Context::for_tests(), &request()).await, Err(busy));
    }
}
