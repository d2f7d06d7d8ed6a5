//! Whether a real dockerd takes our requests as they are.

use super::fixture::{self, Fixture};
use crate::domain::container::{ContainerSpec, JobFiles, Ulimit};
use crate::domain::ids::{Generation, JobId, RunId, TaskId};
use crate::domain::spec::CommandStyle;
use crate::domain::task::TaskSpec;
use crate::runtime::docker::beneath::Held;
use crate::runtime::docker::images::Images;
use crate::runtime::docker::injection::{EngineFacts, GpuInjection, HostDriver, plan};
use crate::runtime::docker::request::mounts::{Folder, JobMounts};
use crate::runtime::docker::request::{NodeFacts, ShimMounts, body};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use std::fs;

fn task(container: ContainerSpec, files: JobFiles) -> TaskSpec {
    TaskSpec {
        id: TaskId { job: JobId(1), run: RunId(1), role: 0, index: 0 },
        job_name: "j".into(),
        user: "ada".into(),
        role_name: "r".into(),
        image: "local/a:1".into(),
        command: "true".into(),
        command_style: CommandStyle::Shell,
        cpus: 1,
        memory_mb: 256,
        shm_mb: 64,
        gpus: Vec::new(),
        ports: Vec::new(),
        lease_s: None,
        debug_hold_s: None,
        files,
        container,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_made_as_asked() {
    if fixture::missing().is_some() {
        return;
    }
    let fixture = Fixture::start().await;
    let more = "WORKDIR /work\nUSER 1000:100\nENTRYPOINT [\"/entry\"]\nHEALTHCHECK CMD false\nENV NVIDIA_VISIBLE_DEVICES=all\n";
    fixture.build("local/a:1", 1, 10, more).await;
    let facts = Images::new(fixture.docker.clone()).inspect("local/a:1").await.unwrap().unwrap();
    assert_eq!((facts.work_dir(), &*facts.user, facts.entrypoint.len()), ("/work", "1000:100", 1));

    let source = fixture.path("code");
    fs::create_dir(&source).unwrap();
    let shim = fixture.path("shim");
    fs::write(&shim, "").unwrap();
    let container = ContainerSpec {
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 512, hard: 1024 }],
        capabilities: vec!["IPC_LOCK".into()],
        ..ContainerSpec::default()
    };
    let task = task(container, JobFiles::default());
    let held = Held::at(&source.canonicalize().unwrap()).unwrap();
    let folder = Folder { source: source.clone(), held, target: "/pai/code".into(), read_only: true };
    let files = JobMounts { code: Some(folder), ..JobMounts::default() };
    let (version, info) = (fixture.docker.version().await.unwrap(), fixture.docker.info().await.unwrap());
    let engine = EngineFacts::of(&version, &info);
    assert!(engine.runtimes.contains("runc") && engine.api.0 == 1 && !engine.root_dir.is_empty(), "{engine:?}");
    let injection = plan(GpuInjection::Auto, &engine, &HostDriver::default(), &[]).unwrap();
    let shim = ShimMounts {
        binds: vec![(shim, "/.wharf/shim".into())],
        entrypoint: vec!["/.wharf/shim".into()],
        generation: Generation(1),
        nonce: "n".into(),
    };
    let node = NodeFacts { pids_limit: Some(1000), ..NodeFacts::default() };
    let (body, _) = body(&task, &facts, &node, &injection, &shim, &files);
    let made = fixture.docker.create_container(None, body).await.unwrap().id;
    let found = fixture.docker.inspect_container(&made, None).await.unwrap();
    let (config, host) = (found.config.unwrap(), found.host_config.unwrap());
    assert_eq!(config.entrypoint, Some(vec!["/.wharf/shim".to_owned()]));
    assert!(config.cmd.unwrap_or_default().is_empty());
    assert_eq!(config.healthcheck.unwrap().test, Some(vec!["NONE".to_owned()]));
    assert!(config.env.unwrap().contains(&"NVIDIA_VISIBLE_DEVICES=void".to_owned()));
    assert_eq!((config.user.as_deref(), config.working_dir.as_deref()), (Some("1000:100"), Some("/work")));
    assert_eq!((host.memory, host.memory_swap), (Some(256 << 20), Some(256 << 20)));
    assert_eq!((host.cpu_quota, host.pids_limit, host.shm_size), (Some(100_000), Some(1000), Some(64 << 20)));
    assert_eq!((host.network_mode.as_deref(), host.ipc_mode.as_deref()), (Some("host"), Some("private")));

    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    fixture.docker.remove_container(&made, Some(options)).await.unwrap();
}
