//! The many messages of a pull, folded into one line that a person understands. Pure.

use bollard::models::CreateImageInfo;
use std::collections::BTreeMap;
use std::fmt;

/// What has been heard of one pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    image: String,
    layers: BTreeMap<String, Layer>,
    /// The last thing that was said about no layer.
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Layer {
    phase: Phase,
    /// Bytes of the download; `total` is 0 until it starts.
    current: u64,
    total: u64,
    /// Bytes taken out of the download.
    extracted: u64,
    /// The furthest it ever was: what is done again after a retry is no progress.
    furthest: (Phase, u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Phase {
    #[default]
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Done,
}

impl PullProgress {
    pub fn new(image: &str) -> Self {
        Self { image: image.to_owned(), layers: BTreeMap::new(), note: String::new() }
    }

    /// Takes one message in. True if the pull got on by it: countdowns to a retry, and what was said before, are no
    /// progress.
    pub fn apply(&mut self, message: &CreateImageInfo) -> bool {
        let status = message.status.as_deref().unwrap_or_default();
        let Some(id) = message.id.as_deref().filter(|_| is_of_a_layer(status)) else {
            let new = !status.is_empty() && status != self.note && !status.starts_with("Retrying");
            if new {
                self.note = status.chars().take(200).collect();
            }
            return new;
        };
        let known = self.layers.contains_key(id);
        let layer = self.layers.entry(id.to_owned()).or_default();
        layer.hear(status, message);
        let now = (layer.phase, layer.current, layer.extracted);
        let further = now > layer.furthest;
        layer.furthest = layer.furthest.max(now);
        !known || further
    }

    /// Layers that are complete, and all that are known of.
    pub fn layers(&self) -> (usize, usize) {
        (self.layers.values().filter(|layer| layer.phase == Phase::Done).count(), self.layers.len())
    }
}

impl Layer {
    fn hear(&mut self, status: &str, message: &CreateImageInfo) {
        let detail = message.progress_detail.as_ref();
        let bytes = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let current = detail.and_then(|detail| bytes(detail.current));
        let total = detail.and_then(|detail| bytes(detail.total));
        let phase = match status {
            "Downloading" => {
                self.current = current.unwrap_or(self.current);
                self.total = total.unwrap_or(self.total).max(self.current);
                Phase::Downloading
            }
            "Verifying Checksum" | "Download complete" => {
                self.current = self.total;
                Phase::Downloaded
            }
            "Extracting" => {
                self.current = self.total;
                self.extracted = current.unwrap_or(self.extracted);
                Phase::Extracting
            }
            "Pull complete" | "Already exists" => {
                self.current = self.total;
                Phase::Done
            }
            _ => Phase::Waiting,
        };
        self.phase = phase;
    }
}

/// Messages with an id are of layers, but for `Pulling from REPOSITORY`, whose id is the tag.
fn is_of_a_layer(status: &str) -> bool {
    matches!(
        status,
        "Pulling fs layer"
            | "Waiting"
            | "Downloading"
            | "Verifying Checksum"
            | "Download complete"
            | "Extracting"
            | "Pull complete"
            | "Already exists"
    ) || status.starts_with("Retrying in")
}

/// `pulling python:3.12: 3 of 7 layers, 120 of 310 MB`. Sizes are of what has begun to arrive: registries do not
/// tell the whole beforehand.
impl fmt::Display for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pulling {}: ", self.image)?;
        let (done, all) = self.layers();
        if all == 0 {
            return f.write_str("asking the registry");
        }
        write!(f, "{done} of {all} layers")?;
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).sum::<u64>();
        let (current, total) = (sum(|layer| layer.current), sum(|layer| layer.total));
        if total > 0 {
            const MB: u64 = 1_000_000;
            write!(f, ", {} of {} MB", current / MB, total.div_ceil(MB))?;
        }
        let loading = self.layers.values().any(|layer| layer.phase < Phase::Downloaded);
        let extracting = self.layers.values().any(|layer| layer.phase == Phase::Extracting);
        f.write_str(if extracting && !loading { ", unpacking" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    fn say(id: &str, status: &str, bytes: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: (!id.is_empty()).then(|| id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: bytes
                .map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn a_pull_is_one_line() {
        let mut pull = PullProgress::new("python:3.12");
        assert_eq!(pull.to_string(), "pulling python:3.12: asking the registry");
        let steps = [
            (say("3.12", "Pulling from library/python", None), "asking the registry", true),
            (say("a", "Already exists", None), "1 of 1 layers", true),
            (say("b", "Pulling fs layer", None), "1 of 2 layers", true),
            (say("c", "Pulling fs layer", None), "1 of 3 layers", true),
            (say("c", "Waiting", None), "1 of 3 layers", false),
            (say("b", "Downloading", Some((5_000_000, 200_000_000))), "1 of 3 layers, 5 of 200 MB", true),
            (say("c", "Downloading", Some((100, 109_500_000))), "1 of 3 layers, 5 of 310 MB", true),
            (say("c", "Downloading", Some((100, 109_500_000))), "1 of 3 layers, 5 of 310 MB", false),
            (say("c", "Retrying in 5 seconds", None), "1 of 3 layers, 5 of 310 MB", false),
            (say("c", "Retrying in 4 seconds", None), "1 of 3 layers, 5 of 310 MB", false),
            (say("c", "Downloading", Some((109_500_000, 109_500_000))), "1 of 3 layers, 114 of 310 MB", true),
            (say("c", "Download complete", None), "1 of 3 layers, 114 of 310 MB", true),
            (say("b", "Verifying Checksum", None), "1 of 3 layers, 309 of 310 MB", true),
            (say("b", "Extracting", Some((1, 200_000_000))), "1 of 3 layers, 309 of 310 MB, unpacking", true),
            (say("b", "Extracting", Some((1, 200_000_000))), "1 of 3 layers, 309 of 310 MB, unpacking", false),
            (say("b", "Pull complete", None), "2 of 3 layers, 309 of 310 MB", true),
            (say("c", "Pull complete", None), "3 of 3 layers, 309 of 310 MB", true),
            (say("", "Digest: sha256:1", None), "3 of 3 layers, 309 of 310 MB", true),
            (say("", "Digest: sha256:1", None), "3 of 3 layers, 309 of 310 MB", false),
        ];
        for (i, (message, line, advanced)) in steps.into_iter().enumerate() {
            assert_eq!(pull.apply(&message), advanced, "step {i}");
            assert_eq!(pull.to_string(), format!("pulling python:3.12: {line}"), "step {i}");
        }
    }

    #[test]
    fn a_download_that_starts_over_again_and_again_is_no_progress() {
        let mut pull = PullProgress::new("a");
        pull.apply(&say("a", "Pulling fs layer", None));
        assert!(pull.apply(&say("a", "Downloading", Some((10, 100)))));
        for _ in 0..3 {
            assert!(!pull.apply(&say("a", "Retrying in 1 second", None)));
            assert!(!pull.apply(&say("a", "Downloading", Some((10, 100)))));
        }
        assert!(pull.apply(&say("a", "Downloading", Some((11, 100)))));
    }

    #[test]
    fn nonsense_sizes_do_no_harm() {
        let mut pull = PullProgress::new("a");
        pull.apply(&say("a", "Downloading", Some((-1, -1))));
        pull.apply(&say("a", "Downloading", Some((7, 3))));
        assert_eq!(pull.to_string(), "pulling a: 0 of 1 layers, 0 of 1 MB");
    }
}
