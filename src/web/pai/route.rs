//! Method and path to what is asked for.

use crate::web::target::Target;
use http::Method;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) enum Route {
    Index,
    List {
        user: Option<String>,
    },
    /// A job that its file names, or the path too.
    Submit {
        user: Option<String>,
        name: Option<JobName>,
    },
    Detail(JobName),
    Config(JobName),
    Ssh(JobName),
    Execute(JobName),
    Log {
        job: JobName,
        role: String,
        index: u32,
    },
}

/// A job as a path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct JobName {
    pub user: Option<String>,
    pub name: String,
    /// As the client calls it, for messages.
    pub shown: String,
}

impl Route {
    pub(in crate::web) fn takes_content(&self) -> bool {
        matches!(self, Self::Submit { .. } | Self::Execute(_))
    }
}

pub(in crate::web) fn route(method: &Method, target: &Target) -> Option<Route> {
    let segments: Vec<&str> = target.segments.iter().map(String::as_str).collect();
    let ["api", "v1", rest @ ..] = segments.as_slice() else { return None };
    let named = target.value("username");
    match rest {
        [] => Some(Route::Index),
        ["user", user, "jobs", rest @ ..] if !user.is_empty() => of_jobs(method, Some(user), named, rest),
        ["jobs", rest @ ..] => of_jobs(method, None, named, rest),
        _ => None,
    }
}

/// `user` stands in the path, `named` in the query.
fn of_jobs(method: &Method, user: Option<&str>, named: Option<&str>, rest: &[&str]) -> Option<Route> {
    let reads = method == Method::GET || method == Method::HEAD;
    let somebody = || user.or(named).map(str::to_owned);
    let [name, rest @ ..] = rest else {
        return match *method {
            _ if reads => Some(Route::List { user: somebody() }),
            Method::POST => Some(Route::Submit { user: somebody(), name: None }),
            _ => None,
        };
    };
    if name.is_empty() {
        return None;
    }
    let job = job_name(name, user, named);
    match (rest, method) {
        ([], _) if reads => Some(Route::Detail(job)),
        ([], &Method::PUT) => Some(Route::Submit { user: job.user.clone(), name: Some(job) }),
        (["config"], _) if reads => Some(Route::Config(job)),
        (["ssh"], _) if reads => Some(Route::Ssh(job)),
        (["executionType"], &Method::PUT) => Some(Route::Execute(job)),
        (["logs", role, index], _) if reads => {
            Some(Route::Log { job, role: (*role).to_owned(), index: index.parse().ok()? })
        }
        _ => None,
    }
}

fn job_name(text: &str, user: Option<&str>, named: Option<&str>) -> JobName {
    let shown = text.to_owned();
    let parts = match user {
        Some(user) => (Some(user), text),
        None => match text.split_once('~') {
            Some((user, name)) if !user.is_empty() && !name.is_empty() => (Some(user), name),
            _ => (named, text),
        },
    };
    JobName { user: parts.0.map(str::to_owned), name: parts.1.to_owned(), shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str) -> Option<Route> {
        route(&method.parse().unwrap(), &Target::of(&uri.parse().unwrap()).unwrap())
    }

    fn job(user: Option<&str>, name: &str, shown: &str) -> JobName {
        JobName { user: user.map(str::to_owned), name: name.to_owned(), shown: shown.to_owned() }
    }

    #[test]
    fn paths_mean_what_they_meant_in_openpai() {
        let alice = Some("alice".to_owned());
        assert_eq!(of("GET", "/api/v1"), Some(Route::Index));
        assert_eq!(of("GET", "/api/v1/jobs"), Some(Route::List { user: None }));
        assert_eq!(of("GET", "/api/v1/jobs?username=alice"), Some(Route::List { user: alice.clone() }));
        let of_alice = Some(Route::List { user: alice.clone() });
        assert_eq!(of("GET", "/api/v1/user/alice/jobs/?username=bob"), of_alice);
        assert_eq!(of("POST", "/api/v1/jobs"), Some(Route::Submit { user: None, name: None }));
        assert_eq!(of("POST", "/api/v1/user/alice/jobs"), Some(Route::Submit { user: alice.clone(), name: None }));
        let whole = job(Some("alice"), "bob~x", "bob~x");
        assert_eq!(of("HEAD", "/api/v1/user/alice/jobs/bob~x"), Some(Route::Detail(whole)));
        let apart = job(Some("bob"), "x~y", "bob~x~y");
        assert_eq!(of("GET", "/api/v1/jobs/bob~x~y/config"), Some(Route::Config(apart)));
        let asked = job(Some("eve"), "x", "x");
        assert_eq!(of("GET", "/api/v1/jobs/x/ssh?username=eve"), Some(Route::Ssh(asked)));
        assert_eq!(of("PUT", "/api/v1/jobs/~x/executionType"), Some(Route::Execute(job(None, "~x", "~x"))));
        let log = Route::Log { job: job(Some("a"), "j", "j"), role: "ps.0".into(), index: 3 };
        assert_eq!(of("GET", "/api/v1/user/a/jobs/j/logs/ps%2E0/3"), Some(log));
    }

    #[test]
    fn anything_else_is_no_api() {
        for (method, uri) in [
            ("GET", "/"),
            ("GET", "/api"),
            ("GET", "/api/v2/jobs"),
            ("GET", "/api/v1/nothing"),
            ("GET", "/api/v1/user"),
            ("GET", "/api/v1/user//jobs"),
            ("GET", "/api/v1//jobs"),
            ("GET", "/api/v1/user/a/jobs//config"),
            ("DELETE", "/api/v1/jobs/x"),
            ("POST", "/api/v1/jobs/x"),
            ("PUT", "/api/v1/jobs"),
            ("OPTIONS", "/api/v1/jobs"),
            ("GET", "/api/v1/jobs/x/executionType"),
            ("GET", "/api/v1/jobs/x/config/y"),
            ("GET", "/api/v1/jobs/x/logs/r/-1"),
            ("GET", "/api/v1/jobs/../../jobs"),
            ("POST", "/api/v1/token"),
        ] {
            assert_eq!(of(method, uri), None, "{method} {uri}");
        }
    }
}
