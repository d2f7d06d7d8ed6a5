//! What a job file keeps secret: `extras.wharf.secrets`, names and values of variables, or names of those in `jobEnvs`;
//! and `secrets`, OpenPAI's own section. Taken out before anything else looks at the file, so that no message and no copy of it can show a value.

use super::json::{self, Member, Node, Value};
use super::text_of;
use crate::domain::secret::{MASK, Secret};
use std::collections::BTreeMap;

/// Where secrets stand in a file.
const SECTIONS: [&[&str]; 2] = [&["extras", "wharf", "secrets"], &["secrets"]];

/// Variables as they lie in the file, of which some may be secret.
const VARIABLES: &[&str] = &["jobEnvs"];

/// A variable that is secret, as it stood there.
#[derive(Debug)]
pub(super) struct Lifted {
    /// Empty where a list has none.
    pub name: String,
    pub name_at: usize,
    pub at: usize,
    pub value: Result<Secret, NoSecret>,
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSecret {
    /// A value of this kind cannot be one.
    Kind(&'static str),
    /// A list names it, and `jobEnvs` has it not.
    Absent,
}

/// Masks all secrets below `root`, and gives back those that are variables.
pub(super) fn lift(root: &mut Node) -> Vec<Lifted> {
    let mut lifted = Vec::new();
    let [of_wharf, _] = SECTIONS;
    sections(root, of_wharf, &mut |section| {
        let Value::Object(members) = &section.value else { return };
        lifted.extend(members.iter().map(lifted_from));
    });
    let names = named(root);
    sections(root, VARIABLES, &mut |section| {
        let Value::Object(members) = &mut section.value else { return };
        lifted.extend(
            members.extract_if(.., |member| names.contains_key(&member.key)).map(|member| lifted_from(&member)),
        );
    });
    let absent = names.iter().filter(|(name, _)| !lifted.iter().any(|one| one.name == **name));
    let absent =
        absent.map(|(_, at)| Lifted { name: String::new(), name_at: *at, at: *at, value: Err(NoSecret::Absent) });
    let absent: Vec<Lifted> = absent.collect();
    lifted.extend(absent);
    for path in SECTIONS {
        sections(root, path, &mut |section| leaves(section, &mut |leaf| leaf.value = Value::String(MASK.to_owned())));
    }
    lifted
}

fn lifted_from(member: &Member) -> Lifted {
    let (name_at, at) = (member.key_at, member.node.at);
    Lifted { name: member.key.clone(), name_at, at, value: value_of(&member.node.value) }
}

/// The names in `extras.wharf.secrets` where that is a list, and where each stands.
fn named(root: &mut Node) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    let [of_wharf, _] = SECTIONS;
    sections(root, of_wharf, &mut |section| {
        let Value::Array(nodes) = &section.value else { return };
        for node in nodes {
            // What is no text is the name of nothing.
            let name = if let Value::String(name) = &node.value { name.clone() } else { String::new() };
            names.insert(name, node.at);
        }
    });
    names
}

/// Texts as they are, numbers as written, `true` and `false`, and nothing for null, as for other variables.
fn value_of(value: &Value) -> Result<Secret, NoSecret> {
    match value {
        Value::String(text) | Value::Number(text) => Ok(Secret::new(text)),
        Value::Bool(value) => Ok(Secret::new(value.to_string())),
        Value::Null => Ok(Secret::default()),
        Value::Array(_) | Value::Object(_) => Err(NoSecret::Kind(value.kind())),
    }
}

/// A job file with all of its secrets masked, and everything else byte for byte. `None` if it is no job file.
pub fn masked(content: &[u8]) -> Option<Vec<u8>> {
    let text = text_of("job file", content).ok()?;
    let mut root = json::read(text).ok()?.root;
    let mut places = Vec::new();
    let names = named(&mut root);
    sections(&mut root, VARIABLES, &mut |section| {
        let Value::Object(members) = &mut section.value else { return };
        let secret = members.iter_mut().filter(|member| names.contains_key(&member.key));
        secret.for_each(|member| leaves(&mut member.node, &mut |leaf| places.push(leaf.at)));
    });
    for path in SECTIONS {
        sections(&mut root, path, &mut |section| leaves(section, &mut |leaf| places.push(leaf.at)));
    }
    // Names in a list are none of it, whatever else lies there.
    places.retain(|at| !names.values().any(|name_at| name_at == at));
    places.sort_unstable();
    let byte_order_mark = &content[..content.len() - text.len()];
    let (mut out, mut from) = (byte_order_mark.to_vec(), 0);
    for at in places {
        out.extend_from_slice(&text.as_bytes()[from..at]);
        out.extend_from_slice(format!("\"{MASK}\"").as_bytes());
        from = end_of(text.as_bytes(), at);
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    Some(out)
}

/// Every value at a path of keys; a key that stands twice leads to two.
fn sections<'a>(node: &'a mut Node, path: &[&str], found: &mut impl FnMut(&'a mut Node)) {
    let Some((key, rest)) = path.split_first() else { return found(node) };
    let Value::Object(members) = &mut node.value else { return };
    members.iter_mut().filter(|member| member.key == *key).for_each(|member| sections(&mut member.node, rest, found));
}

/// Every value below a node that is neither a list nor an object. Depth is bounded by the reader.
fn leaves(node: &mut Node, found: &mut impl FnMut(&mut Node)) {
    match &mut node.value {
        Value::Array(nodes) => nodes.iter_mut().for_each(|node| leaves(node, found)),
        Value::Object(members) => members.iter_mut().for_each(|member| leaves(&mut member.node, found)),
        _ => found(node),
    }
}

/// Where the text, number or word ends that begins at `at` in a file that has been read.
fn end_of(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let length = if rest.first() == Some(&b'"') {
        let mut escaped = false;
        let closes = |byte: &u8| {
            let closes = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            closes
        };
        rest[1..].iter().position(closes).map(|quote| quote + 2)
    } else {
        rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b'/') || byte.is_ascii_whitespace())
    };
    at + length.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{ // a comment
        "jobName": "x", "secrets": {"a": "m\"ark\\", "deep": [{"b": mark1}, 2]},
        "extras": {"wharf": {"secrets": {"T": "mark2", "N": -1.5e3/* ! */, "E": "", "Z": null}, "priority": 1},
                   "secrets": "kept"}, "extras": {"wharf": {"secrets": "mark3"}}
    }"#;

    #[test]
    fn all_that_is_secret_is_masked_and_nothing_else_changes() {
        let file = FILE.replace("mark1", "\"mark1\"");
        let masked = |text: &str| String::from_utf8(masked(text.as_bytes()).unwrap()).unwrap();
        let shown = masked(&file);
        assert!(!shown.contains("mark") && !shown.contains("1.5") && !shown.contains("m\\\""), "{shown}");
        let expected = r#"{"T": "******", "N": "******"/* ! */, "E": "******", "Z": "******"}, "priority": 1}"#;
        assert!(shown.contains(expected) && shown.contains("// a comment") && shown.contains("\"kept\""), "{shown}");
        assert_eq!(masked(&shown), shown);
        let open = "\u{feff}{\"jobName\": \"x\" , \"extras\": {\"wharf\": []},}";
        assert_eq!(masked(open), open);
        assert_eq!(super::masked(b"{\"secrets\": "), None);
    }

    #[test]
    fn a_list_names_variables_that_are_secret() {
        let file = r#"{"jobEnvs": {"SHOWN": "1", "KEY": "mark1", "N": 25}, "extras": {"wharf": {"secrets": ["KEY", "N", "GONE"]}}}"#;
        let shown = String::from_utf8(masked(file.as_bytes()).unwrap()).unwrap();
        assert_eq!(shown, file.replace("\"mark1\"", "\"******\"").replace("25", "\"******\""));
        let mut root = json::read(file).unwrap().root;
        let lifted = lift(&mut root);
        let found: Vec<_> =
            lifted.iter().map(|one| (one.name.as_str(), one.value.as_ref().map(Secret::reveal))).collect();
        assert_eq!(found, [("KEY", Ok("mark1")), ("N", Ok("25")), ("", Err(&NoSecret::Absent))]);
        let left = format!("{root:?}");
        assert!(left.contains("SHOWN") && !left.contains("mark1") && !left.contains("25\""), "{left}");
    }

    #[test]
    fn lifted_values_leave_nothing_behind() {
        let mut root = json::read(&FILE.replace("mark1", "\"mark1\"")).unwrap().root;
        let lifted = lift(&mut root);
        let found = lifted.iter().map(|one| (one.name.as_str(), one.value.as_ref().unwrap().reveal()));
        assert_eq!(found.collect::<Vec<_>>(), [("T", "mark2"), ("N", "-1.5e3"), ("E", ""), ("Z", "")]);
        let left = format!("{root:?} {lifted:?}");
        assert!(!left.contains("mark") && !left.contains("1.5"), "{left}");
    }
}
