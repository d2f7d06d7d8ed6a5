//! The part of the environment that differs between the tasks of a run.

use super::{TaskSeat, first_port, optional, port_list};
use crate::domain::ids::TaskId;
use crate::domain::spec::RoleSpec;

/// Everything about one task: its role, place, ports, GPUs and id.
pub(super) fn own_variables(
    id: TaskId,
    role: &RoleSpec,
    seat: &TaskSeat,
    in_container: bool,
) -> Vec<(String, String)> {
    let mut variables = role_variables(role);
    variables.extend(place_variables(id, &seat.ip));
    variables.extend(port_variables(seat));
    variables.extend(gpu_variables(seat, in_container));
    variables.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

type Variables = Vec<(std::borrow::Cow<'static, str>, String)>;

/// The current role's shape, under its documented names and the oldest ones.
fn role_variables(role: &RoleSpec) -> Variables {
    let (count, cpus, gpus) = (role.count.to_string(), role.cpus.to_string(), role.gpus.to_string());
    let memory_mb = role.memory_mb.to_string();
    vec![
        ("PAI_CURRENT_TASK_ROLE_NAME".into(), role.name.clone()),
        ("PAI_CURRENT_TASK_ROLE_TASK_COUNT".into(), count.clone()),
        ("PAI_CURRENT_TASK_ROLE_CPU_COUNT".into(), cpus.clone()),
        ("PAI_CURRENT_TASK_ROLE_MEM_MB".into(), memory_mb.clone()),
        ("PAI_CURRENT_TASK_ROLE_SHM_MB".into(), role.shm_mb.to_string()),
        ("PAI_CURRENT_TASK_ROLE_GPU_COUNT".into(), gpus.clone()),
        ("PAI_CURRENT_TASK_ROLE_MIN_FAILED_TASK_COUNT".into(), optional(role.min_failed)),
        ("PAI_CURRENT_TASK_ROLE_MIN_SUCCEEDED_TASK_COUNT".into(), optional(role.min_succeeded)),
        // OpenPAI's code wrote the role's resources without the role's name.
        ("PAI_RESOURCE".into(), resource(role)),
        ("PAI_TASK_ROLE_NAME".into(), role.name.clone()),
        ("PAI_TASK_ROLE_NUM".into(), count),
        ("PAI_TASK_CPU_NUM".into(), cpus),
        ("PAI_TASK_MEM_MB".into(), memory_mb),
        ("PAI_TASK_GPU_NUM".into(), gpus),
    ]
}

/// Which task this is. `PAI_TASK_ROLE_INDEX` is, despite its name, the task's index within its role; the role's
/// own position is `PAI_TASK_ROLE_NO`.
fn place_variables(id: TaskId, ip: &str) -> Variables {
    let (index, ip) = (id.index.to_string(), ip.to_owned());
    vec![
        ("PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX".into(), index.clone()),
        ("PAI_TASK_INDEX".into(), index.clone()),
        ("PAI_TASK_ROLE_INDEX".into(), index),
        ("PAI_TASK_ROLE_NO".into(), id.role.to_string()),
        ("PAI_CONTAINER_HOST_IP".into(), ip.clone()),
        ("PAI_CURRENT_CONTAINER_IP".into(), ip),
        ("PAI_CONTAINER_ID".into(), format!("container_{}_{}_{}_{}", id.job, id.run, id.role, id.index)),
        ("WHARF_TASK_ID".into(), id.to_string()),
    ]
}

/// The task's own ports. The list of all ends in `;`, as the launcher wrote it.
fn port_variables(seat: &TaskSeat) -> Variables {
    let all: String =
        seat.ports.iter().map(|ports| format!("{}:{};", ports.label, port_list(&ports.ports))).collect();
    let http = first_port(seat, "http");
    let mut variables: Variables = vec![("PAI_CONTAINER_HOST_PORT_LIST".into(), all)];
    for ports in &seat.ports {
        let name = format!("PAI_CONTAINER_HOST_{}_PORT_LIST", ports.label);
        variables.push((name.into(), port_list(&ports.ports)));
    }
    variables.extend([
        ("PAI_CONTAINER_HOST_PORT".into(), http.clone()),
        ("PAI_CURRENT_CONTAINER_PORT".into(), http),
        ("PAI_CONTAINER_SSH_PORT".into(), first_port(seat, "ssh")),
    ]);
    variables
}

/// `NVIDIA_VISIBLE_DEVICES` is `void` for no GPUs: empty or absent, the NVIDIA runtime would go by the image, and
/// many images say `all`. CUDA in a container counts what it sees from 0, but knows MIG slices by UUID only.
fn gpu_variables(seat: &TaskSeat, in_container: bool) -> Variables {
    let uuids: Vec<&str> = seat.gpus.iter().map(|uuid| uuid.0.as_str()).collect();
    let has_mig = uuids.iter().any(|uuid| uuid.starts_with("MIG-"));
    let nvidia = if uuids.is_empty() { "void".to_owned() } else { uuids.join(",") };
    let cuda = if in_container && !has_mig {
        (0..uuids.len()).map(|position| position.to_string()).collect::<Vec<_>>().join(",")
    } else {
        uuids.join(",")
    };
    vec![("NVIDIA_VISIBLE_DEVICES".into(), nvidia), ("CUDA_VISIBLE_DEVICES".into(), cuda)]
}

/// `gpu,cpu,memoryMB,shmMB`.
pub(super) fn resource(role: &RoleSpec) -> String {
    format!("{},{},{},{}", role.gpus, role.cpus, role.memory_mb, role.shm_mb)
}
