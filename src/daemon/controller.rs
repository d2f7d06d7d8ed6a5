//! A controller from its settings.

use super::cluster::Folder;
use super::guard::{self, Guard};
use super::host::host_names;
use super::make_state_dir;
use super::notify::{ServiceManager, keep_informed};
use super::seal;
use crate::api::RecordsApi;
use crate::config::{ControllerConfig, EtcdConfig};
use crate::controller::election::{Candidate, Claim, Elected};
use crate::controller::{self, Controller, ControllerParts};
use crate::domain::command::{Error, ErrorKind};
use crate::rpc;
use crate::rpc::tls::authority::OwnAuthority;
use crate::store::etcd::EtcdStore;
use crate::store::file::set_aside;
use crate::store::history::EventLog;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::telemetry::clock::{Clock, SystemClock};
use crate::web::Web;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two looks at a store that does not answer.
const STORE_AGAIN: Duration = Duration::from_millis(300);

/// A controller that listens.
#[derive(Debug)]
pub struct ControllerService {
    /// Where it really listens, as clients may be told.
    pub addresses: Vec<String>,
    front: Front,
    running: JoinHandle<Result<(), Error>>,
    serving: JoinHandle<Result<(), Error>>,
    cancel: CancellationToken,
}

/// Who answers.
#[derive(Debug, Clone)]
enum Front {
    /// The only controller of its store.
    Sole(Controller),
    /// One of several.
    Elected(Elected),
}

impl Front {
    async fn pulse(&self) -> Result<String, Error> {
        match self {
            Self::Sole(controller) => controller.pulse().await.map(|pulse| pulse.to_string()),
            Self::Elected(elected) => elected.pulse().await,
        }
    }

    fn api(&self) -> Arc<dyn RecordsApi> {
        match self {
            Self::Sole(controller) => Arc::new(controller.clone()),
            Self::Elected(elected) => Arc::new(elected.clone()),
        }
    }
}

/// Opens the store, binds the sockets, takes the lead and serves until `cancel`.
pub async fn start_controller(
    config: &ControllerConfig,
    cancel: CancellationToken,
) -> Result<ControllerService, Error> {
    make_state_dir(&config.data_dir, 0o700)?;
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let listeners = rpc::bind(&addresses, !config.own_account || config.insecure).await?;
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address().to_owned()).collect();
    let history = open_history(config).await?;
    let (front, running, guard) = match &config.etcd {
        None => start_sole(config, history, cancel.clone()).await?,
        Some(etcd) => start_elected(config, etcd, &addresses, history, cancel.clone()).await?,
    };
    let security = guard.security.audited(super::audit_log(&config.data_dir)?);
    let routes = rpc::controller_routes(front.api(), security).await?;
    let routes = routes.with_web(Web::new(front.api(), host_names()));
    tracing::info!(addresses = addresses.join(", "), "controller listens");
    let serving = tokio::spawn(rpc::serve(listeners, routes, cancel.clone()));
    Ok(ControllerService { addresses, front, running, serving, cancel })
}

async fn open_history(config: &ControllerConfig) -> Result<Arc<EventLog>, Error> {
    let (path, keep) = (config.event_log_path(), config.event_retention as usize);
    let opened = tokio::task::spawn_blocking(move || {
        let opened = EventLog::open(&path, keep).or_else(|error| {
            let StoreError::Damaged { .. } = error else { return Err(error) };
            // Nothing is decided by what it tells, so nobody has to be asked.
            let aside = set_aside(&path)?;
            tracing::error!(%error, aside = %aside.display(), "the event log is damaged: it is set aside, and a new one begins");
            EventLog::open(&path, keep)
        });
        opened.map(Arc::new).map_err(|error| opening(&path, &error))
    });
    opened.await.map_err(|error| Error::internal(format!("opening the event log: {error}")))?
}

/// What answers, what decides, and what keeps the port.
type Started = (Front, JoinHandle<Result<(), Error>>, Guard);

/// The store is a file that nobody else has open: whoever has it leads.
async fn start_sole(
    config: &ControllerConfig,
    history: Arc<EventLog>,
    cancel: CancellationToken,
) -> Result<Started, Error> {
    let path = config.store_path();
    let opened =
        tokio::task::spawn_blocking(move || SqliteStore::open(&path).map_err(|error| opening(&path, &error)));
    let store = opened.await.map_err(|error| Error::internal(format!("opening the store: {error}")))??;
    let store: Arc<dyn Store> = Arc::new(store);
    let guard = if guard::has_authority(config) {
        let folder = Folder::of(config);
        let authority = folder.authority(&*store, SystemClock.now()).await?;
        Guard::of(authority, &folder, config, cancel.clone())?
    } else {
        Guard::open(config)
    };
    let store = seal::sealed(store, &config.data_dir).await?;
    let (api, running) = controller::start(parts(config, store, history, &guard), cancel).await?;
    Ok((Front::Sole(api), tokio::spawn(running.join()), guard))
}

/// The store is shared: leading is a matter of election.
async fn start_elected(
    config: &ControllerConfig,
    etcd: &EtcdConfig,
    addresses: &[String],
    history: Arc<EventLog>,
    cancel: CancellationToken,
) -> Result<Started, Error> {
    let store = EtcdStore::new(etcd.settings()?).map_err(|error| Error::unavailable(error.to_string()))?;
    let store = Arc::new(store);
    let named = config.advertise_address.as_ref().map(ToString::to_string);
    let claim = Claim {
        address: named.or_else(|| addresses.first().cloned()).unwrap_or_default(),
        id: uuid::Uuid::new_v4().to_string(),
    };
    let folder = Folder::of(config);
    let authority = match guard::has_authority(config) {
        true => Some(shared_authority(&folder, &*store, &cancel).await?),
        false => None,
    };
    let known = authority.as_ref().map(|authority| authority.certificate_pem().to_owned());
    let guard = match authority {
        Some(authority) => Guard::of(authority, &folder, config, cancel.clone())?,
        None => Guard::open(config),
    };
    let lease = Duration::from_secs(u64::from(etcd.lease_s));
    let candidate = Candidate { store: store.clone(), claim, lease };
    let (elected, config) = (Elected::new(), config.clone());
    let (standing, kept, front) = (elected.clone(), guard.clone(), Front::Elected(elected));
    let running = tokio::spawn(async move {
        let ready = async {
            if let Some(known) = known {
                once_reached(&standing, || folder.agree(&known, &*store)).await?;
            }
            // Before anything else, so that one that lacks the store's key says so at its start and not when it should
            // lead.
            once_reached(&standing, || seal::sealed(store.clone(), &config.data_dir)).await
        };
        let sealed = tokio::select! {
            sealed = ready => sealed?,
            () = cancel.cancelled() => return Ok(()),
        };
        let parts = move || parts(&config, sealed.clone(), history.clone(), &kept);
        standing.run(candidate, parts, cancel).await
    });
    Ok((front, running, guard))
}

/// While the store does not answer, it is asked again, and who stands by says so.
async fn once_reached<T, F, Fut>(standing: &Elected, mut ask: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    loop {
        match ask().await {
            Err(error) if error.kind == ErrorKind::Unavailable => standing.note_trouble(&error.message),
            answer => return answer,
        }
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

/// Of a folder that has none, only the store can say whether there is one elsewhere.
async fn shared_authority(
    folder: &Folder,
    store: &dyn Store,
    cancel: &CancellationToken,
) -> Result<OwnAuthority, Error> {
    match folder.known()? {
        Some(authority) => Ok(authority),
        None => until_answered(cancel, || folder.authority(store, SystemClock.now())).await,
    }
}

/// While the store does not answer, it is asked again.
async fn until_answered<T, F, Fut>(cancel: &CancellationToken, mut ask: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut is_told = false;
    loop {
        match ask().await {
            Err(error) if error.kind == ErrorKind::Unavailable => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "waiting for the store");
                }
            }
            answer => return answer,
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Error::unavailable("told to end while waiting for the store")),
            () = tokio::time::sleep(STORE_AGAIN) => {}
        }
    }
}

fn parts(config: &ControllerConfig, store: Arc<dyn Store>, history: Arc<EventLog>, guard: &Guard) -> ControllerParts {
    ControllerParts {
        store,
        history,
        dialer: Arc::new(guard.dialer()),
        clock: Arc::new(SystemClock),
        policy: config.policy(),
        hardware_restarts: config.hardware_restarts.into(),
        max_nodes_out_percent: config.max_nodes_out_percent,
        default_fs_uri: config.default_fs_uri.clone(),
        heartbeat: Duration::from_millis(u64::from(config.heartbeat_ms)),
        node_timeout: Duration::from_millis(u64::from(config.node_timeout_ms)),
        keep_ended_jobs: config.keep_ended_jobs as usize,
        certification: guard.certification.clone(),
    }
}

fn opening(path: &Path, error: &StoreError) -> Error {
    Error::unavailable(format!("opening {}: {error}", path.display()))
}

impl ControllerService {
    /// Waits for the end as [`Self::join`] does, and keeps the service manager informed until then.
    pub async fn join_informing(self, manager: Option<ServiceManager>) -> Result<(), Error> {
        let (front, cancel) = (self.front.clone(), self.cancel.clone());
        let look = || async { front.pulse().await };
        tokio::join!(self.join(), keep_informed(manager, look, cancel)).0
    }

    /// Waits for the end: asked for by the token, or the first failure of a part, which ends the others.
    pub async fn join(self) -> Result<(), Error> {
        let cancel = self.cancel;
        let running = async {
            let result = self.running.await;
            cancel.cancel();
            result.unwrap_or_else(|error| Err(Error::internal(format!("controller: {error}"))))
        };
        let serving = async {
            let result = self.serving.await;
            cancel.cancel();
            result.unwrap_or_else(|error| Err(Error::internal(format!("serving: {error}"))))
        };
        let (running, serving) = tokio::join!(running, serving);
        running.and(serving)
    }
}
