//! What a gang's tasks are told: each its specification, and at its launch an environment that names all the others.

use super::core::ControllerParts;
use super::state::State;
use crate::domain::command::Error;
use crate::domain::container::JobFiles;
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::domain::run::{Action, Run, RunTask};
use crate::domain::secret::TaskSecrets;
use crate::domain::spec::{JobSpec, OnNodeLost};
use crate::domain::ssh::{SEED_FEATURE, SshSeed};
use crate::domain::task::{Inventory, TaskSpec};
use crate::jobfile::env::{EnvContext, SeatError, SharedEnvironment, TaskSeat};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// How long `isDebug` keeps a failed task where neither job nor node says less: a week, as in OpenPAI.
const DEBUG_HOLD_S: u32 = 7 * 24 * 60 * 60;

pub(super) fn task_spec(state: &State, run: &Run, spec: &JobSpec, action: &Action) -> TaskSpec {
    let role = &spec.roles[action.task.role as usize];
    let seat = run.find(action.task.role, action.task.index).map(|at| run.tasks[at].seat.clone());
    let seat = seat.expect("actions name tasks of the run");
    TaskSpec {
        id: action.task,
        job_name: spec.name.clone(),
        user: state.jobs.get(&run.job).map_or_else(String::new, |job| job.user.clone()),
        role_name: role.name.clone(),
        image: spec.image.clone(),
        command: role.command.clone(),
        command_style: spec.command_style,
        cpus: role.cpus,
        memory_mb: role.memory_mb,
        shm_mb: role.shm_mb,
        gpus: seat.gpus,
        ports: seat.ports,
        lease_s: match spec.on_node_lost {
            OnNodeLost::Wait => None,
            OnNodeLost::Restart { lease_s } => Some(lease_s),
        },
        debug_hold_s: spec.debug.then_some(spec.debug_hold_s.unwrap_or(DEBUG_HOLD_S)),
        files: JobFiles {
            auth_file: spec.auth_file.clone(),
            code_dir: spec.code_dir.clone(),
            data_dir: spec.data_dir.clone(),
            output_dir: spec.output_dir.clone(),
        },
        container: spec.container.clone(),
    }
}

/// What the environments of a run's tasks are written from.
pub(super) struct Gang {
    spec: Arc<JobSpec>,
    user: String,
    default_fs_uri: String,
    job: JobId,
    run: RunId,
    ssh: Option<SshSeed>,
    seats: Vec<TaskSeat>,
    /// Grows with the gang, so it is written once, by the first task whose turn it is.
    shared: OnceCell<SharedEnvironment>,
}

impl Gang {
    pub(super) fn of(state: &State, run: &Run, spec: &Arc<JobSpec>, parts: &ControllerParts) -> Self {
        let seat = |task: &RunTask| TaskSeat {
            role: task.role,
            index: task.index,
            ip: task.seat.ip.clone(),
            ports: task.seat.ports.clone(),
            gpus: task.seat.gpus.clone(),
        };
        Self {
            spec: spec.clone(),
            user: state.jobs.get(&run.job).map_or_else(String::new, |job| job.user.clone()),
            default_fs_uri: parts.default_fs_uri.clone(),
            job: run.job,
            run: run.id,
            ssh: state.jobs.get(&run.job).and_then(|job| job.ssh.clone()),
            seats: run.tasks.iter().map(seat).collect(),
            shared: OnceCell::new(),
        }
    }

    /// Every task is told of every other, so all of them together would take a gigabyte for a thousand tasks: each is
    /// written only when it is needed.
    pub(super) async fn environment(
        self: &Arc<Self>,
        task: TaskId,
        in_container: bool,
    ) -> Result<Vec<(String, String)>, Error> {
        // Placing gives every task what its role asks for, so this is a mistake of ours: nothing is launched.
        let mistake = |error| Error::internal(format!("the environment of task {task} cannot be written: {error}"));
        let shared = self.shared.get_or_try_init(|| async {
            let gang = self.clone();
            let written = tokio::task::spawn_blocking(move || gang.write_shared()).await;
            written
                .map_err(|error| Error::internal(format!("the environment of run {}: {error}", self.run)))?
                .map_err(&mistake)
        });
        let environment = shared.await?.for_task_on(task.role, task.index, in_container).map_err(mistake)?;
        Ok(environment)
    }

    /// The job's own, and what its keys come from for the agent of a node that announces it can do something with that.
    pub(super) fn secrets_for(&self, inventory: &Inventory) -> TaskSecrets {
        let knows = in_container(inventory) && inventory.features.iter().any(|feature| feature == SEED_FEATURE);
        TaskSecrets { env: self.spec.secrets.clone(), ssh_seed: self.ssh.clone().filter(|_| knows) }
    }

    fn write_shared(&self) -> Result<SharedEnvironment, SeatError> {
        SharedEnvironment::new(&EnvContext {
            spec: &self.spec,
            user: &self.user,
            default_fs_uri: &self.default_fs_uri,
            job: self.job,
            run: self.run,
            seats: &self.seats,
            // Said for each task, as nodes differ.
            in_container: true,
        })
    }
}

/// Whether a node's tasks are containers, which see only their own GPUs.
pub(super) fn in_container(inventory: &Inventory) -> bool {
    inventory.runtime != "process"
}
