//! The part of the environment that all tasks of a run have in common, and its joining with a task's own part.

use super::own::{own_variables, resource};
use super::{EnvContext, SeatError, TaskSeat, first_port, optional, port_list};
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::domain::spec::RoleSpec;
use crate::jobfile::openpai::MAX_ARGUMENT_BYTES;
use std::collections::{BTreeMap, BTreeSet};

/// Computed once per run, and owned, so that all who launch its tasks can share it; see
/// [`SharedEnvironment::for_task`].
#[derive(Debug)]
pub struct SharedEnvironment {
    job: JobId,
    run: RunId,
    in_container: bool,
    roles: Vec<RoleSpec>,
    seats: BTreeMap<(u32, u32), TaskSeat>,
    /// In order, without names that the job sets itself.
    common: Vec<(String, String)>,
    /// The names in `common`.
    names: BTreeSet<String>,
    /// What the job sets itself.
    of_job: Vec<(String, String)>,
    /// The names in `of_job`, and those of its secrets, which are not here.
    job_names: BTreeSet<String>,
    omitted: Vec<String>,
}

impl SharedEnvironment {
    /// Checks that every task has its seat, and writes what all tasks see alike.
    pub fn new(ctx: &EnvContext<'_>) -> Result<Self, SeatError> {
        let seats = seats_of(ctx)?;
        let (common, names, omitted) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut shared = Self {
            job: ctx.job,
            run: ctx.run,
            in_container: ctx.in_container,
            roles: ctx.spec.roles.clone(),
            seats: seats.iter().map(|(task, seat)| (*task, (*seat).clone())).collect(),
            common,
            names,
            of_job: ctx.spec.env.clone(),
            job_names: ctx.spec.names_of_variables().map(str::to_owned).collect(),
            omitted,
        };
        shared.write_job(ctx);
        for (number, role) in (0u32..).zip(&ctx.spec.roles) {
            let seats: Vec<&TaskSeat> =
                seats.range((number, 0)..=(number, u32::MAX)).map(|(_, seat)| *seat).collect();
            shared.write_role(role, &seats);
        }
        Ok(shared)
    }

    /// The whole environment of one task: common part, own part, then the job's own variables, literal.
    pub fn for_task(&self, role: u32, index: u32) -> Result<Vec<(String, String)>, SeatError> {
        self.for_task_on(role, index, self.in_container)
    }

    /// The same on a node of another kind than the context says: nodes of one run may differ in what they run tasks
    /// with.
    pub fn for_task_on(&self, role: u32, index: u32, in_container: bool) -> Result<Vec<(String, String)>, SeatError> {
        let missing = SeatError::Missing { role, index };
        let seat = self.seats.get(&(role, index)).ok_or(missing.clone())?;
        let spec = self.roles.get(role as usize).ok_or(missing)?;
        let id = TaskId { job: self.job, run: self.run, role, index };
        let own = own_variables(id, spec, seat, in_container);
        // Role and port names are free enough to spell a task's own variable; then the task's own wins.
        let spelled: BTreeSet<&str> =
            own.iter().map(|(name, _)| name.as_str()).filter(|name| self.names.contains(*name)).collect();
        let mut variables = Vec::with_capacity(self.common.len() + own.len() + self.of_job.len());
        variables.extend(self.common.iter().filter(|(name, _)| !spelled.contains(name.as_str())).cloned());
        variables.extend(own.into_iter().filter(|(name, _)| !self.job_names.contains(name)));
        variables.extend(self.of_job.iter().cloned());
        Ok(variables)
    }

    /// Variables left out because they are longer than Linux lets one be (128 KiB), which would keep every task
    /// from starting: host lists of roles with several thousand tasks. For a notice to the user.
    pub fn omitted(&self) -> &[String] {
        &self.omitted
    }

    /// The first of two variables of one name stays: execve would pass on both, and shells differ in which they
    /// take.
    fn set(&mut self, name: String, value: impl Into<String>) {
        let value = value.into();
        if name.len() + 1 + value.len() > MAX_ARGUMENT_BYTES {
            self.omitted.push(name);
        } else if !self.job_names.contains(&name) && self.names.insert(name.clone()) {
            self.common.push((name, value));
        }
    }

    fn write_job(&mut self, ctx: &EnvContext<'_>) {
        let EnvContext { spec, user, default_fs_uri, job, run, .. } = *ctx;
        let roles: Vec<&str> = spec.roles.iter().map(|role| role.name.as_str()).collect();
        let (role_list, role_count) = (roles.join(","), roles.len().to_string());
        let task_count = spec.task_count().to_string();
        // The launcher's name for a job, unique in the cluster.
        let framework = format!("{user}~{}", spec.name);
        let instances: Vec<String> = (spec.roles.iter())
            .flat_map(|role| (0..role.count).map(move |index| format!("{}:{index}", role.name)))
            .collect();
        let variables: [(&str, String); 22] = [
            ("PAI_JOB_NAME", spec.name.clone()),
            ("PAI_USER_NAME", user.to_owned()),
            ("PAI_DEFAULT_FS_URI", default_fs_uri.to_owned()),
            ("PAI_TASK_ROLE_COUNT", role_count.clone()),
            ("PAI_TASK_ROLE_LIST", role_list.clone()),
            ("PAI_DATA_DIR", spec.data_dir.clone()),
            ("PAI_OUTPUT_DIR", spec.output_dir.clone()),
            ("PAI_CODE_DIR", spec.code_dir.clone()),
            ("PAI_JOB_TASK_COUNT", task_count.clone()),
            ("PAI_TASKS_NUM", task_count),
            ("PAI_JOB_TASK_ROLE_COUNT", role_count.clone()),
            ("PAI_TASK_ROLES_NUM", role_count),
            ("PAI_JOB_TASK_ROLE_LIST", role_list),
            ("PAI_USERNAME", user.to_owned()),
            ("PAI_JOB_VC_NAME", spec.virtual_cluster.clone()),
            ("PAI_VIRTUAL_CLUSTER", spec.virtual_cluster.clone()),
            ("PAI_FRAMEWORK_NAME", framework.clone()),
            ("FRAMEWORK_NAME", framework),
            ("HADOOP_USER_NAME", user.to_owned()),
            ("APP_ID", format!("application_{job}_{run}")),
            ("WHARF_JOB_ID", job.to_string()),
            ("WHARF_RUN_ID", run.to_string()),
        ];
        for (name, value) in variables {
            self.set(name.to_owned(), value);
        }
        self.set("PAI_TASK_ROLE_INSTANCES".to_owned(), instances.join(","));
    }

    fn write_role(&mut self, role: &RoleSpec, seats: &[&TaskSeat]) {
        let name = &role.name;
        self.set(format!("PAI_TASK_ROLE_TASK_COUNT_{name}"), role.count.to_string());
        self.set(format!("PAI_RESOURCE_{name}"), resource(role));
        self.set(format!("PAI_MIN_FAILED_TASK_COUNT_{name}"), optional(role.min_failed));
        self.set(format!("PAI_MIN_SUCCEEDED_TASK_COUNT_{name}"), optional(role.min_succeeded));
        for seat in seats {
            self.set(format!("PAI_HOST_IP_{name}_{}", seat.index), seat.ip.clone());
            for ports in &seat.ports {
                let (label, list) = (&ports.label, port_list(&ports.ports));
                self.set(format!("PAI_PORT_LIST_{name}_{}_{label}", seat.index), list.clone());
                self.set(format!("PAI_{name}_{}_{label}_PORT", seat.index), list);
            }
        }
        let hosts: Vec<String> = seats.iter().map(|seat| host_and_port(seat)).collect();
        self.set(format!("PAI_TASK_ROLE_{name}_HOST_LIST"), hosts.join(","));
    }
}

/// `IP:PORT` with the first http port; an IPv6 address in brackets, as in URLs.
fn host_and_port(seat: &TaskSeat) -> String {
    let port = first_port(seat, "http");
    if seat.ip.contains(':') { format!("[{}]:{port}", seat.ip) } else { format!("{}:{port}", seat.ip) }
}

/// Seats by task: one for every task of the job, with the ports and GPUs that the job asks for.
fn seats_of<'a>(ctx: &EnvContext<'a>) -> Result<BTreeMap<(u32, u32), &'a TaskSeat>, SeatError> {
    let mut seats = BTreeMap::new();
    for seat in ctx.seats {
        let (role, index) = (seat.role, seat.index);
        if ctx.spec.roles.get(role as usize).is_none_or(|role| index >= role.count) {
            return Err(SeatError::Unknown { role, index });
        }
        if seats.insert((role, index), seat).is_some() {
            return Err(SeatError::Twice { role, index });
        }
    }
    for (role, spec) in (0u32..).zip(&ctx.spec.roles) {
        let wanted = spec.all_ports();
        for index in 0..spec.count {
            let seat = *seats.get(&(role, index)).ok_or(SeatError::Missing { role, index })?;
            for port in &wanted {
                let have =
                    seat.ports.iter().find(|ports| ports.label == port.label).map_or(0, |ports| ports.ports.len());
                let want = usize::from(port.count);
                if have != want {
                    return Err(SeatError::Ports { role, index, label: port.label.clone(), want, have });
                }
            }
            let (want, have) = (spec.gpus as usize, seat.gpus.len());
            if have != want {
                return Err(SeatError::Gpus { role, index, want, have });
            }
        }
    }
    Ok(seats)
}
