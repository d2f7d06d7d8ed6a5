//! `wharf faults` and `wharf fault show`: what nodes have told; `wharf faults scan`: a kernel log, and the faults in it.

mod lines;
mod listed;
mod shown;
mod text;

pub use listed::{clear, list};
pub use shown::show;

use super::args::TableArgs;
use super::context::Context;
use super::exit_code::{INTERRUPTED, OK};
use super::fail::Failure;
use super::signals::interrupted;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::health::Scan;
use crate::health::table::Table;
use lines::Lines;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a site's own file has room for.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// Lines between two looks at who else wants to know.
const BATCH: usize = 256;

pub async fn scan(context: &Context, file: String, table: TableArgs) -> Result<u8, Failure> {
    let scan = Arc::new(Mutex::new(Scan::new(table_of(&table)?)));
    let source = open(&file).map_err(|error| unreadable(&file, &error))?;
    let work = {
        let scan = scan.clone();
        tokio::task::spawn_blocking(move || read(source, &scan))
    };
    let code = tokio::select! {
        done = work => {
            let done = done.map_err(|error| Error::internal(format!("reading the log: {error}")))?;
            done.map_err(|error| unreadable(&file, &error))?;
            OK
        }
        // Somebody who follows a log by 'dmesg -w |' ends it so, and wants to see what was found.
        _ = interrupted() => INTERRUPTED,
    };
    let scan = scan.lock().unwrap_or_else(PoisonError::into_inner);
    print(context, &scan)?;
    Ok(code)
}

fn print(context: &Context, scan: &Scan) -> Result<(), Failure> {
    if context.json {
        for fault in scan.faults() {
            context.print_json(fault)?;
        }
    } else {
        context.print(&text::text(scan))?;
    }
    for remark in text::remarks(scan) {
        context.remark(&remark);
    }
    Ok(())
}

/// Reads to the end, a few lines for each time the scan is taken.
fn read(source: Box<dyn Read + Send>, scan: &Mutex<Scan>) -> io::Result<()> {
    let mut lines = Lines::new(source);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let more = lines.fill(&mut batch, BATCH)?;
        let mut scan = scan.lock().unwrap_or_else(PoisonError::into_inner);
        for line in batch.drain(..) {
            scan.line(&line);
        }
        if !more {
            return Ok(());
        }
    }
}

fn open(file: &str) -> io::Result<Box<dyn Read + Send>> {
    if file == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let metadata = std::fs::metadata(file)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // The kernel's own log has no end: what is there now is read, and the next line not waited for.
    let waits = if metadata.file_type().is_char_device() { libc::O_NONBLOCK } else { 0 };
    Ok(Box::new(OpenOptions::new().read(true).custom_flags(waits).open(file)?))
}

fn unreadable(file: &str, error: &io::Error) -> Error {
    const ALLOWED: &str = "what 'dmesg' or 'journalctl -k' has written, /dev/kmsg, or - for standard input";
    let name = if file == "-" { "standard input" } else { file };
    let violation = Violation {
        field: "FILE".to_owned(),
        message: error.to_string(),
        found: file.to_owned(),
        allowed: ALLOWED.to_owned(),
    };
    let message = format!("{name}: {error}; a kernel log is expected: {ALLOWED}");
    Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, message) }
}

/// Ours, with a site's rows over it.
pub fn table_of(args: &TableArgs) -> Result<Table, Failure> {
    let Some(path) = &args.table else { return Ok(Table::builtin().clone()) };
    let text = read_table(path).map_err(|error| {
        let message = format!("{}: {error}; a TOML file with sections [xid] and [sxid] is expected", path.display());
        Error::new(ErrorKind::Invalid, message)
    })?;
    let table = Table::builtin().overridden(&text).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        let violation = Violation {
            field: format!("line {}, {}", error.line, error.field),
            message: error.message,
            found: error.found,
            allowed: error.allowed,
        };
        Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, message) }
    })?;
    Ok(table)
}

fn read_table(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_TABLE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
