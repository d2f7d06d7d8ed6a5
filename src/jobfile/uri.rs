//! What `$PAI_*` stands for in a job's URIs: known when somebody submits the job, replaced once and then fixed.

use crate::domain::spec::JobSpec;

/// Replaces `$PAI_DEFAULT_FS_URI`, `$PAI_JOB_NAME`, `$PAI_USER_NAME` and `$PAI_USERNAME` in the four URI fields, and
/// gives an empty output directory its default, `$PAI_DEFAULT_FS_URI/Output/$jobName`.
///
/// Only whole names count: `$PAI_JOB_NAME_2` stays. Values are not searched again. OpenPAI replaced
/// `$PAI_DEFAULT_FS_URI` once per field; here every occurrence is. Nothing else in a job is touched: commands are
/// expanded by their shell, `jobEnvs` are literal.
pub fn substitute(spec: &mut JobSpec, user: &str, default_fs_uri: &str) {
    let name = spec.name.clone();
    let values = [
        ("PAI_DEFAULT_FS_URI", default_fs_uri),
        ("PAI_JOB_NAME", name.as_str()),
        ("PAI_USER_NAME", user),
        ("PAI_USERNAME", user),
    ];
    for uri in [&mut spec.auth_file, &mut spec.data_dir, &mut spec.output_dir, &mut spec.code_dir] {
        *uri = replaced(uri, &values);
    }
    if spec.output_dir.is_empty() {
        spec.output_dir = format!("{}/Output/{name}", default_fs_uri.trim_end_matches('/'));
    }
}

fn replaced(text: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let length = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (name, behind) = after.split_at(length);
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => out.push_str(value),
            None => {
                out.push('$');
                out.push_str(name);
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn only_whole_names_are_replaced() {
        let values = [("PAI_JOB_NAME", "j"), ("PAI_USERNAME", "$PAI_JOB_NAME"), ("PAI_DEFAULT_FS_URI", "hdfs://h:1")];
        for (text, want) in [
            ("", ""),
            ("/plain", "/plain"),
            ("$PAI_DEFAULT_FS_URI/$PAI_USERNAME/x", "hdfs://h:1/$PAI_JOB_NAME/x"),
            ("$PAI_JOB_NAME$PAI_JOB_NAME", "jj"),
            ("$PAI_JOB_NAME_2/$PAI_JOB_NAME.2", "$PAI_JOB_NAME_2/j.2"),
            ("$$PAI_JOB_NAME$", "$j$"),
            ("${PAI_JOB_NAME}/$HOME/é$", "${PAI_JOB_NAME}/$HOME/é$"),
        ] {
            assert_eq!(replaced(text, &values), want, "{text}");
        }
    }
}
