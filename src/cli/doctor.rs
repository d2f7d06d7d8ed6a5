//! `wharf doctor`: whether what a command needs is there, and what every end of a run leads to.

use super::args::DoctorArgs;
use super::context::Context;
use super::exit_code::{FAILED, OK};
use super::fail::Failure;
use super::{serve, table};
use crate::config::{AgentConfig, ControllerConfig};
use crate::domain::command::Error;
use crate::domain::retry::table::TABLE;
use crate::domain::retry::{Reaction, Row, would_retry};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// For each check: a doctor is asked by somebody who waits.
const PATIENCE: Duration = Duration::from_secs(5);

pub async fn doctor(context: &Context, args: DoctorArgs) -> Result<u8, Failure> {
    if args.exits {
        let rows: Vec<ExitRow> = TABLE.iter().map(ExitRow::of).collect();
        if context.json {
            context.print_json(&rows)?;
        } else {
            context.print(&exits_text(&rows))?;
        }
        return Ok(OK);
    }
    let folders = [AgentConfig::default().data_dir, ControllerConfig::default().data_dir];
    let checks =
        vec![shim(), files(&folders), docker().await, controller(context).await, agent(context, &args.agent).await];
    let healthy = checks.iter().all(|check| check.state != State::Failed);
    if context.json {
        context.print_json(&checks)?;
    } else {
        context.print(&checks_text(&checks))?;
    }
    Ok(if healthy { OK } else { FAILED })
}

/// One row of `--exits`.
#[derive(Debug, Serialize)]
struct ExitRow {
    id: &'static str,
    known_by: &'static str,
    reaction: &'static str,
    /// What a retry is counted under; only `user` is held against retryCount. Null where there is none.
    counted_as: Option<&'static str>,
    /// Whether `retryCount` -2, -1, 0 and a number above, not used up, run the job again.
    retried: Retried,
    back_off: &'static str,
    means: &'static str,
    /// What OpenPAI did, where that is something else.
    unlike_openpai: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Retried {
    #[serde(rename = "-2")]
    always: bool,
    #[serde(rename = "-1")]
    unlimited: bool,
    #[serde(rename = "0")]
    never: bool,
    #[serde(rename = "N")]
    limited: bool,
}

impl ExitRow {
    fn of(row: &Row) -> Self {
        let retried = Retried {
            always: would_retry(row, -2),
            unlimited: would_retry(row, -1),
            never: would_retry(row, 0),
            limited: would_retry(row, 1),
        };
        Self {
            id: row.id,
            known_by: row.known_by,
            reaction: row.reaction.as_str(),
            counted_as: retried.always.then_some(row.counter.as_str()),
            back_off: if retried.always || row.reaction == Reaction::PlaceAgain {
                row.back_off.as_str()
            } else {
                "-"
            },
            retried,
            means: row.means,
            unlike_openpai: row.instead,
        }
    }
}

fn exits_text(rows: &[ExitRow]) -> String {
    let mut shown = table::table(["END", "KNOWN BY", "-2", "-1", "0", "N", "COUNTED", "BACK-OFF"]);
    for row in rows {
        let mark = |retried: bool| if retried { "again" } else { "end" };
        let before = row.reaction == Reaction::PlaceAgain.as_str();
        let columns = [row.retried.always, row.retried.unlimited, row.retried.never, row.retried.limited];
        let [always, unlimited, never, limited] = columns.map(|retried| if before { "-" } else { mark(retried) });
        let counted = row.counted_as.unwrap_or("-");
        shown.add_row(
            [row.id, row.known_by, always, unlimited, never, limited, counted, row.back_off].map(table::one_line),
        );
    }
    let mut text = String::from("What follows from an end, by retryCount; the first line that fits counts.\n\n");
    text.push_str(&table::text(&shown));
    text.push_str("\nWhat each means:\n");
    for row in rows {
        text.push_str(&table::paragraph(&format!("  {:<20} ", row.id), row.means));
        if let Some(unlike) = row.unlike_openpai {
            text.push_str(&table::paragraph(&format!("  {:<20} ", ""), &format!("({unlike})")));
        }
    }
    text
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Failed,
    /// Not there, which may be as it should be.
    Absent,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
}

fn checks_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let word = match check.state {
            State::Ok => "ok",
            State::Failed => "FAILED",
            State::Absent => "absent",
        };
        text.push_str(&table::paragraph(&format!("{:<12} {word:<8} ", check.name), &check.detail));
    }
    text.push_str("\n--exits shows what every end of a job leads to. More is not looked at yet.\n");
    text
}

/// Does the program that is put under every task run here? Without arguments it says how it is used and ends with 2.
fn shim() -> Check {
    let name = "shim";
    let tried = || -> std::io::Result<Option<i32>> {
        // A file of its own: in a folder that others write to, a known name could be somebody's link.
        let path = std::env::temp_dir().join(format!("wharf-shim-{}", uuid::Uuid::new_v4()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path);
        let written = file.and_then(|mut file| file.write_all(crate::shim::BINARY));
        let mut command = Command::new(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let status = written.and_then(|()| command.status());
        std::fs::remove_file(&path).ok();
        Ok(status?.code())
    };
    match tried() {
        Ok(Some(2)) => {
            Check { name, state: State::Ok, detail: format!("{} bytes, runs here", crate::shim::BINARY.len()) }
        }
        Ok(code) => Check { name, state: State::Failed, detail: format!("it ended with {code:?} instead of 2") },
        Err(error) => Check { name, state: State::Failed, detail: error.to_string() },
    }
}

/// Whether anything was found damaged and set aside, in the folders that daemons have by default.
fn files(folders: &[PathBuf]) -> Check {
    let name = "files";
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let mut aside: Vec<String> = entries
        .filter(|entry| is_set_aside(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path().display().to_string())
        .collect();
    aside.sort_unstable();
    if aside.is_empty() {
        return Check { name, state: State::Ok, detail: "nothing was set aside as damaged".to_owned() };
    }
    let detail =
        format!("found damaged, set aside and begun anew; look at the disk, then remove them: {}", aside.join(", "));
    Check { name, state: State::Failed, detail }
}

/// `NAME.damaged-N`, without what belongs to it.
fn is_set_aside(name: &str) -> bool {
    let number = name.rsplit_once(".damaged-").map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

async fn docker() -> Check {
    let (name, socket) = ("docker", serve::docker_socket());
    if !socket.exists() {
        let detail = format!("no socket at {}: tasks run as plain processes", socket.display());
        return Check { name, state: State::Absent, detail };
    }
    let connect = tokio::time::timeout(PATIENCE, tokio::net::UnixStream::connect(&socket)).await;
    match connect {
        Ok(Ok(_)) => Check { name, state: State::Ok, detail: format!("listens at {}", socket.display()) },
        Ok(Err(error)) => Check { name, state: State::Failed, detail: format!("{}: {error}", socket.display()) },
        Err(_) => Check { name, state: State::Failed, detail: format!("{}: no answer", socket.display()) },
    }
}

async fn controller(context: &Context) -> Check {
    let asked = async {
        let nodes = context.controller()?.list_nodes(&context.who).await?;
        let ready = nodes.iter().filter(|node| node.state == "READY").count();
        Ok::<_, Failure>(format!("answers; {ready} of {} nodes are READY", nodes.len()))
    };
    answer("controller", tokio::time::timeout(PATIENCE, asked).await)
}

async fn agent(context: &Context, address: &str) -> Check {
    let asked = async {
        let node = context.agent(address)?.get_node(&context.who).await?;
        Ok::<_, Failure>(format!("answers at {address}; {} GPUs", node.gpus.len()))
    };
    let check = answer("agent", tokio::time::timeout(PATIENCE, asked).await);
    // A machine from which jobs are only submitted has none.
    if check.state == State::Failed { Check { state: State::Absent, ..check } } else { check }
}

fn answer(name: &'static str, result: Result<Result<String, Failure>, tokio::time::error::Elapsed>) -> Check {
    let failed = |detail: String| Check { name, state: State::Failed, detail };
    match result {
        Ok(Ok(detail)) => Check { name, state: State::Ok, detail },
        Ok(Err(Failure::Error(Error { message, .. }))) => failed(message),
        Ok(Err(_)) => failed("it could not be asked".to_owned()),
        Err(_) => failed(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned(), folder.path().join("none")];
        assert_eq!(files(&folders).state, State::Ok);
        for name in ["journal.db", "journal.db.damaged-2", "journal.db.damaged-2-wal", "x.damaged-"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let check = files(&folders);
        assert_eq!(check.state, State::Failed);
        assert!(check.detail.ends_with("/journal.db.damaged-2"), "{}", check.detail);
    }

    #[test]
    fn every_end_is_shown_with_what_follows() {
        let rows: Vec<ExitRow> = TABLE.iter().map(ExitRow::of).collect();
        let text = exits_text(&rows);
        assert!(rows.iter().all(|row| text.contains(row.id)), "{text}");
        let json = serde_json::to_value(&rows).unwrap();
        let of = |id: &str| json.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
        let retried = |id: &str| ["-2", "-1", "0", "N"].map(|column| of(id)["retried"][column] == true);
        assert_eq!(retried("user"), [true, true, false, true]);
        assert_eq!(retried("platform"), [true; 4]);
        assert_eq!(retried("oom"), [true, false, false, false]);
        assert_eq!((retried("stopped"), &of("stopped")["counted_as"]), ([false; 4], &serde_json::Value::Null));
        assert_eq!(
            (of("ports_busy")["reaction"].as_str(), of("ports_busy")["retried"]["N"].as_bool()),
            (Some("place_again"), Some(false))
        );
    }

    #[test]
    fn the_shim_runs_here() {
        let check = shim();
        assert_eq!(check.state, State::Ok, "{check:?}");
    }
}
