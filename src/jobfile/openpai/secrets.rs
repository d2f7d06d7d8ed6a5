//! `extras.wharf.secrets`: variables whose values nobody but the job's tasks is told. Messages name them alone.

use super::super::json::join;
use super::super::report::Report;
use super::super::secrets::{Lifted, NoSecret};
use super::job_env::{ALLOWED_NAMES, is_name, set_by_wharf};
use super::limits::{MAX_SECRETS, MAX_SECRETS_BYTES};
use crate::domain::secret::Secret;

const PATH: &str = "extras.wharf.secrets";

pub(super) fn read(
    lifted: Vec<Lifted>,
    env: &[(String, String)],
    report: &mut Report<'_>,
) -> Option<Vec<(String, Secret)>> {
    if let Some(one_more) = lifted.get(MAX_SECRETS) {
        let (found, allowed) = (lifted.len().to_string(), format!("at most {MAX_SECRETS} variables"));
        report.violation(PATH, one_more.name_at, "has too many", found, allowed);
        return None;
    }
    let (mut secrets, mut complete, mut bytes) = (Vec::new(), true, 0);
    for Lifted { name, name_at, at, value } in lifted {
        let path = if name.is_empty() { PATH.to_owned() } else { join(PATH, &name) };
        let wrong = match &value {
            Err(NoSecret::Absent) => {
                Some(("names no variable of jobEnvs".to_owned(), "names of variables in jobEnvs"))
            }
            _ if !is_name(&name) => Some(("is no name of a variable".to_owned(), ALLOWED_NAMES)),
            _ if set_by_wharf(&name) => Some(("is a variable that only wharf sets".to_owned(), "another name")),
            _ if env.iter().any(|(known, _)| *known == name) => {
                Some(("is in jobEnvs too".to_owned(), "a variable in one of both"))
            }
            Err(NoSecret::Kind(kind)) => {
                Some((format!("is {kind}, not a single value"), "a text, a number, true, false or null"))
            }
            Ok(secret) if secret.reveal().contains('\0') => {
                Some(("holds a NUL character".to_owned(), "a text without \\u0000"))
            }
            Ok(_) => None,
        };
        if let Some((message, allowed)) = wrong {
            report.violation(&path, if value.is_ok() { name_at } else { at }, message, "", allowed);
            complete = false;
            continue;
        }
        let Ok(secret) = value else { continue };
        bytes += name.len() + 1 + secret.reveal().len();
        if bytes > MAX_SECRETS_BYTES {
            let allowed = format!("at most {MAX_SECRETS_BYTES} bytes, all names and values together");
            report.violation(PATH, at, "is too large", "", allowed);
            return None;
        }
        secrets.push((name, secret));
    }
    complete.then_some(secrets)
}
