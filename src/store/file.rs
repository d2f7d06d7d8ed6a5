//! Opening an SQLite file so that what is acknowledged stays: whose file it is, whether it is sound, its version, its
//! settings, and that only one process writes it. Never deletes or repairs: the operator decides that.

use super::StoreError;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPENING: &str = "opening the store";
/// How long SQLite itself waits for another connection's lock, e.g. a backup's; below any caller's deadline.
const BUSY: Duration = Duration::from_secs(5);

/// What a kind of file looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// As in `this is not a ...`.
    pub(crate) name: &'static str,
    /// In the file's header, so that another program's database is not taken for ours.
    pub(crate) application_id: i32,
    /// One script per version: a file of version N has run the first N. A script only adds what a program of the version
    /// before can pass over (tables, indexes, columns with a default): such a program still uses the file.
    pub(crate) migrations: &'static [&'static str],
}

/// An open file, for the one thread that writes it.
#[derive(Debug)]
pub(crate) struct WriterFile {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    /// After the connection: it is closed before others may open the file.
    _lock: Option<FileLock>,
}

/// Keeps a second process out. On a file of its own, because closing any descriptor of the database file would drop
/// SQLite's own locks.
#[derive(Debug)]
struct FileLock(File);

impl Drop for FileLock {
    fn drop(&mut self) {
        // Explicitly: a child between fork and exec still holds a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

/// Opens or makes the file at `path`.
pub(crate) fn open_writer(path: &Path, format: Format) -> Result<WriterFile, StoreError> {
    let lock = lock(path)?;
    create_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|e| failed(OPENING, path, &e))?;
    connection.busy_timeout(BUSY).map_err(|e| failed(OPENING, path, &e))?;
    check_owner(&connection, path, format)?;
    check_sound(&connection, path)?;
    settle(&connection, path)?;
    migrate(&mut connection, path, format)?;
    Ok(WriterFile { connection, path: path.to_owned(), _lock: Some(lock) })
}

/// The same tables in memory, gone with the connection.
pub(crate) fn open_in_memory(format: Format) -> Result<WriterFile, StoreError> {
    let path = PathBuf::from(":memory:");
    let mut connection = Connection::open_in_memory().map_err(|e| failed(OPENING, &path, &e))?;
    migrate(&mut connection, &path, format)?;
    Ok(WriterFile { connection, path, _lock: None })
}

/// A second connection that cannot write, for a file that its writer has opened already.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| failed(OPENING, path, &e))?;
    connection.busy_timeout(BUSY).map_err(|e| failed(OPENING, path, &e))?;
    Ok(connection)
}

/// Puts SQLite's error into words, with what the operator can do.
pub(crate) fn failed(operation: &'static str, path: &Path, error: &rusqlite::Error) -> StoreError {
    let file = path.display();
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return StoreError::Damaged { operation, message: damaged(path, &error.to_string()) };
        }
        Some(ErrorCode::DiskFull) => format!("{file}: the disk is full; make room, then try again"),
        Some(ErrorCode::ReadOnly) => format!("{file}: the file or its directory cannot be written: {error}"),
        Some(ErrorCode::DatabaseBusy) => format!("{file}: another program holds it locked: {error}"),
        _ => format!("{file}: {error}"),
    };
    StoreError::Unavailable { operation, message }
}

fn damaged(path: &Path, evidence: &str) -> String {
    let file = path.display();
    format!(
        "{file} is damaged or not a database ({evidence}); nothing was changed. Stop wharf, move {file}, {file}-wal and \
         {file}-shm aside, and restore a backup with 'wharf store restore'"
    )
}

/// Renames a damaged file and its journal, for whoever may want to look into them, so that a new file can be made.
/// Returns where the file is now. Refused while somebody has it open.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let _lock = lock(path)?;
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let free = |number: &u32| !with(&format!(".damaged-{number}")).exists();
    let number =
        (1..1000).find(free).ok_or_else(|| unavailable(format!("{}: there are 999 others", path.display())))?;
    let aside = format!(".damaged-{number}");
    // The file last: should this be cut short, it is found damaged again.
    for part in ["-wal", "-shm", ""] {
        let (from, to) = (with(part), with(&format!("{aside}{part}")));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unavailable(format!("renaming {} to {}: {error}", from.display(), to.display())));
            }
            _ => {}
        }
    }
    Ok(with(&aside))
}

fn unavailable(message: String) -> StoreError {
    StoreError::Unavailable { operation: OPENING, message }
}

fn lock(path: &Path) -> Result<FileLock, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = file.map_err(|error| unavailable(format!("{}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock(file)),
        Err(TryLockError::WouldBlock) => {
            let file = path.display();
            Err(unavailable(format!("{file} is in use by another wharf; stop that one, or choose another data_dir")))
        }
        Err(TryLockError::Error(error)) => Err(unavailable(format!("locking {}: {error}", name.display()))),
    }
}

/// SQLite would make the file readable by all; its journal files get the mode of the file.
fn create_private(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unavailable(format!("{}: {error}", path.display()))),
    }
}

pub(crate) fn check_owner(connection: &Connection, path: &Path, format: Format) -> Result<(), StoreError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let read = || -> rusqlite::Result<(i64, i64, i64)> {
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        Ok((number("PRAGMA application_id")?, number("PRAGMA user_version")?, tables))
    };
    let (id, version, tables) = read().map_err(|e| failed(OPENING, path, &e))?;
    let (file, name) = (path.display(), format.name);
    if id == 0 && version == 0 && tables == 0 {
        return Ok(());
    }
    if id != i64::from(format.application_id) {
        let message = format!("{file} is a database of another kind (application id {id:#x}), not wharf's {name}");
        return Err(unavailable(format!("{message}; move it aside, or choose another data_dir")));
    }
    let newest = format.migrations.len();
    let readable = newest + 1;
    if usize::try_from(version).map_or(true, |version| version > readable) {
        let message = format!(
            "{file} was written by a newer wharf: {name} version {version}, this one writes {newest} and reads up to \
             {readable}"
        );
        return Err(unavailable(format!("{message}; install that version again, or restore an older backup")));
    }
    Ok(())
}

/// Finds damage at the start, when somebody looks, rather than at the first read of a bad page.
fn check_sound(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| failed(OPENING, path, &e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { operation: OPENING, message: damaged(path, &verdict) })
}

fn settle(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let set = || -> rusqlite::Result<String> {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // FULL: the log is synced before a commit is answered. In WAL mode the default would not.
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON;")?;
        connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
        Ok(mode)
    };
    let mode = set().map_err(|e| failed(OPENING, path, &e))?;
    if mode != "wal" {
        let file = path.display();
        return Err(unavailable(format!(
            "{file}: its file system has no shared memory (mode {mode}); use a local disk"
        )));
    }
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path, format: Format) -> Result<(), StoreError> {
    let run = |connection: &mut Connection| -> rusqlite::Result<()> {
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let done = usize::try_from(version).unwrap_or(0);
        for (index, script) in format.migrations.iter().enumerate().skip(done) {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(script)?;
            transaction.pragma_update(None, "application_id", format.application_id)?;
            transaction.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
            transaction.commit()?;
        }
        Ok(())
    };
    run(connection).map_err(|e| failed(OPENING, path, &e))
}
