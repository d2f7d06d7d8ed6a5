//! "Did you mean ...?": the known word that a misspelt one may have been meant for.

/// Longest key that is compared; longer ones are no slip of the fingers.
const MAX_CHARS: usize = 40;

/// The known name nearest to `key`, if it is near: at most a third of it different, case and `-` for `_` left aside.
pub fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if key.chars().count() > MAX_CHARS {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = plain(key);
    known
        .into_iter()
        .map(|name| (distance(&wanted, &plain(name)), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions and replacements that turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        for (a, b, steps) in [("", "abc", 3), ("kitten", "sitting", 3), ("gpuNum", "gpuNumber", 3), ("a", "a", 0)] {
            assert_eq!(distance(a, b), steps, "{a} {b}");
            assert_eq!(distance(b, a), steps, "{b} {a}");
        }
    }

    #[test]
    fn near_names_are_offered() {
        let known = ["gpuNumber", "cpuNumber", "memoryMB", "name"];
        for (key, name) in [
            ("gpunumber", Some("gpuNumber")),
            ("gpuNum", Some("gpuNumber")),
            ("cpuNumbr", Some("cpuNumber")),
            ("memoryMb", Some("memoryMB")),
            ("nam", Some("name")),
            ("Memory_MB", Some("memoryMB")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(key, known), name, "{key}");
        }
    }
}
