//! What a container may use, as seen from inside, and its networks.

use super::*;
use crate::domain::container::{ContainerSpec, Network, Ulimit};
use crate::domain::task::AssignedPorts;
use std::collections::HashMap;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_those_that_were_asked_for() {
    let Some(place) = Place::new("docker: limits_are_those_that_were_asked_for") else { return };
    let mut subject = place.start();
    // Control groups of either version.
    let script = "first() { cat $* 2>/dev/null | head -n 1; }
        echo files=$(ulimit -Sn),$(ulimit -Hn)
        echo core=$(ulimit -Hc)
        echo address_space=$(ulimit -Sv)
        echo shm=$(df -k /dev/shm | awk 'END { print $2 }')
        echo pids=$(first /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max)
        echo cpu=$(first /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max)
        echo memory=$(first /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max)
        echo capabilities=$(awk '/^CapBnd/ { print $2 }' /proc/self/status)
        echo oom=$(cat /proc/self/oom_score_adj)
        (for i in $(seq 60); do sleep 30 & done) 2>&1 | grep -q fork && echo forks=refused
        true";
    let ulimit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    let container = ContainerSpec {
        ulimits: vec![ulimit("nofile", 123, 456), ulimit("core", 0, 0), ulimit("as", 1 << 30, 1 << 30)],
        capabilities: vec!["IPC_LOCK".into()],
        pids_limit: Some(40),
        ..ContainerSpec::default()
    };
    let task = TaskSpec { cpus: 2, memory_mb: 96, shm_mb: 48, container, ..place.task(script) };
    let exit = subject.run(&task).await;
    let (stdout, stderr) = output(&subject.runtime.log_dir(task.id));
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(exit.is_success(), "{exit:?}: {stdout} {stderr}");
    let found: HashMap<&str, &str> = stdout.lines().filter_map(|line| line.split_once('=')).collect();
    let want = [
        ("files", "123,456"),
        ("core", "0"),
        ("address_space", "1048576"),
        ("shm", "49152"),
        ("pids", "40"),
        ("memory", "100663296"),
        ("oom", "500"),
        ("forks", "refused"),
    ];
    for (name, value) in want {
        assert_eq!(found.get(name), Some(&value), "{name} in {found:?}, {stderr}");
    }
    assert!(["200000", "200000 100000"].contains(&found["cpu"]), "{found:?}");
    let capabilities = u64::from_str_radix(found["capabilities"], 16).unwrap();
    let has = |number: u32| capabilities & (1 << number) != 0;
    let (kill, ipc_lock, admin, mknod) = (5, 14, 21, 27);
    assert_eq!([kill, ipc_lock, admin, mknod].map(has), [true, true, false, false], "{capabilities:x}");
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capability_that_is_the_node_is_refused() {
    let Some(place) = Place::new("docker: a_capability_that_is_the_node_is_refused") else { return };
    let subject = place.start();
    let container = ContainerSpec { capabilities: vec!["SYS_MODULE".into()], ..ContainerSpec::default() };
    let task = TaskSpec { container, ..place.task("true") };
    let refused = subject.runtime.prepare(&task, &[]).await.unwrap_err();
    assert!(refused.user_error && refused.message.contains("SYS_MODULE"), "{refused}");
    place.assert_nothing_left(task.id);
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridges_container_is_reached_by_its_published_port() {
    let test = "docker: a_bridges_container_is_reached_by_its_published_port";
    let Some(place) = Dockerd::bridged(test).map(Place::beside) else { return };
    let mut subject = place.start();
    let ports = vec![AssignedPorts { label: "http".into(), ports: vec![18_080] }];
    let container = ContainerSpec { network: Network::Bridge, ..ContainerSpec::default() };
    let script = "grep -c eth0: /proc/net/dev; while :; do echo from inside | nc -l -p 18080; done";
    let task = TaskSpec { ports, container, ..place.task(script) };
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "1\n").await;
    // From where the node is, as far as this dockerd knows.
    let ask =
        "for i in $(seq 100); do timeout 2 nc 127.0.0.1 18080 </dev/null | grep inside && exit; sleep 0.1; done";
    let image = "wharf-test/busybox:1";
    let answer = place.dockerd.docker(&["run", "--rm", "--network=host", image, "sh", "-c", ask]);
    assert_eq!(answer, "from inside\n");
    // The same port again is the node's trouble and not the job's.
    let other = TaskSpec { id: TaskId { index: task.id.index + 1, ..task.id }, ..task.clone() };
    let refused = subject.runtime.prepare(&other, &[]).await.unwrap_err();
    assert!(!refused.user_error && refused.message.contains("18080"), "{refused}");
    assert_eq!(place.container(other.id), None);
    subject.runtime.remove(task.id).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    subject.finish(task.id).await;
}
