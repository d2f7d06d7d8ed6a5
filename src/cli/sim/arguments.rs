//! What `wharf sim` was asked for, checked.

use crate::cli::args::{PolicyArg, SimArgs};
use crate::cli::fail::{Failure, bad_usage};
use crate::sim::cluster::{NodeGroup, gpus_of, nodes_of};
use crate::sim::{Config, Latencies, Policy};
use serde_json::{Value, json};

/// The trace that is not a file.
pub(super) const SYNTHETIC: &str = "synthetic";
/// Most nodes, and most GPUs of one.
const MAX_NODES: u32 = 100_000;
const MAX_GPUS: u32 = 64;
/// Of GPUs whose type nobody named.
const GPU_TYPE: &str = "H100";
/// Greatest load: beyond that nobody learns anything.
const MAX_LOAD: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Setting {
    /// With the first policy.
    pub(super) config: Config,
    pub(super) policies: Vec<Policy>,
    pub(super) trace: String,
    pub(super) jobs: u64,
    pub(super) load: f64,
}

impl Setting {
    pub(super) fn of(args: SimArgs) -> Result<Self, Failure> {
        if !(args.load > 0.0 && args.load <= MAX_LOAD) {
            return Err(bad_usage(format!("--load: found {}, allowed: above 0, up to {MAX_LOAD}", args.load)));
        }
        if !(0.0..=1.0).contains(&args.faults) {
            return Err(bad_usage(format!("--faults: found {}, allowed: 0 to 1", args.faults)));
        }
        let policies = match (args.compare, args.policy) {
            (true, _) => vec![Policy::Wharf, Policy::Fifo],
            (false, PolicyArg::Wharf) => vec![Policy::Wharf],
            (false, PolicyArg::Fifo) => vec![Policy::Fifo],
        };
        let config = Config {
            groups: groups(&args)?,
            policy: policies[0],
            seed: args.seed,
            faults: args.faults,
            latencies: Latencies::default(),
            checks: args.checks || cfg!(debug_assertions),
        };
        Ok(Self { config, policies, trace: args.trace, jobs: args.jobs, load: args.load })
    }

    pub(super) fn is_synthetic(&self) -> bool {
        self.trace == SYNTHETIC
    }

    pub(super) fn nodes(&self) -> u64 {
        nodes_of(&self.config.groups)
    }

    pub(super) fn gpus(&self) -> u64 {
        gpus_of(&self.config.groups)
    }

    pub(super) fn json(&self) -> Value {
        let group = |group: &NodeGroup| {
            json!({
                "nodes": group.nodes,
                "gpus": group.gpus,
                "gpu_type": group.gpu_type,
                "cpus": group.cpus,
                "memory_mb": group.memory_mb,
            })
        };
        json!({
            "nodes": self.config.groups.iter().map(group).collect::<Vec<_>>(),
            "trace": self.trace,
            "jobs": self.is_synthetic().then_some(self.jobs),
            "load": self.is_synthetic().then_some(self.load),
            "seed": self.config.seed,
            "faults": self.config.faults,
        })
    }
}

fn groups(args: &SimArgs) -> Result<Vec<NodeGroup>, Failure> {
    let nodes: Vec<&str> = args.nodes.split(',').map(str::trim).collect();
    let gpus: Vec<&str> = args.gpus.split(',').map(str::trim).collect();
    if nodes.len() != gpus.len() {
        let message = format!(
            "--nodes has {} kinds of nodes, --gpus has {}; allowed: as many of one as of the other",
            nodes.len(),
            gpus.len()
        );
        return Err(bad_usage(message));
    }
    let groups: Result<Vec<NodeGroup>, Failure> =
        nodes.into_iter().zip(gpus).map(|(nodes, gpus)| group(nodes, gpus, args)).collect();
    let groups = groups?;
    if nodes_of(&groups) > u64::from(MAX_NODES) {
        let message = format!("--nodes: found {} in all, allowed: up to {MAX_NODES}", nodes_of(&groups));
        return Err(bad_usage(message));
    }
    Ok(groups)
}

fn group(nodes: &str, gpus: &str, args: &SimArgs) -> Result<NodeGroup, Failure> {
    let count = nodes.parse().ok().filter(|count| (1..=MAX_NODES).contains(count));
    let count = count.ok_or_else(|| {
        let message =
            format!("--nodes: found '{nodes}', allowed: 1 to {MAX_NODES}, or several with ',' between them");
        bad_usage(message)
    })?;
    let (number, kind) = gpus.split_once(['x', 'X']).unwrap_or((gpus, GPU_TYPE));
    let number = number.parse().ok().filter(|number| *number <= MAX_GPUS && !kind.is_empty());
    let number = number.ok_or_else(|| {
        bad_usage(format!("--gpus: found '{gpus}', allowed: 0 to {MAX_GPUS}, or with a type: 8xA100"))
    })?;
    let mut group = NodeGroup::of(count, number, kind);
    group.cpus = args.cpus.unwrap_or(group.cpus);
    if args.cpus.is_some() {
        group.memory_mb = u64::from(group.cpus) * crate::sim::cluster::MEMORY_MB_PER_CPU;
    }
    group.memory_mb = args.memory_mb.unwrap_or(group.memory_mb);
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn setting(words: &str) -> Result<Setting, String> {
        let cli = Cli::try_parse_from(["wharf", "sim"].into_iter().chain(words.split_whitespace())).unwrap();
        let Command::Sim(args) = cli.command else { panic!("it is sim") };
        Setting::of(args).map_err(|failure| match failure {
            Failure::Error(error) => error.message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn kinds_of_nodes_are_read_in_pairs() {
        let setting = setting("--nodes 40,10 --gpus 8xA100,0 --compare").unwrap();
        assert_eq!((setting.nodes(), setting.gpus(), setting.policies.len()), (50, 320, 2));
        let [first, second] = setting.config.groups.as_slice() else { panic!("two kinds") };
        assert_eq!((first.gpu_type.as_str(), first.cpus, first.memory_mb), ("A100", 96, 768_000));
        assert_eq!((second.gpus, second.cpus), (0, 96));
    }

    #[test]
    fn mistakes_say_what_was_found_and_what_is_allowed() {
        for (words, found) in [
            ("--nodes 0", "found '0'"),
            ("--nodes 1,2", "2 kinds of nodes, --gpus has 1"),
            ("--nodes 99999,99999 --gpus 1,1", "found 199998 in all"),
            ("--gpus x", "found 'x'"),
            ("--gpus 8x", "found '8x'"),
            ("--gpus 65", "found '65'"),
            ("--load 0", "found 0,"),
            ("--load nan", "found NaN"),
            ("--faults 1.5", "found 1.5"),
        ] {
            let message = setting(words).unwrap_err();
            assert!(message.contains(found) && message.contains("allowed"), "{words}: {message}");
        }
    }
}
