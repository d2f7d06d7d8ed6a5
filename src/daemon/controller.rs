//! A controller from its settings.

use super::make_state_dir;
use super::notify::{ServiceManager, keep_informed};
use crate::config::ControllerConfig;
use crate::controller::{self, Controller, ControllerParts, ControllerRunning};
use crate::domain::command::Error;
use crate::rpc;
use crate::store::StoreError;
use crate::store::history::EventLog;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::clock::SystemClock;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Ended jobs that stay to be looked at.
const KEEP_ENDED_JOBS: usize = 10_000;

/// A controller that listens.
#[derive(Debug)]
pub struct ControllerService {
    /// Where it really listens, as clients may be told.
    pub addresses: Vec<String>,
    controller: Controller,
    running: ControllerRunning,
    serving: JoinHandle<Result<(), Error>>,
    cancel: CancellationToken,
}

/// Opens the store, binds the sockets, takes the lead and serves until `cancel`.
pub async fn start_controller(
    config: &ControllerConfig,
    cancel: CancellationToken,
) -> Result<ControllerService, Error> {
    make_state_dir(&config.data_dir, 0o700)?;
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let listeners = rpc::bind(&addresses, config.insecure).await?;
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address().to_owned()).collect();
    let (store_path, history_path) = (config.store_path(), config.event_log_path());
    let keep = config.event_retention as usize;
    let opened = tokio::task::spawn_blocking(move || {
        let store = SqliteStore::open(&store_path).map_err(|error| opening(&store_path, &error))?;
        let history = EventLog::open(&history_path, keep).map_err(|error| opening(&history_path, &error))?;
        Ok::<_, Error>((store, history))
    });
    let (store, history) = opened.await.map_err(|error| Error::internal(format!("opening the store: {error}")))??;
    let parts = ControllerParts {
        store: Arc::new(store),
        history: Arc::new(history),
        dialer: Arc::new(rpc::Dialer::default()),
        clock: Arc::new(SystemClock),
        policy: config.policy(),
        default_fs_uri: config.default_fs_uri.clone(),
        heartbeat: Duration::from_millis(u64::from(config.heartbeat_ms)),
        node_timeout: Duration::from_millis(u64::from(config.node_timeout_ms)),
        keep_ended_jobs: KEEP_ENDED_JOBS,
    };
    let (api, running) = controller::start(parts, cancel.clone()).await?;
    let routes = rpc::controller_routes(Arc::new(api.clone())).await?;
    tracing::info!(addresses = addresses.join(", "), "controller listens");
    let serving = tokio::spawn(rpc::serve(listeners, routes, cancel.clone()));
    Ok(ControllerService { addresses, controller: api, running, serving, cancel })
}

fn opening(path: &Path, error: &StoreError) -> Error {
    Error::unavailable(format!("opening {}: {error}", path.display()))
}

impl ControllerService {
    /// Waits for the end as [`Self::join`] does, and keeps the service manager informed until then.
    pub async fn join_informing(self, manager: Option<ServiceManager>) -> Result<(), Error> {
        let (controller, cancel) = (self.controller.clone(), self.cancel.clone());
        let look = || async { controller.pulse().await.map(|pulse| pulse.to_string()) };
        tokio::join!(self.join(), keep_informed(manager, look, cancel)).0
    }

    /// Waits for the end: asked for by the token, or the first failure of a part, which ends the others.
    pub async fn join(self) -> Result<(), Error> {
        let cancel = self.cancel;
        let running = async {
            let result = self.running.join().await;
            cancel.cancel();
            result
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
