//! Looks which images may go, and removes them. Never by force: dockerd refuses what it knows to be in use.

use super::collect::{Candidate, ImageRules, Why, to_remove};
use super::error::ImageError;
use super::{INSPECT_DEADLINE, Images, Leaving};
use crate::domain::time::Timestamp;
use bollard::errors::Error as DockerError;
use bollard::models::ImageSummary;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptions, RemoveImageOptionsBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Layers are deleted while it waits.
const REMOVE_DEADLINE: Duration = Duration::from_secs(120);

/// An image that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub id: String,
    pub why: Why,
}

impl Images {
    /// One look. `disk` is where dockerd keeps images; where it cannot be looked at, only age counts.
    pub async fn collect(&self, rules: &ImageRules, disk: &Path, now: Timestamp) -> Result<Vec<Removed>, ImageError> {
        self.book().not_later_than(now);
        let begun: BTreeSet<String> = self.book().iter().map(|(id, _)| id.clone()).collect();
        let found = self.listed().await?;
        let found: BTreeMap<String, ImageSummary> =
            found.into_iter().map(|image| (image.id.clone(), image)).collect();
        let all = ListContainersOptionsBuilder::default().all(true).build();
        let containers = self.ask("listing containers", self.docker.list_containers(Some(all))).await?;
        let used: BTreeSet<String> = containers.into_iter().filter_map(|container| container.image_id).collect();
        let candidates = self.candidates(&begun, &found, &used, now);
        let excess = excess(rules, disk).await;
        let mut removed = Vec::new();
        for (id, why) in to_remove(&candidates, rules, excess) {
            let Some(image) = found.get(&id) else { continue };
            match self.remove(image, &candidates, why, now).await {
                Ok(true) => removed.push(Removed { id, why }),
                Ok(false) => {}
                // One that cannot be removed does not keep the others.
                Err(error) => tracing::warn!(image = id, %error, "an image could not be removed"),
            }
        }
        Ok(removed)
    }

    /// What wharf had pulled before the look and is still there. What a container is made of is of use now.
    fn candidates(
        &self,
        begun: &BTreeSet<String>,
        found: &BTreeMap<String, ImageSummary>,
        used: &BTreeSet<String>,
        now: Timestamp,
    ) -> Vec<Candidate> {
        let mut book = self.book();
        let mut candidates = Vec::new();
        for id in begun.iter().cloned() {
            if used.contains(&id) {
                book.touch(&id, now);
            }
            match (found.get(&id), book.get(&id)) {
                (Some(image), Some(pulled)) => candidates.push(Candidate {
                    bytes: u64::try_from(image.size).unwrap_or(0),
                    unused: now.since(pulled.last_used),
                    in_use: used.contains(&id),
                    named_by_others: image.repo_tags.iter().any(|name| is_name(name) && !pulled.has(name)),
                    id,
                }),
                _ => book.forget(&id),
            }
        }
        candidates
    }

    /// False: it is needed after all.
    async fn remove(
        &self,
        image: &ImageSummary,
        candidates: &[Candidate],
        why: Why,
        now: Timestamp,
    ) -> Result<bool, ImageError> {
        let id = &image.id;
        let looked = candidates.iter().find(|candidate| candidate.id == *id).map(|candidate| candidate.unused);
        let pulled = self.book().get(id).filter(|pulled| Some(now.since(pulled.last_used)) == looked).cloned();
        let Some(pulled) = pulled else { return Ok(false) };
        let last_used = pulled.last_used;
        // Until it is gone, so that no task takes it for there meanwhile.
        let _leaving = self.takes_leave(Leaving { id: id.clone(), pulled });
        // One who needed it before that was told has written it down.
        if self.book().get(id).is_none_or(|pulled| pulled.last_used != last_used) {
            return Ok(false);
        }
        let names: Vec<String> = image.repo_tags.iter().filter(|name| is_name(name)).cloned().collect();
        let (unused_hours, bytes) = (now.since(last_used).as_secs() / 3600, image.size);
        // By its names, of which the last takes the image along; by its id only if it has none.
        let targets = if names.is_empty() { vec![id.clone()] } else { names };
        let mut went = false;
        for target in &targets {
            // Somebody may have given the name to another image since the look.
            if self.inspect(target).await?.is_none_or(|named| named.id != *id) {
                continue;
            }
            let options = RemoveImageOptionsBuilder::new().force(false).build();
            let removing = self.docker.remove_image(target, Some(options), None);
            match tokio::time::timeout(REMOVE_DEADLINE, removing).await {
                Ok(Ok(_)) | Ok(Err(DockerError::DockerResponseServerError { status_code: 404, .. })) => went = true,
                Ok(Err(DockerError::DockerResponseServerError { status_code: 409, message })) => {
                    tracing::info!(image = target, reason = message, "an image stays: dockerd knows it to be in use");
                    self.book().touch(id, now);
                    return Ok(false);
                }
                Ok(Err(error)) => return Err(ImageError::engine("removing", target, error.to_string())),
                Err(_) => {
                    let late = format!("no answer within {} s", REMOVE_DEADLINE.as_secs());
                    return Err(ImageError::engine("removing", target, late));
                }
            }
        }
        if !went {
            return Ok(false);
        }
        self.book().forget(id);
        let image = targets.join(", ");
        tracing::info!(image, id = %id, why = ?why, unused_hours, bytes, "an image that wharf had pulled is removed");
        Ok(true)
    }

    /// Until the answer is dropped.
    pub(super) fn takes_leave(&self, image: Leaving) -> impl Drop + use<> {
        self.leaving.send_replace(Some(image));
        StaysOrIsGone(Arc::clone(&self.leaving))
    }

    /// What is on the node.
    pub(super) async fn listed(&self) -> Result<Vec<ImageSummary>, ImageError> {
        self.ask("listing images", self.docker.list_images(None::<ListImagesOptions>)).await
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        question: impl Future<Output = Result<T, DockerError>>,
    ) -> Result<T, ImageError> {
        match tokio::time::timeout(INSPECT_DEADLINE, question).await {
            Ok(answer) => answer.map_err(|error| ImageError::engine(operation, "of dockerd", error.to_string())),
            Err(_) => {
                let late = format!("no answer within {} s", INSPECT_DEADLINE.as_secs());
                Err(ImageError::engine(operation, "of dockerd", late))
            }
        }
    }
}

struct StaysOrIsGone(Arc<watch::Sender<Option<Leaving>>>);

impl Drop for StaysOrIsGone {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// dockerd says so for an image without a name.
fn is_name(name: &str) -> bool {
    name != "<none>:<none>"
}

async fn excess(rules: &ImageRules, disk: &Path) -> u64 {
    let disk = disk.to_owned();
    let looked = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&disk).ok()).await;
    looked.ok().flatten().map_or(0, |found| {
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        rules.excess(bytes(found.blocks()), bytes(found.blocks_available()))
    })
}
