//! What the shim runs in a container, and with which environment. Pure.

use crate::domain::spec::CommandStyle;
use crate::domain::task::TaskSpec;
use crate::runtime::docker::images::facts::ImageFacts;
use crate::runtime::docker::injection::Injection;
use std::collections::HashMap;

/// What Docker gives a container whose image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables that only the node may set.
const OURS: &str = "WHARF_";

/// Argument lists for the shim, of which it runs the first that exists. The image's entrypoint is cleared for a
/// shell's command line.
pub fn alternatives(task: &TaskSpec, _image: &ImageFacts) -> Vec<Vec<String>> {
    match task.command_style {
        CommandStyle::Shell => ["/bin/bash", "/bin/sh"]
            .map(|shell| vec![shell.to_owned(), "-c".to_owned(), task.command.clone()])
            .to_vec(),
    }
}

/// The whole environment of the command: the image's, then what wharf and the job set (`launch`, in that order), then
/// what decides which GPUs there are. Of one name the last wins and keeps its first place. The second list is what the
/// job may not set.
pub fn environment(
    image: &ImageFacts,
    injection: &Injection,
    launch: &[(String, String)],
) -> (Vec<(String, String)>, Vec<String>) {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut set = |name: &str, value: &str| match places.get(name) {
        Some(place) => env[*place].1 = value.to_owned(),
        None => {
            places.insert(name.to_owned(), env.len());
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    set("PATH", PATH);
    for (name, value) in &injection.default_environment {
        set(name, value);
    }
    // The image's own word on our variables is an accident of `docker commit`.
    for (name, value) in image.env.iter().filter(|(name, _)| !name.starts_with(OURS)) {
        set(name, value);
    }
    for (name, value) in launch {
        set(name, value);
    }
    let mut notices = Vec::new();
    for (name, value) in &injection.environment {
        let asked = launch.iter().rev().find(|(known, _)| known == name);
        if let Some((_, asked)) = asked.filter(|(_, asked)| asked != value) {
            notices
                .push(format!("{name} stays '{value}' and not '{asked}': it decides which GPUs the container gets"));
        }
        set(name, value);
    }
    (env, notices)
}
