//! Traces in files: comma-separated values with a header, read line by line.
//!
//! ```text
//! submit_s,duration_s,tasks,gpus,cpus,memory_mb,priority,gpu_type,user
//! 0,3600,1,1,8,64000,,,alice
//! 12.5,7200,4,8,96,512000,10,A100|H100,bob
//! ```
//!
//! | column | |
//! |---|---|
//! | `submit_s` | seconds from the beginning of the trace; never less than in the line before |
//! | `duration_s` | seconds that each task runs |
//! | `tasks` | tasks of the gang, 1 to 10000 |
//! | `gpus`, `cpus`, `memory_mb` | of one task |
//! | `priority` | optional; higher goes first, 0 if empty |
//! | `gpu_type` | optional; accepted types with `\|` between them, any if empty |
//! | `user` | optional; read, and without influence on the order |
//!
//! Columns may come in any order. Blank lines and lines that begin with `#` are left out. There is no quoting.

use super::{TraceError, TraceJob};
use crate::domain::nearest::nearest;
use crate::domain::quantity::MAX_TASKS_PER_JOB;
use crate::domain::time::Timestamp;
use std::io::{BufRead, Read};
use std::str::FromStr;
use std::time::Duration;

const REQUIRED: [&str; 6] = ["submit_s", "duration_s", "tasks", "gpus", "cpus", "memory_mb"];
const OPTIONAL: [&str; 3] = ["priority", "gpu_type", "user"];
/// Longest line: what is longer is no trace.
const MAX_LINE: u64 = 64 * 1024;
/// Latest submission and longest duration, in seconds: over a hundred years, and far from where time ends.
const MAX_SECONDS: f64 = 4e9;
/// Most GPUs, CPUs and MB of one task: more than any machine has.
const MAX_GPUS: u32 = 4096;
const MAX_CPUS: u32 = 1 << 20;
const MAX_MEMORY_MB: u64 = 1 << 40;
/// Characters of a wrong value that are repeated to the user.
const SHOWN: usize = 60;

/// Jobs of a file, one at a time.
#[derive(Debug)]
pub struct CsvTrace<R> {
    input: R,
    line: u64,
    /// Where each of [`REQUIRED`] and then each of [`OPTIONAL`] stands; none before the header was read.
    columns: Option<Columns>,
    last: Timestamp,
    failed: bool,
}

#[derive(Debug, Clone)]
struct Columns {
    count: usize,
    required: [usize; REQUIRED.len()],
    optional: [Option<usize>; OPTIONAL.len()],
}

impl<R: BufRead> CsvTrace<R> {
    pub fn new(input: R) -> Self {
        Self { input, line: 0, columns: None, last: Timestamp(0), failed: false }
    }

    fn error(&self, column: Option<&str>, found: impl Into<String>, allowed: impl Into<String>) -> TraceError {
        let column = column.map(str::to_owned);
        TraceError { line: self.line, column, found: found.into(), allowed: allowed.into() }
    }

    /// The next line that says anything; none at the end.
    fn next_line(&mut self) -> Result<Option<String>, TraceError> {
        loop {
            self.line += 1;
            let mut bytes = Vec::new();
            let mut limited = self.input.by_ref().take(MAX_LINE + 1);
            if let Err(error) = limited.read_until(b'\n', &mut bytes) {
                return Err(self.error(None, format!("an error of the disk: {error}"), "a file that can be read"));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            if bytes.len() as u64 > MAX_LINE {
                return Err(self.error(None, "a longer line", format!("at most {MAX_LINE} bytes")));
            }
            let text = std::str::from_utf8(&bytes).map_err(|_| self.error(None, "other bytes", "UTF-8 text"))?;
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() && !text.starts_with('#') {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    fn header(&self, line: &str) -> Result<Columns, TraceError> {
        let all = || format!("{} and, if wanted, {}", REQUIRED.join(","), OPTIONAL.join(","));
        let names: Vec<&str> = line.split(',').map(str::trim).collect();
        for (at, name) in names.iter().enumerate() {
            if !REQUIRED.contains(name) && !OPTIONAL.contains(name) {
                let near = nearest(name, REQUIRED.into_iter().chain(OPTIONAL));
                let near = near.map_or_else(String::new, |near| format!(" ('{near}' is the nearest)"));
                return Err(self.error(None, format!("the column {}", quoted(name)), format!("{}{near}", all())));
            }
            if names[..at].contains(name) {
                return Err(self.error(Some(name), "the column twice", "each column once"));
            }
        }
        let position = |name: &str| names.iter().position(|other| *other == name);
        let mut required = [0; REQUIRED.len()];
        for (place, name) in required.iter_mut().zip(REQUIRED) {
            *place = position(name).ok_or_else(|| self.error(Some(name), "no such column", all()))?;
        }
        Ok(Columns { count: names.len(), required, optional: OPTIONAL.map(position) })
    }

    fn job(&self, line: &str, columns: &Columns) -> Result<TraceJob, TraceError> {
        let values: Vec<&str> = line.split(',').map(str::trim).collect();
        if values.len() != columns.count {
            let found = format!("{} values", values.len());
            return Err(self.error(None, found, format!("{}, as the header has", columns.count)));
        }
        let value = |at: usize| values[columns.required[at]];
        let optional = |at: usize| columns.optional[at].map_or("", |place| values[place]);
        let submitted_at = Timestamp(0).plus(self.seconds(0, value(0))?);
        if submitted_at < self.last {
            let least = self.last.since(Timestamp(0)).as_secs_f64();
            let allowed = format!("at least {least}, as in the line before: traces are sorted by time");
            return Err(self.error(Some(REQUIRED[0]), quoted(value(0)), allowed));
        }
        let priority = match optional(0) {
            "" => 0,
            text => self.whole(OPTIONAL[0], text, i32::MIN, i32::MAX)?,
        };
        let types = optional(1).split('|').map(str::trim).filter(|kind| !kind.is_empty());
        Ok(TraceJob {
            submitted_at,
            duration: self.seconds(1, value(1))?,
            tasks: self.whole(REQUIRED[2], value(2), 1, MAX_TASKS_PER_JOB)?,
            gpus: self.whole(REQUIRED[3], value(3), 0, MAX_GPUS)?,
            cpus: self.whole(REQUIRED[4], value(4), 0, MAX_CPUS)?,
            memory_mb: self.whole(REQUIRED[5], value(5), 0, MAX_MEMORY_MB)?,
            priority,
            gpu_types: types.map(str::to_owned).collect(),
        })
    }

    fn seconds(&self, column: usize, text: &str) -> Result<Duration, TraceError> {
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds));
        let allowed = || format!("a number of seconds from 0 to {MAX_SECONDS}");
        seconds
            .map(Duration::from_secs_f64)
            .ok_or_else(|| self.error(Some(REQUIRED[column]), quoted(text), allowed()))
    }

    fn whole<T>(&self, column: &str, text: &str, least: T, most: T) -> Result<T, TraceError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let number = text.parse::<T>().ok().filter(|number| (&least..=&most).contains(&number));
        let allowed = || format!("a whole number from {least} to {most}");
        number.ok_or_else(|| self.error(Some(column), quoted(text), allowed()))
    }

    fn next_job(&mut self) -> Result<Option<TraceJob>, TraceError> {
        let columns = match self.columns.clone() {
            Some(columns) => columns,
            None => {
                let Some(line) = self.next_line()? else {
                    return Err(self.error(None, "nothing", format!("a header: {}", REQUIRED.join(","))));
                };
                self.columns.insert(self.header(&line)?).clone()
            }
        };
        let Some(line) = self.next_line()? else { return Ok(None) };
        let job = self.job(&line, &columns)?;
        self.last = job.submitted_at;
        Ok(Some(job))
    }
}

fn quoted(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.is_empty() { "nothing".to_owned() } else { format!("'{shown}'") }
}

impl<R: BufRead> Iterator for CsvTrace<R> {
    type Item = Result<TraceJob, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_job();
        self.failed = next.is_err();
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "submit_s,duration_s,tasks,gpus,cpus,memory_mb";

    fn read(text: &[u8]) -> Result<Vec<TraceJob>, TraceError> {
        CsvTrace::new(text).collect()
    }

    fn wrong(text: &str) -> (u64, String, String, String) {
        let error = read(text.as_bytes()).expect_err(text);
        (error.line, error.column.unwrap_or_default(), error.found, error.allowed)
    }

    #[test]
    fn columns_come_in_any_order_and_some_may_be_missing() {
        let text = "\u{feff}# made by hand\r\nuser, gpu_type,priority,memory_mb,cpus,gpus,tasks,duration_s,submit_s\r\n\r\n\
            bob,A100|H100,-3,4,5,6,7,8,1.5\r\neve,,,4,5,6,7,8,1.5\n";
        let jobs = read(text.as_bytes()).unwrap();
        let expected = TraceJob {
            submitted_at: Timestamp(1_500_000_000),
            duration: Duration::from_secs(8),
            tasks: 7,
            gpus: 6,
            cpus: 5,
            memory_mb: 4,
            priority: -3,
            gpu_types: vec!["A100".into(), "H100".into()],
        };
        let second = TraceJob { priority: 0, gpu_types: vec![], ..expected.clone() };
        assert_eq!(jobs, [expected, second]);
        assert_eq!(read(HEADER.as_bytes()), Ok(vec![]));
    }

    #[test]
    fn mistakes_name_line_column_what_was_found_and_what_is_allowed() {
        let seconds = "a number of seconds from 0 to 4000000000";
        let cases = [
            ("0,1,0,1,1,1", "tasks", "'0'", "a whole number from 1 to 10000"),
            ("0,1,1,-1,1,1", "gpus", "'-1'", "a whole number from 0 to 4096"),
            ("0,1,1,1,,1", "cpus", "nothing", "a whole number from 0 to 1048576"),
            ("nan,1,1,1,1,1", "submit_s", "'nan'", seconds),
            ("0,inf,1,1,1,1", "duration_s", "'inf'", seconds),
            ("0,1,1,1,1", "", "5 values", "6, as the header has"),
        ];
        for (line, column, found, allowed) in cases {
            let error = wrong(&format!("{HEADER}\n0,1,1,1,1,1\n\n{line}\n"));
            assert_eq!(error, (4, column.to_owned(), found.to_owned(), allowed.to_owned()), "{line}");
        }
        let text = format!("{HEADER}\n5,1,1,1,1,1\n4,1,1,1,1,1\n");
        let error = read(text.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3, column submit_s: found '4', allowed: at least 5, as in the line before: traces are sorted by time"
        );
    }

    #[test]
    fn headers_that_are_none_are_refused() {
        assert_eq!(wrong("").2, "nothing");
        let (line, _, found, allowed) = wrong("submit_s,duration,tasks,gpus,cpus,memory_mb\n");
        assert_eq!((line, found.as_str()), (1, "the column 'duration'"));
        assert!(allowed.ends_with("('duration_s' is the nearest)"), "{allowed}");
        assert_eq!(wrong("submit_s,duration_s,tasks,gpus,cpus\n").1, "memory_mb");
        assert_eq!(wrong(&format!("{HEADER},gpus\n")).2, "the column twice");
        assert_eq!(wrong(&format!("{HEADER}\n{}", "1".repeat(70_000))).2, "a longer line");
        assert_eq!(read(b"submit_s\xff\n").unwrap_err().found, "other bytes");
    }

    #[test]
    fn nothing_is_read_behind_a_mistake() {
        let text = format!("{HEADER}\nx,1,1,1,1,1\n0,1,1,1,1,1\n");
        assert_eq!(CsvTrace::new(text.as_bytes()).count(), 1);
    }
}
