//! `wharf xid`: what a code means, and what to do.

use super::args::TableArgs;
use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::faults::table_of;
use super::table::paragraph;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::fault::{Action, Verdict, takes_out_of_use};
use crate::health::table::{Row, Rule, Table};
use serde_json::json;

pub fn xid(context: &Context, code: u32, table: &TableArgs) -> Result<u8, Failure> {
    let table = table_of(table)?;
    // SXids begin where Xids have long ended.
    let known = table.xid(code).map(|row| ("Xid", row)).or_else(|| table.sxid(code).map(|row| ("SXid", row)));
    let (what, row) = known.ok_or_else(|| unknown(code, &table))?;
    if context.json {
        let object = json!({
            "type": what.to_lowercase(),
            "code": code,
            "name": row.name,
            "verdict": row.verdict,
            "action": row.action,
            "means": row.means,
            "rule": row.rule,
            "cancels": row.cancels,
            "takes_out_of_use": takes_out_of_use(row.verdict, row.action),
        });
        context.print_json(&object)?;
    } else {
        context.print(&text(what, code, row))?;
    }
    Ok(OK)
}

fn text(what: &str, code: u32, row: &Row) -> String {
    let mut text = format!("{what} {code}  {}\n", row.name);
    let mut line = |head: &str, body: &str| text.push_str(&paragraph(&format!("{head:<10}"), body));
    line("meaning", &row.means);
    line("verdict", &format!("{}: {}", row.verdict, who(row.verdict)));
    line("action", &format!("{}: {}", row.action, what_to_do(row.action)));
    if let Some(rule) = row.rule {
        line("but", exception(rule));
    }
    if !row.cancels.is_empty() {
        let codes: Vec<String> = row.cancels.iter().map(ToString::to_string).collect();
        line("cancels", &format!("{what} {} of the same GPU", codes.join(", ")));
    }
    text
}

const fn who(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Application => "the program that ran; the hardware is fine",
        Verdict::Gpu => "this GPU",
        Verdict::Link => "a link, at either end or between",
        Verdict::Node => "the machine",
        Verdict::Fabric => "the switch: every GPU on it is concerned",
        Verdict::Unknown => "cannot be said; nothing is taken out of use for it",
    }
}

const fn what_to_do(action: Action) -> &'static str {
    match action {
        Action::None => "nothing",
        Action::RestartApp => "run the program again; the GPU can go on",
        Action::ResetGpu => "reset the GPU ('nvidia-smi --gpu-reset -i GPU') once nothing uses it",
        Action::Reboot => "reboot the machine",
        Action::Inspect => "have it looked at; resets and reboots do not help",
    }
}

const fn exception(rule: Rule) -> &'static str {
    match rule {
        Rule::Consequence => "it follows from something else: look for the Xid before it",
        Rule::Retirement => "together with Xid 48, 94 or 95 it is one fault with that one",
        Rule::Containment => {
            "'RST: Yes' or 'D-RST: Yes' in its line asks for a reset of the GPU, 'No' twice for none"
        }
        Rule::Nvlink5 => "'Fatal' in its line asks for a reset of the GPU",
        Rule::Recovery => {
            "the number in its line decides: 1 reset_gpu, 2 reboot, 3 and 4 reset_gpu once programs have ended"
        }
        Rule::Severity => "'Fatal' in its line asks for a reboot",
    }
}

fn unknown(code: u32, table: &Table) -> Failure {
    let codes: Vec<u32> = table.xid_codes().chain(table.sxid_codes()).collect();
    let nearest = codes.iter().min_by_key(|known| known.abs_diff(code)).copied().unwrap_or_default();
    let (first, last) = (table.xid_codes().min().unwrap_or_default(), table.xid_codes().max().unwrap_or_default());
    let switches: Vec<String> = table.sxid_codes().map(|code| code.to_string()).collect();
    let allowed = format!("Xids {first} to {last}, SXids {}", switches.join(" "));
    let message = format!("{code} is no code that is known; the nearest is {nearest}; known are {allowed}");
    let violation = Violation {
        field: "CODE".to_owned(),
        message: "is no code that is known".to_owned(),
        found: code.to_string(),
        allowed,
    };
    Error { violations: vec![violation], ..Error::new(ErrorKind::NotFound, message) }.into()
}
