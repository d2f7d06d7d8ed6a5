//! Has a task's image on the node, and tells how far that is.

use super::Containers;
use super::credentials::{CredentialsError, login_for};
use super::images::error::ImageError;
use super::request::{RequestError, asked_early};
use crate::domain::policy::Policy;
use crate::domain::task::TaskSpec;
use crate::runtime::shimmed::{Core, Failure};
use crate::runtime::{Notices, RuntimeEvent, RuntimeEventKind};
use std::sync::Arc;

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self { user_error: error.is_user_error(), message: error.to_string() }
    }
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        Self { user_error: error.is_user_error(), message: error.to_string() }
    }
}

pub async fn stage(core: &Arc<Core<Containers>>, task: &TaskSpec) -> Result<Notices, Failure> {
    if task.image.is_empty() {
        return Err(Failure::user("image: this node runs tasks in containers, and the job names no image"));
    }
    allowed_by(&core.kind.config.policy, task)?;
    let images = core.kind.images().await?;
    let allowed = core.kind.config.allowed();
    let login = login_for(&task.files.auth_file, &task.image, &task.user, allowed, &core.disks).await?;
    let (id, events) = (task.id, core.events.clone());
    let progress = move |note| {
        // Whoever reads too slowly misses some: the next one says more.
        events.try_send(RuntimeEvent { id, kind: RuntimeEventKind::Staging { note } }).ok();
    };
    images.ensure(&task.image, task.container.pull, login.credentials, &progress).await?;
    Ok(Notices(login.notices))
}

/// What can be said before anything is fetched.
fn allowed_by(policy: &Policy, task: &TaskSpec) -> Result<(), RequestError> {
    policy.check(&asked_early(task)).map_err(RequestError::Refused)
}
