//! Real job files, hostile ones, and arbitrary bytes.

use super::{MAX_REPORTED, json, parse, substitute};
use crate::domain::command::Violation;
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use proptest::prelude::*;

/// A file's name, its content, and its roles with their tasks.
type RealFile = (&'static str, &'static str, &'static [(&'static str, u32)]);

/// Files that real systems published.
const REAL: [RealFile; 23] = {
    macro_rules! real {
        ($($name:literal $roles:expr,)*) => {
            [$((
                $name,
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pai-jobs/", $name)),
                &$roles,
            )),*]
        };
    }
    real! {
        "azure-rdma-intel-mpi-benchmark.json" [("master", 1), ("worker", 1)],
        "caffe.mnist.json" [("main", 1)],
        "cleaner-test-job.json" [("main", 1)],
        "cntk.g2p.json" [("g2p_train", 1)],
        "docs-storage-2.json" [("default", 1)],
        "docs-training.json" [("default", 1)],
        "horovod.json" [("main", 1), ("worker", 1)],
        "jupyter.json" [("jupyter", 1)],
        "keras.tensorflow_backend.mnist.json" [("mnist", 1)],
        "mxnet.image-classification.json" [("main", 1)],
        "pytorch.mnist.json" [("main", 1)],
        "scm-doc-1.json" [("task_1", 1)],
        "scm-doc-2.json" [("task_1", 1)],
        "serving.tensorflow.json" [("serving", 1)],
        "sklearn.text-vectorizers.json" [("main", 1)],
        "spark.json" [("submitter", 1), ("spark_history_server", 1)],
        "tensorflow-mpi.json" [("ps_server", 2), ("worker", 2)],
        "tensorflow.cifar10.json" [("cifar_train", 1)],
        "tensorflow.distributed-cifar10.json" [("ps_server", 2), ("worker", 2)],
        "tensorflow.imagenet.json" [("imagenet_train", 1)],
        "v0.5-tensorboard-example.json" [("tensorboard", 1)],
        "v0.5-tensorflow-distributed-example.json" [("ps_server", 2), ("worker", 2)],
        "xgboost.gpu_hist.json" [("main", 1)],
    }
};

const WARNINGS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pai_jobs_warnings.txt"));

#[test]
fn real_files_parse() {
    let mut warnings = String::new();
    for (file, content, roles) in REAL {
        let parsed = parse(file, content.as_bytes()).unwrap_or_else(|violations| panic!("{file}: {violations:?}"));
        let read: Vec<(&str, u32)> = parsed.spec.roles.iter().map(|role| (role.name.as_str(), role.count)).collect();
        assert_eq!(read, roles, "{file}");
        for warning in parsed.warnings {
            warnings.push_str(&format!("{file}: {warning}\n"));
        }
    }
    assert_eq!(warnings, WARNINGS);
}

#[test]
fn scm_files_read_as_meant() {
    let content = REAL.iter().find(|(file, ..)| *file == "scm-doc-2.json").expect("listed").1;
    let spec = parse("scm-doc-2.json", content.as_bytes()).expect("valid").spec;
    let role = &spec.roles[0];
    assert_eq!(
        (spec.name.as_str(), spec.gpu_types.as_slice()),
        ("jupyter_16be8b71", ["TITANX".to_owned()].as_slice())
    );
    assert_eq!((role.min_failed, role.min_succeeded, role.shm_mb, role.gpus), (None, None, 64, 1));
    assert_eq!(role.ports[0].to_string(), "jupyter:0x1");
    assert!(role.command.contains(r#"--NotebookApp.token=\"\" "#), "{}", role.command);
}

#[test]
fn uris_are_substituted_at_submit() {
    let content = REAL.iter().find(|(file, ..)| *file == "cntk.g2p.json").expect("listed").1;
    let mut spec = parse("cntk.g2p.json", content.as_bytes()).expect("valid").spec;
    assert_eq!(spec.data_dir, "$PAI_DEFAULT_FS_URI/$PAI_USERNAME/examples/cntk/data");
    let (command, env) = (spec.roles[0].command.clone(), spec.env.clone());
    substitute(&mut spec, "alice", "hdfs://10.0.0.1:9000");
    assert_eq!(spec.data_dir, "hdfs://10.0.0.1:9000/alice/examples/cntk/data");
    assert_eq!((&spec.roles[0].command, &spec.env), (&command, &env));

    spec.output_dir.clear();
    substitute(&mut spec, "alice", "hdfs://10.0.0.1:9000/");
    assert_eq!(spec.output_dir, "hdfs://10.0.0.1:9000/Output/cntk-g2p");
}

const ROLE: &str = r#"{"name":"r","taskNumber":1,"cpuNumber":1,"memoryMB":100,"gpuNumber":0,"command":"c"}"#;

fn job(more: &str) -> String {
    format!(r#"{{"jobName":"j","image":"i","taskRoles":[{ROLE}]{more}}}"#)
}

fn refusal(content: &[u8]) -> Violation {
    let mut violations = parse("job.json", content).expect_err("must be refused");
    assert!(!violations.is_empty());
    violations.remove(0)
}

#[test]
fn comments_marks_and_trailing_commas_are_accepted() {
    let plain = parse("job.json", job("").as_bytes()).expect("valid");
    assert_eq!(plain.warnings, [""; 0]);
    let commented =
        format!("\u{feff}// a /* b\n/* c // d\n*/{}/**/ // \"e", job(",/*x*/\"gpuType\"/*y*/:/*z*/\"\"//\n"));
    assert_eq!(parse("job.json", commented.as_bytes()).expect("valid"), plain);

    let parsed = parse("job.json", job(",\n\"extras\":{\"a\":[1,],}/**/,\n").as_bytes()).expect("valid");
    assert_eq!(parsed.warnings, ["job.json: 3 commas after a last entry, which strict JSON does not allow (line 2)"]);

    let text = job(r#","dataDir":"http://x/*y*/z // w""#);
    assert_eq!(parse("", text.as_bytes()).expect("valid").spec.data_dir, "http://x/*y*/z // w");
}

#[test]
fn syntax_errors_say_where() {
    for (content, told) in [
        ("{\n  \"jobName\": \"a\"\n  \"image\": \"b\"\n}", "line 3, column 3: `\"` cannot stand here"),
        ("{\"a\": }", "line 1, column 7: `}` cannot stand here"),
        ("{\"a\": 1", "line 1, column 8: the file ends too early"),
        ("{\"é\": nul}", "line 1, column 7: `nul` cannot stand here"),
        ("{\"a\": True}", "line 1, column 7: `True` cannot stand here"),
        ("{\"a\": truer}", "line 1, column 7: `truer` cannot stand here"),
        ("{'a': 1}", "line 1, column 2: `'` cannot stand here"),
        ("{\"a\": 'b'}", "line 1, column 7: texts stand in double quotes"),
        ("{a: 1}", "line 1, column 2: `a` cannot stand here"),
        ("{\"a\" 1}", "line 1, column 6: `1` cannot stand here"),
        ("{,}", "line 1, column 2: `,` cannot stand here"),
        ("{\"a\": [1,,2]}", "line 1, column 10: `,` cannot stand here"),
        ("{\"a\": 01}", "line 1, column 8: `1` cannot stand here"),
        ("{\"a\": 1.}", "line 1, column 9: `}` cannot stand here"),
        ("{\"a\": -}", "line 1, column 8: `}` cannot stand here"),
        ("{\"a\": NaN}", "line 1, column 7: `NaN` cannot stand here"),
        ("{\n\"a\": \"b\nc\"}", "line 2, column 8: a text goes over the end of its line"),
        ("{\"a\": \"b\tc\"}", "line 1, column 9: a control character"),
        ("{\"a\": \"b}", "line 1, column 7: this text is never closed"),
        ("{\"a\": \"\\x\"}", "line 1, column 8: a backslash begins no known escape"),
        ("{\"a\": \"\\u12\"}", "line 1, column 8: \\u is not followed"),
        ("{\"a\": \"\\u+123\"}", "line 1, column 8: \\u is not followed"),
        ("{\"a\": \"\\ud800\"}", "line 1, column 8: half of a surrogate pair"),
        ("{\"a\": \"\\ud800\\u0041\"}", "line 1, column 8: half of a surrogate pair"),
        ("{\"a\": \"\\udc00\"}", "line 1, column 8: half of a surrogate pair"),
        ("{} x", "line 1, column 4: there is more text"),
        ("{} /", "line 1, column 4: `/` cannot stand here"),
        ("{ /* x", "line 1, column 3: this comment is never closed"),
        ("{ /*/ }", "line 1, column 3: this comment is never closed"),
        ("// only a comment", "line 1, column 18: the file ends too early"),
    ] {
        let violation = refusal(content.as_bytes());
        assert_eq!(violation.field, "job.json");
        let wanted = format!("syntax error at {told}");
        assert!(violation.message.starts_with(&wanted), "{content}: {}", violation.message);
        assert_ne!(violation.allowed, "", "{content}");
    }
}

#[test]
fn files_that_are_no_text_are_refused() {
    assert_eq!(refusal(b"").message, "is empty");
    assert_eq!(refusal(b" \r\n\t ").message, "is empty");
    assert_eq!(refusal(b"\xef\xbb\xbf").message, "is empty");
    let violation = refusal(b"{\n\"a\": \"\xff\"}");
    assert_eq!(violation.message, "is not UTF-8: byte 8, counted from 0, on line 2");
    assert_eq!(violation.found, "byte 0xff");
    assert_eq!(refusal(b"\xff\xfe{\0}\0").message, "is UTF-16");
    assert_eq!(refusal(&vec![b' '; MAX_JOB_FILE_BYTES + 1]).message, "is too large");
    assert_eq!(refusal(&vec![0xff; MAX_JOB_FILE_BYTES + 1]).message, "is too large", "before anything else");
    let full = format!("{}{}", job(""), " ".repeat(MAX_JOB_FILE_BYTES - job("").len()));
    assert!(parse("job.json", full.as_bytes()).is_ok(), "exactly the limit");
    for (content, kind) in [("[]", "a list"), ("null", "null"), ("7", "a number"), ("\"x\"", "a text")] {
        assert_eq!(refusal(content.as_bytes()).message, format!("is {kind}, not an object (line 1)"));
    }
}

#[test]
fn other_formats_are_known_by_sight() {
    for (file, content, found) in
        [("job.yaml", "version: 2\n", "YAML"), ("run", "#!/bin/bash\n#SBATCH -N 2\n", "a script (#!)")]
    {
        let violations = parse(file, content.as_bytes()).expect_err("not read yet");
        assert_eq!((violations[0].field.as_str(), violations[0].found.as_str()), (file, found));
    }
    assert!(parse("job.yaml", job("").as_bytes()).is_ok(), "JSON whatever its name");
    assert_eq!(parse("-", b"").expect_err("empty")[0].field, "job file");
}

#[test]
fn keys_that_stand_twice_are_refused_with_both_lines() {
    let violation = refusal(job(",\n\"gpuType\":\"a\",\n\n\"gpuType\":\"b\"").as_bytes());
    assert_eq!(violation.field, "gpuType");
    assert_eq!(violation.message, "stands twice, first on line 2 (line 4)");
    let violation = refusal(job(r#","extras":{"a":[{"b":1,"b":2}]}"#).as_bytes());
    assert_eq!(violation.field, "extras.a[0].b");
    let violation = refusal(job(r#","jobEnvs":{"A":1,"\u0041":2}"#).as_bytes());
    assert_eq!(violation.field, "jobEnvs.A", "the same key in another spelling");
}

#[test]
fn nul_characters_are_refused_anywhere() {
    for (more, field) in [
        (r#","dataDir":"a\u0000b""#, "dataDir"),
        (r#","tmp":{"a":["\u0000"]}"#, "tmp.a[0]"),
        (r#","jobEnvs":{"A\u0000":1}"#, r#"jobEnvs["A\u0000"]"#),
    ] {
        let violation = refusal(job(more).as_bytes());
        assert_eq!(violation.field, field);
        assert!(violation.message.starts_with("holds a NUL character"), "{violation:?}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| job(&format!(",\"tmp\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    assert!(parse("job.json", nested(63).as_bytes()).is_ok(), "with the job itself 64");
    assert!(refusal(nested(64).as_bytes()).message.contains("nested more than 64 deep"));
    assert!(refusal("[".repeat(MAX_JOB_FILE_BYTES).as_bytes()).message.contains("nested more than 64 deep"));
    assert!(refusal("{\"a\":".repeat(100_000).as_bytes()).message.contains("nested more than 64 deep"));
}

#[test]
fn reports_are_bounded() {
    let many: String = (0..5000).map(|n| format!(",\"x{n}\":1")).collect();
    let warnings = parse("job.json", job(&many).as_bytes()).expect("valid").warnings;
    assert_eq!(warnings.len(), MAX_REPORTED + 1);
    assert_eq!(warnings[MAX_REPORTED], "job.json: has 4900 more warnings, not listed");

    let bad: String = (0..5000).map(|n| format!("\"{n}\":1,")).collect();
    let content = job(&format!(",\"jobEnvs\":{{{}}}", bad.trim_end_matches(',')));
    let violations = parse("job.json", content.as_bytes()).expect_err("wrong");
    assert_eq!(violations.len(), MAX_REPORTED + 1);
    assert_eq!(violations[MAX_REPORTED].message, "has 4900 more errors, not listed");

    let long = "y".repeat(100_000);
    let content = job(&format!(r#","gpuType":"{long}","{long}":1,"jobEnvs":{{"{long} ":1}}"#));
    for violation in parse(&long, content.as_bytes()).expect_err("wrong") {
        assert!(violation.to_string().len() < 600, "{}", violation.to_string().len());
    }
}

/// Texts that are nearly JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"a\"",
        "\"b\"",
        "1",
        "-0",
        "1.5",
        "1e9",
        "true",
        "null",
        " ",
        "\n",
        "//",
        "/*",
        "*/",
        "\\u00e9",
        "\\ud83d\\ude00",
        "é",
        "\"taskRoles\"",
        "\"name\"",
        "{\"a\":1}",
        "[1,2]",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A valid file with some of it overwritten or cut out.
fn damaged_file() -> impl Strategy<Value = Vec<u8>> {
    let place = (0..REAL.len(), 0.0..1.0f64, 0usize..8, prop::collection::vec(any::<u8>(), 0..8));
    place.prop_map(|(file, place, cut, insert)| {
        let mut content = REAL[file].1.as_bytes().to_vec();
        let start = (content.len() as f64 * place) as usize;
        let end = (start + cut).min(content.len());
        content.splice(start..end, insert);
        content
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse("x", &content);
    }

    #[test]
    fn damaged_files_never_panic(content in damaged_file()) {
        if let Err(violations) = parse("job.json", &content) {
            prop_assert!(!violations.is_empty());
        }
    }

    #[test]
    fn the_reader_agrees_with_serde_json(text in nearly_json()) {
        let ours = json::read(&text);
        match (serde_json::from_str::<serde_json::Value>(&text), ours) {
            (Ok(_), Err(error)) => prop_assert!(false, "{text}: {error:?}"),
            (Ok(value), Ok(document)) => {
                let again = serde_json::from_str::<serde_json::Value>(&json::to_text(&document.root.value));
                prop_assert_eq!(again.ok(), Some(value));
            }
            (Err(_), Ok(document)) => prop_assert!(!document.trailing_commas.is_empty() || text.contains('/'), "{}", text),
            (Err(_), Err(_)) => {}
        }
    }
}
