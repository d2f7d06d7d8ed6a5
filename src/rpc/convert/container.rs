//! What jobs ask of containers.

use super::{MAX_LINE_BYTES, MAX_WORD_BYTES, Parsed, each, filled, text, texts, wrong};
use crate::domain::command::Violation;
use crate::domain::container::{ContainerSpec, JobFiles, Network, PullPolicy, Ulimit};
use crate::rpc::generated as pb;

impl From<JobFiles> for pb::JobFiles {
    fn from(JobFiles { auth_file, code_dir, data_dir, output_dir }: JobFiles) -> Self {
        Self { auth_file, code_dir, data_dir, output_dir }
    }
}

impl TryFrom<pb::JobFiles> for JobFiles {
    type Error = Violation;

    fn try_from(wire: pb::JobFiles) -> Parsed<Self> {
        Ok(Self {
            auth_file: text(wire.auth_file, "auth_file", MAX_LINE_BYTES)?,
            code_dir: text(wire.code_dir, "code_dir", MAX_LINE_BYTES)?,
            data_dir: text(wire.data_dir, "data_dir", MAX_LINE_BYTES)?,
            output_dir: text(wire.output_dir, "output_dir", MAX_LINE_BYTES)?,
        })
    }
}

impl From<Ulimit> for pb::Ulimit {
    fn from(Ulimit { name, soft, hard }: Ulimit) -> Self {
        Self { name, soft, hard }
    }
}

impl TryFrom<pb::Ulimit> for Ulimit {
    type Error = Violation;

    fn try_from(wire: pb::Ulimit) -> Parsed<Self> {
        Ok(Self { name: filled(wire.name, "name", MAX_WORD_BYTES)?, soft: wire.soft, hard: wire.hard })
    }
}

impl From<ContainerSpec> for pb::ContainerSpec {
    fn from(spec: ContainerSpec) -> Self {
        let ContainerSpec {
            pull,
            network,
            user,
            read_only_root,
            capabilities,
            ulimits,
            pids_limit,
            infiniband,
            numa_cpus,
        } = spec;
        Self {
            pull: pull.as_str().to_owned(),
            network: network.as_str().to_owned(),
            user,
            read_only_root,
            capabilities,
            ulimits: ulimits.into_iter().map(Into::into).collect(),
            pids_limit,
            infiniband,
            numa_cpus,
        }
    }
}

impl TryFrom<pb::ContainerSpec> for ContainerSpec {
    type Error = Violation;

    fn try_from(wire: pb::ContainerSpec) -> Parsed<Self> {
        let pull = match wire.pull.as_str() {
            "" => PullPolicy::default(),
            word => PullPolicy::parse(word)
                .ok_or_else(|| wrong("pull", "is not a pull policy", word, "missing, always, never"))?,
        };
        let network = match wire.network.as_str() {
            "" => Network::default(),
            word => Network::parse(word).ok_or_else(|| wrong("network", "is not a network", word, "host, bridge"))?,
        };
        Ok(Self {
            pull,
            network,
            user: wire.user.map(|user| text(user, "user", MAX_WORD_BYTES)).transpose()?,
            read_only_root: wire.read_only_root,
            capabilities: texts(wire.capabilities, "capabilities", MAX_WORD_BYTES)?,
            ulimits: each(wire.ulimits, "ulimits")?,
            pids_limit: wire.pids_limit,
            infiniband: wire.infiniband,
            numa_cpus: wire.numa_cpus,
        })
    }
}
