//! The table of calls: who may make which. A call that is not in it may be made by nobody.
//!
//! What belongs to somebody (a job, its output) is checked where the owner is known: see `controller::api`.

use crate::domain::principal::Role;

/// A service of ours, as the table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Controller,
    Agent,
}

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody who is somebody: users, operators, admins.
    People,
    Operators,
    Admins,
    Nodes,
    Controllers,
    /// The controller, and on the node itself whoever administers it.
    ControllersAndAdmins,
    /// Everybody who is somebody, the controller too.
    All,
}

impl Who {
    pub fn includes(self, role: Role) -> bool {
        use Role::{Admin, Agent, Controller, Operator, User};
        match self {
            Self::People => matches!(role, User | Operator | Admin),
            Self::Operators => matches!(role, Operator | Admin),
            Self::Admins => role == Admin,
            Self::Nodes => role == Agent,
            Self::Controllers => role == Controller,
            Self::ControllersAndAdmins => matches!(role, Controller | Admin),
            Self::All => matches!(role, User | Operator | Admin | Controller),
        }
    }

    /// For a refusal.
    pub const fn words(self) -> &'static str {
        match self {
            Self::People => "users, operators and admins",
            Self::Operators => "operators and admins",
            Self::Admins => "admins",
            Self::Nodes => "agents, with their node's certificate",
            Self::Controllers => "the controller",
            Self::ControllersAndAdmins => "the controller and, on the node, its administrator",
            Self::All => "users, operators, admins and the controller",
        }
    }
}

/// Who may make the call `method` of `service`.
pub fn who_may(service: Service, method: &str) -> Option<Who> {
    Some(match (service, method) {
        (
            Service::Controller,
            "Submit" | "ListJobs" | "GetJob" | "ExplainJob" | "StopJob" | "ListNodes" | "DescribeNode" | "ListGpus"
            | "ListFaults" | "Watch" | "Logs" | "Exec" | "GetSshAccess" | "WhoAmI",
        ) => Who::People,
        (Service::Controller, "ChangeNode" | "ClearFault" | "CheckHealth") => Who::Operators,
        (Service::Controller, "CreateToken" | "ListTokens" | "RevokeToken") => Who::Admins,
        (Service::Controller, "Register" | "Heartbeat" | "Report" | "Renew") => Who::Nodes,
        (Service::Agent, "Stage" | "Prepare" | "Launch" | "Stop" | "Release") => Who::Controllers,
        (Service::Agent, "ListTasks" | "Watch" | "Logs" | "Exec" | "ClearFault" | "CheckHealth") => {
            Who::ControllersAndAdmins
        }
        (Service::Agent, "GetNode") => Who::All,
        _ => return None,
    })
}

/// Whether the call is written down when it succeeds; what is refused is in any case. `by_controller`: a controller
/// makes it, which has written down already who asked for it.
pub fn is_audited(service: Service, method: &str, by_controller: bool) -> bool {
    match service {
        Service::Controller => matches!(
            method,
            "Submit"
                | "StopJob"
                | "ChangeNode"
                | "ClearFault"
                | "CheckHealth"
                | "Exec"
                | "GetSshAccess"
                | "CreateToken"
                | "RevokeToken"
                | "Join"
                | "Renew"
                | "Register"
        ),
        Service::Agent => !by_controller && !matches!(method, "GetNode" | "ListTasks" | "Watch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_everybody_in_their_place() {
        use Role::{Admin, Agent, Controller, Operator, User};
        let may = |service, method, role| who_may(service, method).is_some_and(|who| who.includes(role));
        for (service, method, allowed) in [
            (Service::Controller, "Submit", &[User, Operator, Admin][..]),
            (Service::Controller, "ChangeNode", &[Operator, Admin]),
            (Service::Controller, "CreateToken", &[Admin]),
            (Service::Controller, "Heartbeat", &[Agent]),
            (Service::Controller, "Unheard", &[]),
            (Service::Agent, "Launch", &[Controller]),
            (Service::Agent, "Exec", &[Controller, Admin]),
            (Service::Agent, "GetNode", &[User, Operator, Admin, Controller]),
            (Service::Agent, "Submit", &[]),
        ] {
            for role in [Agent, Controller, User, Operator, Admin] {
                assert_eq!(may(service, method, role), allowed.contains(&role), "{service:?} {method} {role:?}");
            }
        }
    }
}
