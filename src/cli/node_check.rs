//! `wharf node check`: what was looked at, found and allowed, GPU by GPU.

use super::context::Context;
use super::exit_code::{FAILED, OK};
use super::fail::Failure;
use super::table;
use crate::domain::checked::{CheckOutcome, CheckedNode, CheckedThing};

/// Ends with 1 where a check has failed.
pub async fn check(context: &Context, node: &str, gpus: Vec<String>, deep: bool) -> Result<u8, Failure> {
    let checked = context.controller()?.check_node(&context.who, node, gpus, deep).await?;
    if context.json {
        context.print_json(&checked)?;
    } else {
        context.print(&table::paint(text(&checked), context.color))?;
    }
    Ok(if checked.outcome == CheckOutcome::Failed { FAILED } else { OK })
}

fn text(checked: &CheckedNode) -> String {
    let mut rows = table::table(["GPU", "CHECK", "FOUND", "ALLOWED", "OUTCOME"]);
    let mut long = String::new();
    let mut add = |of: &str, things: &[CheckedThing]| {
        for thing in things {
            let CheckedThing { what, found, allowed, outcome } = thing;
            let shown = [of.to_owned(), what.clone(), table::short(found, FOUND), table::short(allowed, 34)];
            let [of, what, short, allowed] = shown;
            if short != *found {
                long.push_str(&table::paragraph(&format!("{of}, {what}: "), found));
            }
            table::row(&mut rows, [of, what, short, allowed, outcome.to_string()]);
        }
    };
    add("-", &checked.host);
    for gpu in &checked.gpus {
        add(&gpu.index.to_string(), &gpu.checks);
    }
    let failed = checked.outcome == CheckOutcome::Failed;
    let verdict = if failed { "failed; 'wharf faults' says what follows" } else { "nothing wrong was found" };
    format!("{}{long}node {}: {verdict}\n", table::text(&rows), checked.node)
}

/// Longest text of a cell; what is longer follows the table.
const FOUND: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checked::CheckedGpu;
    use crate::domain::time::Timestamp;

    #[test]
    fn the_table_fits_a_terminal_and_leaves_nothing_out() {
        let sentence = "GPU 3: no answer within 2000 ms, and then no answer within 2000 ms once more";
        let things = vec![CheckedThing::new("answer", sentence, "its UUID, in time", CheckOutcome::Failed)];
        let gpu = CheckedGpu { uuid: "GPU-3".into(), index: 3, model: "H100".to_owned(), task: None, checks: things };
        let host = vec![CheckedThing::new("driver", "OK", "answers", CheckOutcome::Ok)];
        let text = text(&CheckedNode::new("gpu-03".into(), Timestamp(0), host, vec![gpu]));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(words.join(" ").contains(sentence), "{text}");
        assert!(text.ends_with("node gpu-03: failed; 'wharf faults' says what follows\n"), "{text}");
    }
}
