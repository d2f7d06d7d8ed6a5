//! `extras.wharf.container`: `{"pull": "missing" | "always" | "never", "network": "host" | "bridge", "user": "1000:1000",
//! "readOnlyRoot": false, "capabilities": ["SYS_PTRACE"], "ulimits": {"memlock": -1, "nofile": [1024, 4096]},
//! "pidsLimit": 4096, "infiniband": false, "numaCpus": false}`.

use super::super::fields::{Fields, entries};
use super::super::json::{Integer, Node, Value, integer};
use super::super::report::{Report, as_text};
use crate::domain::container::{ContainerSpec, Network, PullPolicy, ULIMIT_NAMES, Ulimit};

const PATH: &str = "extras.wharf.container";
const KNOWN: [&str; 9] =
    ["pull", "network", "user", "readOnlyRoot", "capabilities", "ulimits", "pidsLimit", "infiniband", "numaCpus"];
/// More than the kernel has.
const MAX_CAPABILITIES: usize = 64;
const MAX_USER_BYTES: usize = 128;
/// The kernel's own limit on process ids.
const PIDS: std::ops::RangeInclusive<i64> = 1..=4_194_304;

/// Reads everything before it gives up, so that all mistakes are named.
pub(super) fn read(node: &Node, report: &mut Report<'_>) -> Option<ContainerSpec> {
    let fields = Fields::of(node, PATH, &KNOWN, report)?;
    let pull = word(&fields, "pull", PullPolicy::parse, "\"missing\", \"always\" or \"never\"", report);
    let network = word(&fields, "network", Network::parse, "\"host\" or \"bridge\"", report);
    let user = user(&fields, report);
    let read_only_root = flag(&fields, "readOnlyRoot", report);
    let capabilities = capabilities(&fields, report);
    let ulimits = ulimits(&fields, report);
    let pids_limit = fields.get("pidsLimit").map(|_| fields.optional_integer("pidsLimit", 1, PIDS, report));
    let infiniband = flag(&fields, "infiniband", report);
    let numa_cpus = flag(&fields, "numaCpus", report);
    fields.warn_unknown(report);
    Some(ContainerSpec {
        pull: pull?,
        network: network?,
        user: user?,
        read_only_root: read_only_root?,
        capabilities: capabilities?,
        ulimits: ulimits?,
        pids_limit: match pids_limit {
            None => None,
            Some(limit) => Some(u32::try_from(limit?).ok()?),
        },
        infiniband: infiniband?,
        numa_cpus: numa_cpus?,
    })
}

fn word<T: Default>(
    fields: &Fields<'_>,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
    allowed: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    let Some(node) = fields.get(name) else { return Some(T::default()) };
    let known = as_text(node).and_then(parse);
    if known.is_none() {
        report.wrong(&fields.path(name), node, "is no known choice", allowed);
    }
    known
}

fn flag(fields: &Fields<'_>, name: &str, report: &mut Report<'_>) -> Option<bool> {
    match fields.get(name).map(|node| (&node.value, node)) {
        None => Some(false),
        Some((Value::Bool(flag), _)) => Some(*flag),
        Some((_, node)) => {
            report.wrong_kind(&fields.path(name), node, "true or false", "true or false");
            None
        }
    }
}

/// `USER` or `UID`, and a group after a colon.
fn user(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Option<String>> {
    let Some(node) = fields.get("user") else { return Some(None) };
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !part.is_empty() && part.bytes().all(plain)
    };
    let right = |user: &&str| user.len() <= MAX_USER_BYTES && user.splitn(2, ':').all(part);
    let user = as_text(node).filter(right);
    if user.is_none() {
        let allowed = "USER or UID, with :GROUP or :GID if wanted, e.g. \"1000:1000\"";
        report.wrong(&fields.path("user"), node, "is not a user", allowed);
    }
    user.map(|user| Some(user.to_owned()))
}

fn capabilities(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
    let Some(node) = fields.get("capabilities") else { return Some(Vec::new()) };
    let path = fields.path("capabilities");
    let nodes = entries(node, &path, report)?;
    if nodes.len() > MAX_CAPABILITIES {
        report.wrong(&path, node, "is too long", format!("at most {MAX_CAPABILITIES} names"));
        return None;
    }
    let mut names: Option<Vec<String>> = Some(Vec::new());
    for (i, node) in nodes.iter().enumerate() {
        let name = as_text(node).map(|text| text.trim_start_matches("CAP_"));
        let plain = |byte: u8| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit();
        match name.filter(|name| !name.is_empty() && name.len() <= 40 && name.bytes().all(plain)) {
            Some(name) => names.iter_mut().for_each(|names| names.push(name.to_owned())),
            None => {
                let allowed = "a capability of the kernel in upper case, e.g. \"SYS_PTRACE\"";
                report.wrong(&format!("{path}[{i}]"), node, "is not a capability", allowed);
                names = None;
            }
        }
    }
    names
}

/// `{"NAME": LIMIT}` or `{"NAME": [SOFT, HARD]}`.
fn ulimits(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<Ulimit>> {
    let Some(node) = fields.get("ulimits") else { return Some(Vec::new()) };
    let path = fields.path("ulimits");
    let Value::Object(members) = &node.value else {
        report.wrong_kind(&path, node, "an object", "an object: {\"memlock\": -1}");
        return None;
    };
    let mut limits: Option<Vec<Ulimit>> = Some(Vec::new());
    for member in members {
        let path = format!("{path}.{}", member.key);
        if !ULIMIT_NAMES.contains(&member.key.as_str()) {
            report.wrong(&path, &member.node, "is not a limit", ULIMIT_NAMES.join(", "));
            limits = None;
            continue;
        }
        match soft_and_hard(&member.node) {
            Some((soft, hard)) => {
                limits.iter_mut().for_each(|all| all.push(Ulimit { name: member.key.clone(), soft, hard }));
            }
            None => {
                let allowed = "an integer from -1 (no limit), or [SOFT, HARD] with SOFT not above HARD";
                report.wrong(&path, &member.node, "is not a limit's value", allowed);
                limits = None;
            }
        }
    }
    limits
}

fn soft_and_hard(node: &Node) -> Option<(i64, i64)> {
    let limit = |node: &Node| match &node.value {
        Value::Number(text) => match integer(text) {
            Some(Integer::Exact(value)) => i64::try_from(value).ok().filter(|value| *value >= -1),
            _ => None,
        },
        _ => None,
    };
    // No limit is above every limit.
    let order = |value: i64| if value < 0 { i64::MAX } else { value };
    match &node.value {
        Value::Array(pair) => match pair.as_slice() {
            [soft, hard] => {
                let (soft, hard) = (limit(soft)?, limit(hard)?);
                (order(soft) <= order(hard)).then_some((soft, hard))
            }
            _ => None,
        },
        _ => limit(node).map(|both| (both, both)),
    }
}
