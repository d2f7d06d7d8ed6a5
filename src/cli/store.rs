//! `wharf store backup`, `restore` and `move`: a controller's state as a whole.

use super::args::StoreCommand;
use super::context::Context;
use super::exit_code::OK;
use super::fail::{Failure, bad_usage};
use crate::config::{self, ControllerConfig, Endpoint};
use crate::controller::election::Claim;
use crate::controller::seal::forget;
use crate::controller::transfer::{Kind, Source, Transferred, transfer};
use crate::daemon;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::time::Timestamp;
use crate::store::backup::{BackupReader, BackupWriter};
use crate::store::etcd::lease::{Attempt, Lead};
use crate::store::etcd::{EtcdSettings, EtcdStore, EtcdTls};
use crate::store::snapshot::Snapshot;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::telemetry::clock::{Clock, SystemClock};
use async_trait::async_trait;
use serde_json::json;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the lead of a command that was killed keeps controllers away.
const LEASE: Duration = Duration::from_secs(10);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

pub async fn store(context: &Context, command: StoreCommand) -> Result<u8, Failure> {
    match command {
        StoreCommand::Backup { file, at } => {
            let place = Place::of(at.store.as_deref(), &at.config, at.insecure)?;
            backup(context, &place, &file).await
        }
        StoreCommand::Restore { file, replace, at } => {
            let place = Place::of(at.store.as_deref(), &at.config, at.insecure)?;
            restore(context, &place, &file, replace).await
        }
        StoreCommand::ForgetSecrets { at } => {
            let place = Place::of(at.store.as_deref(), &at.config, at.insecure)?;
            forget_secrets(context, &place).await
        }
        StoreCommand::Move { from, to, replace, config, insecure } => {
            let tls = etcd_tls(&config)?;
            let (from, to) =
                (Place::parse(&from, insecure, tls.as_ref())?, Place::parse(&to, insecure, tls.as_ref())?);
            relocate(context, &from, &to, replace).await
        }
    }
}

/// Where a store is: `sqlite:DIR` or `etcd:HOST:PORT,...` with a prefix or without.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Sqlite(PathBuf),
    Etcd(EtcdSettings),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(folder) => write!(f, "sqlite:{}", folder.display()),
            Self::Etcd(settings) => write!(f, "etcd:{}{}", settings.endpoints.join(","), settings.prefix),
        }
    }
}

/// How etcd's TLS is, by the settings of the controller; none where there are none.
fn etcd_tls(config: &Path) -> Result<Option<EtcdTls>, Failure> {
    if !config.exists() {
        return Ok(None);
    }
    let config: ControllerConfig = config::load(config).map_err(|error| Failure::from(Error::from(error)))?;
    Ok(config.etcd.map(|etcd| etcd.tls()).transpose()?.flatten())
}

impl Place {
    /// As named, else as the controller's settings say.
    fn of(named: Option<&str>, config: &Path, insecure: bool) -> Result<Self, Failure> {
        if let Some(named) = named {
            return Self::parse(named, insecure, etcd_tls(config)?.as_ref());
        }
        let config: ControllerConfig = config::load(config).map_err(|error| Failure::from(Error::from(error)))?;
        Ok(match &config.etcd {
            Some(etcd) => Self::Etcd(etcd.settings()?),
            None => Self::Sqlite(config.data_dir),
        })
    }

    fn parse(text: &str, insecure: bool, tls: Option<&EtcdTls>) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            bad_usage(format!(
                "'{text}' is no store: {why}; allowed: sqlite:DIR, etcd:HOST:PORT[,HOST:PORT...][/PREFIX/]"
            ))
        };
        if let Some(folder) = text.strip_prefix("sqlite:") {
            if folder.is_empty() {
                return Err(wrong("there is no folder"));
            }
            let folder = std::path::absolute(folder).map_err(|error| wrong(&error.to_string()))?;
            return Ok(Self::Sqlite(folder));
        }
        let rest = text.strip_prefix("etcd:").ok_or_else(|| wrong("it begins with neither sqlite: nor etcd:"))?;
        let (members, prefix) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, EtcdSettings::DEFAULT_PREFIX),
        };
        if !prefix.ends_with('/') || prefix.len() < 2 {
            return Err(wrong("the prefix is not /NAME/"));
        }
        let mut endpoints = Vec::new();
        for member in members.split(',') {
            let endpoint: Endpoint = member.parse().map_err(|error| wrong(&format!("{error}")))?;
            if !insecure && tls.is_none() && !endpoint.is_local() {
                return Err(wrong(&format!(
                    "{endpoint} is elsewhere, and the controller's settings have no etcd.ca_certificate (--insecure does \
                     without)"
                )));
            }
            endpoints.push(endpoint.to_string());
        }
        Ok(Self::Etcd(EtcdSettings { prefix: prefix.to_owned(), tls: tls.cloned(), ..EtcdSettings::new(endpoints) }))
    }

    /// What a controller with these settings has, while one may run.
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        match self {
            Self::Sqlite(folder) => {
                let path = store_file(folder);
                blocking(move || Snapshot::of_file(&path)).await
            }
            Self::Etcd(settings) => Snapshot::of_etcd(Arc::new(EtcdStore::new(settings.clone())?)).await,
        }
    }

    /// The store, for nobody but us: no controller can use it meanwhile.
    async fn take(&self, make: bool) -> Result<Taken, Failure> {
        match self {
            Self::Sqlite(folder) => {
                let path = store_file(folder);
                if make {
                    daemon::make_state_dir(folder, 0o700)?;
                } else if !path.is_file() {
                    return Err(Error::not_found(format!("there is no store at {}", path.display())).into());
                }
                let store = blocking(move || SqliteStore::open(path)).await.map_err(unusable)?;
                Ok(Taken { store: Arc::new(store), lead: None })
            }
            Self::Etcd(settings) => {
                let store = Arc::new(EtcdStore::new(settings.clone()).map_err(unusable)?);
                let claim = Claim { address: "'wharf store' on this store".to_owned(), id: String::new() };
                let claim = serde_json::to_vec(&claim).map_err(|error| Error::internal(error.to_string()))?;
                match store.try_lead(&claim, LEASE, Arc::new(SystemClock)).await.map_err(unusable)? {
                    Attempt::Won(lead) => Ok(Taken { store, lead: Some(lead) }),
                    Attempt::Taken(leader) => {
                        let leader: Claim = serde_json::from_slice(&leader).unwrap_or_default();
                        let message =
                            format!("{self} is in use by {}; stop all controllers of it first", leader.address);
                        Err(Error::refused(message).into())
                    }
                }
            }
        }
    }
}

/// A store that is ours alone.
#[derive(Debug)]
struct Taken {
    store: Arc<dyn Store>,
    lead: Option<Lead>,
}

impl Taken {
    /// Ends only if somebody else may use the store.
    async fn lost(&self) -> String {
        match &self.lead {
            Some(lead) => lead.hold().await,
            None => std::future::pending().await,
        }
    }

    async fn give_back(self) {
        if let Some(lead) = self.lead {
            lead.resign().await;
        }
    }
}

fn store_file(folder: &Path) -> PathBuf {
    ControllerConfig { data_dir: folder.to_owned(), ..ControllerConfig::default() }.store_path()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let cut = |_| StoreError::Unavailable { operation: "the store", message: "it was cut short".to_owned() };
    tokio::task::spawn_blocking(work).await.map_err(cut)?
}

fn unusable(error: StoreError) -> Failure {
    Error::new(ErrorKind::Refused, error.to_string()).into()
}

async fn backup(context: &Context, place: &Place, file: &Path) -> Result<u8, Failure> {
    let progress = Progress::new(context);
    let mut snapshot = place.snapshot().await.map_err(unusable)?;
    let (revision, now) = (snapshot.revision(), SystemClock.now());
    let mut writer = BackupWriter::create(file, now, &place.to_string(), revision).map_err(unusable)?;
    while let Some(entry) = snapshot.next().await.map_err(unusable)? {
        writer.add(entry).map_err(unusable)?;
        progress.tell("saved", writer.entries());
    }
    let entries = writer.entries();
    let bytes = writer.finish().map_err(unusable)?;
    let path = file.display();
    if context.json {
        let object = json!({
            "file": path.to_string(), "store": place.to_string(), "entries": entries, "bytes": bytes,
            "revision": revision, "made_at": now.to_rfc3339(),
        });
        context.print_json(&object)?;
    } else {
        context.print(&format!("{place} is saved in {path}: {entries} entries, {bytes} bytes\n"))?;
    }
    Ok(OK)
}

/// A backup as a source.
struct Saved {
    path: PathBuf,
    made_at: Timestamp,
    revision: u64,
}

#[async_trait]
impl Source for Saved {
    fn name(&self) -> String {
        format!("the backup of {} at revision {}", self.made_at.to_rfc3339(), self.revision)
    }

    async fn open(&self) -> Result<Snapshot, StoreError> {
        let path = self.path.clone();
        blocking(move || Snapshot::of_backup(&path)).await
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }
}

async fn restore(context: &Context, place: &Place, file: &Path, replace: bool) -> Result<u8, Failure> {
    let path = file.to_owned();
    let header = blocking(move || BackupReader::open(&path).map(|reader| reader.header().clone()));
    let header = header.await.map_err(unusable)?;
    let source = Saved { path: file.to_owned(), made_at: header.made_at, revision: header.revision };
    let kind = Kind::Restore { made_at: header.made_at, now: SystemClock.now() };
    let target = place.take(true).await?;
    let done = fill(context, &source, None, target, &place.to_string(), kind, replace).await?;
    said(context, &format!("the backup {}", file.display()), place, &done)
}

async fn forget_secrets(context: &Context, place: &Place) -> Result<u8, Failure> {
    let taken = place.take(false).await?;
    let done = tokio::select! {
        done = forget(&*taken.store) => done,
        why = taken.lost() => Err(Error::unavailable(format!("{why}; the same command takes it up again"))),
    };
    taken.give_back().await;
    let jobs: Vec<u64> = done?.jobs.iter().map(|job| job.0).collect();
    if context.json {
        context.print_json(&json!({ "store": place.to_string(), "jobs": jobs }))?;
        return Ok(OK);
    }
    let listed = jobs.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let lacking = match jobs.as_slice() {
        [] => "no unfinished job had any".to_owned(),
        _ => format!("later runs of these unfinished jobs lack them, so stop and submit them anew: {listed}"),
    };
    context.print(&format!("{place} has no secrets any more; {lacking}\n"))?;
    Ok(OK)
}

/// A store as a source.
struct Other {
    name: String,
    store: Arc<dyn Store>,
}

#[async_trait]
impl Source for Other {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn open(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::of_quiet(self.store.clone()))
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.store.clone())
    }
}

async fn relocate(context: &Context, from: &Place, to: &Place, replace: bool) -> Result<u8, Failure> {
    if from == to {
        return Err(bad_usage(format!("{from} is both where from and where to")));
    }
    let source = from.take(false).await?;
    let target = to.take(true).await?;
    let other = Other { name: from.to_string(), store: source.store.clone() };
    let done = fill(context, &other, Some(source), target, &to.to_string(), Kind::Move, replace).await?;
    said(context, &from.to_string(), to, &done)
}

/// Fills the target for as long as nobody else may use either store, and gives them back.
async fn fill(
    context: &Context,
    from: &dyn Source,
    source: Option<Taken>,
    target: Taken,
    target_name: &str,
    kind: Kind,
    replace: bool,
) -> Result<Transferred, Failure> {
    let progress = Progress::new(context);
    let tell = |what: &str, count: u64| progress.tell(what, count);
    let lost = async {
        match &source {
            Some(source) => source.lost().await,
            None => std::future::pending().await,
        }
    };
    let cut = |why: String| Err(Error::unavailable(format!("{why}; the same command takes it up again")));
    let done = tokio::select! {
        done = transfer(from, &target.store, target_name, kind, replace, &tell) => done,
        why = lost => cut(why),
        why = target.lost() => cut(why),
    };
    target.give_back().await;
    if let Some(source) = source {
        source.give_back().await;
    }
    Ok(done?)
}

fn said(context: &Context, from: &str, to: &Place, done: &Transferred) -> Result<u8, Failure> {
    let Transferred { entries, cluster_id, term, next_id } = done;
    if context.json {
        let object = json!({
            "from": from, "to": to.to_string(), "entries": entries, "cluster_id": cluster_id, "term": term,
            "next_id": next_id,
        });
        context.print_json(&object)?;
    } else {
        let what = format!("{entries} entries of cluster {cluster_id}, compared one by one");
        context.print(&format!("{from} is now in {to}: {what}; term {term}, next id {next_id}\n"))?;
    }
    Ok(OK)
}

/// A line a second for whoever waits at a terminal.
struct Progress<'a> {
    context: &'a Context,
    wanted: bool,
    last: Mutex<Instant>,
}

impl<'a> Progress<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, wanted: std::io::stderr().is_terminal(), last: Mutex::new(Instant::now()) }
    }

    fn tell(&self, what: &str, count: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < PROGRESS {
            return;
        }
        *last = Instant::now();
        if self.wanted && !self.context.json {
            let _ = writeln!(std::io::stderr(), "wharf: {count} entries {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_text_and_others_are_refused_with_what_is_allowed() {
        let texts =
            ["sqlite:/var/lib/wharf/controller", "etcd:127.0.0.1:2379,[::1]:2380/mine/", "etcd:10.0.0.1:1/wharf/"];
        for text in texts {
            assert_eq!(Place::parse(text, true, None).unwrap().to_string(), text);
        }
        assert_eq!(
            Place::parse("etcd:localhost:2379", false, None).unwrap().to_string(),
            "etcd:localhost:2379/wharf/"
        );
        for text in
            ["", "sqlite:", "/var/x", "etcd:", "etcd:host", "etcd:127.0.0.1:1/x", "etcd:127.0.0.1:1/", texts[2]]
        {
            let Err(Failure::Error(error)) = Place::parse(text, false, None) else { panic!("{text} was taken") };
            assert!(error.message.contains("allowed: sqlite:DIR"), "{text}: {error}");
        }
    }
}
