//! Waiting for the end of a job, with one line for whoever watches a terminal.

use super::context::Context;
use super::patience::{Pace, Silence};
use super::table;
use crate::api::ControllerApi;
use crate::domain::command::Error;
use crate::domain::view::JobView;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// So that the line never wraps.
const LINE_WIDTH: usize = 78;

pub fn has_ended(job: &JobView) -> bool {
    matches!(job.state.as_str(), "SUCCEEDED" | "FAILED" | "STOPPED")
}

/// Waits until the job has ended, also over a restart of the controller.
pub async fn wait_for_end(controller: &dyn ControllerApi, context: &Context, job: &str) -> Result<JobView, Error> {
    let (mut silence, mut pace, mut progress) = (Silence::new(context), Pace::new(), Progress::start());
    loop {
        match controller.get_job(&context.who, job, None).await {
            Ok(view) if has_ended(&view) => return Ok(view),
            Ok(view) => {
                silence.heard();
                progress.show(&view);
            }
            Err(error) => {
                progress.clear();
                silence.bear(error)?;
            }
        }
        tokio::time::sleep(pace.step()).await;
    }
}

/// One line on the terminal that is written over and over, and gone at the end. Nothing where nobody looks.
struct Progress {
    since: Instant,
    wanted: bool,
    shown: bool,
}

impl Progress {
    fn start() -> Self {
        Self { since: Instant::now(), wanted: io::stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, job: &JobView) {
        if !self.wanted {
            return;
        }
        let line = progress_line(job, self.since.elapsed());
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
        self.shown = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn progress_line(job: &JobView, waited: Duration) -> String {
    let mut line = format!("job {} {}", job.job_id, job.state);
    if job.state != "WAITING" {
        line.push_str(&format!(", {} of {} tasks running", job.tasks_running, job.tasks_total));
    }
    line.push_str(&format!(", {}", table::span(waited)));
    if let Some(reason) = &job.reason {
        line.push_str(&format!(": {reason}"));
    }
    table::short(&line, LINE_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn the_line_says_where_the_job_stands_and_never_wraps() {
        let mut job = samples::job(7);
        (job.state, job.tasks_running, job.tasks_total) = ("RUNNING".into(), 3, 4);
        assert_eq!(progress_line(&job, Duration::from_secs(12)), "job 7 RUNNING, 3 of 4 tasks running, 12 s");
        (job.state, job.reason) = ("WAITING".into(), Some("word ".repeat(60)));
        let line = progress_line(&job, Duration::from_secs(700));
        assert!(line.starts_with("job 7 WAITING, 11 min: word"), "{line}");
        assert!(line.chars().count() <= LINE_WIDTH);
    }
}
