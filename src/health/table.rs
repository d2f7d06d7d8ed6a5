//! What error codes mean: `xid.toml`, and a site's own file over it.

use crate::domain::fault::{Action, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Codes are below this: larger numbers are slips.
const MAX_CODE: u32 = 99_999;
/// Longest text of a field.
const MAX_TEXT_BYTES: usize = 1000;

/// One code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The driver's name.
    pub name: String,
    pub verdict: Verdict,
    pub action: Action,
    /// What it means for an operator.
    pub means: String,
    /// What else the line has to be asked for.
    pub rule: Option<Rule>,
    /// Codes whose faults on the same GPU are over once this one is seen.
    pub cancels: Vec<u32>,
}

/// Codes whose line decides more than their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Never a cause: it belongs to what came before.
    Consequence,
    /// A row or page was recorded as bad, or could not be.
    Retirement,
    /// `RST` and `D-RST` say whether the GPU has to be reset.
    Containment,
    /// Fatal or not, as the line says.
    Nvlink5,
    /// The number in the line is the driver's recovery action.
    Recovery,
    /// Of an SXid: fatal or not, as the line says.
    Severity,
}

impl Rule {
    const ALL: [(&'static str, Self); 6] = [
        ("consequence", Self::Consequence),
        ("retirement", Self::Retirement),
        ("containment", Self::Containment),
        ("nvlink5", Self::Nvlink5),
        ("recovery", Self::Recovery),
        ("severity", Self::Severity),
    ];
}

/// A file that is no table: where, what and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {field}: {message}{}{}", said("; found ", .found), said("; allowed: ", .allowed))]
pub struct TableError {
    pub line: usize,
    /// `xid.79.action`.
    pub field: String,
    pub message: String,
    /// What was there; empty where the message says it.
    pub found: String,
    pub allowed: String,
}

fn said(before: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{text}") }
}

/// The meaning of Xids and SXids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    xid: BTreeMap<u32, Row>,
    sxid: BTreeMap<u32, Row>,
}

impl Table {
    /// Ours. Its file is part of the program, and a test reads it, so it never fails.
    pub fn builtin() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| Self::parse(include_str!("xid.toml")).unwrap_or_default())
    }

    /// A whole table: every row has a name, a verdict, an action and a meaning.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        Self::default().overridden(text)
    }

    /// This table with the rows of `text`: of a code that is known, only what differs has to be there.
    pub fn overridden(&self, text: &str) -> Result<Self, TableError> {
        let file = File { text };
        let sections = DeTable::parse(text).map_err(|error| {
            file.error(&error.span().unwrap_or_default(), "syntax", error.message().replace('\n', ", "), "", "")
        })?;
        let mut table = self.clone();
        for (name, section) in sections.get_ref() {
            let rows = match name.get_ref().as_ref() {
                "xid" => &mut table.xid,
                "sxid" => &mut table.sxid,
                other => return Err(file.error(&name.span(), other, "unknown section", "", "xid, sxid")),
            };
            file.section(name.get_ref(), section, rows)?;
        }
        Ok(table)
    }

    pub fn xid(&self, code: u32) -> Option<&Row> {
        self.xid.get(&code)
    }

    pub fn sxid(&self, code: u32) -> Option<&Row> {
        self.sxid.get(&code)
    }

    /// Codes of Xids, ascending.
    pub fn xid_codes(&self) -> impl Iterator<Item = u32> + '_ {
        self.xid.keys().copied()
    }

    pub fn sxid_codes(&self) -> impl Iterator<Item = u32> + '_ {
        self.sxid.keys().copied()
    }
}

/// A file while it is read.
struct File<'a> {
    text: &'a str,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl File<'_> {
    fn error(
        &self,
        at: &Range<usize>,
        field: &str,
        message: impl Into<String>,
        found: &str,
        allowed: &str,
    ) -> TableError {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let found = found.chars().take(80).collect();
        TableError { line, field: field.to_owned(), message: message.into(), found, allowed: allowed.to_owned() }
    }

    fn section(&self, name: &str, section: &Value<'_>, rows: &mut BTreeMap<u32, Row>) -> Result<(), TableError> {
        let DeValue::Table(codes) = section.get_ref() else {
            return Err(self.error(&section.span(), name, "is not a section", "", "[xid] or [sxid]"));
        };
        for (key, fields) in codes {
            let field = format!("{name}.{}", key.get_ref());
            let code = key.get_ref().parse().ok().filter(|code| *code <= MAX_CODE);
            let code = code.ok_or_else(|| self.error(&key.span(), &field, "is no code", "", "0 to 99999"))?;
            let DeValue::Table(fields) = fields.get_ref() else {
                return Err(self.error(&fields.span(), &field, "is no row", "", "{ name, verdict, action, means }"));
            };
            let row = self.row(&field, &key.span(), fields, rows.get(&code))?;
            rows.insert(code, row);
        }
        Ok(())
    }

    fn row(
        &self,
        row: &str,
        at: &Range<usize>,
        fields: &DeTable<'_>,
        known: Option<&Row>,
    ) -> Result<Row, TableError> {
        const FIELDS: &str = "name, verdict, action, means, rule, cancels";
        let (mut name, mut means) = (known.map(|row| row.name.clone()), known.map(|row| row.means.clone()));
        let (mut verdict, mut action) = (known.map(|row| row.verdict), known.map(|row| row.action));
        let (mut rule, mut cancels) = (known.and_then(|row| row.rule), known.map(|row| row.cancels.clone()));
        for (key, value) in fields {
            let field = format!("{row}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "name" => name = Some(self.text(&field, value)?.to_owned()),
                "means" => means = Some(self.text(&field, value)?.to_owned()),
                "verdict" => verdict = Some(self.word(&field, value, &words(Verdict::ALL, Verdict::as_str))?),
                "action" => action = Some(self.word(&field, value, &words(Action::ALL, Action::as_str))?),
                "rule" => rule = Some(self.word(&field, value, &Rule::ALL)?),
                "cancels" => cancels = Some(self.codes(&field, value)?),
                _ => return Err(self.error(&key.span(), &field, "unknown field", "", FIELDS)),
            }
        }
        // Who says what to do means it, whatever a line says.
        if fields.iter().any(|(key, _)| key.get_ref() == "action")
            && !fields.iter().any(|(key, _)| key.get_ref() == "rule")
        {
            rule = None;
        }
        let missing = |what: &str| self.error(at, &format!("{row}.{what}"), "is missing", "", FIELDS);
        Ok(Row {
            name: name.ok_or_else(|| missing("name"))?,
            verdict: verdict.ok_or_else(|| missing("verdict"))?,
            action: action.ok_or_else(|| missing("action"))?,
            means: means.ok_or_else(|| missing("means"))?,
            rule,
            cancels: cancels.unwrap_or_default(),
        })
    }

    fn text<'v>(&self, field: &str, value: &'v Value<'_>) -> Result<&'v str, TableError> {
        let text = match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES => text.as_ref(),
            _ => {
                return Err(self.error(
                    &value.span(),
                    field,
                    "is no text",
                    self.found(value),
                    "1 to 1000 bytes of text",
                ));
            }
        };
        Ok(text)
    }

    fn word<T: Copy>(&self, field: &str, value: &Value<'_>, words: &[(&'static str, T)]) -> Result<T, TableError> {
        let known = match value.get_ref() {
            DeValue::String(text) => words.iter().find(|(word, _)| *word == text.as_ref()),
            _ => None,
        };
        known.map(|(_, one)| *one).ok_or_else(|| {
            let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.error(&value.span(), field, "is not known", self.found(value), &allowed.join(", "))
        })
    }

    fn codes(&self, field: &str, value: &Value<'_>) -> Result<Vec<u32>, TableError> {
        let wrong = || self.error(&value.span(), field, "is no list of codes", self.found(value), "[163]");
        let DeValue::Array(values) = value.get_ref() else { return Err(wrong()) };
        let code = |value: &Value<'_>| match value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok().filter(|code| *code <= MAX_CODE),
            _ => None,
        };
        values.iter().map(|value| code(value).ok_or_else(wrong)).collect()
    }

    fn found(&self, value: &Value<'_>) -> &str {
        self.text.get(value.span()).unwrap_or_default()
    }
}

fn words<T: Copy>(all: &[T], as_str: fn(T) -> &'static str) -> Vec<(&'static str, T)> {
    all.iter().map(|one| (as_str(*one), *one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_file_is_a_table_of_every_code() {
        let table = Table::parse(include_str!("xid.toml")).expect("it is ours");
        assert_eq!(table.xid_codes().collect::<Vec<_>>(), (1..=173).collect::<Vec<_>>());
        assert_eq!(Table::builtin(), &table);
        let row = |code| table.xid(code).unwrap();
        assert!(table.xid_codes().map(row).all(|row| row.means.ends_with('.') && row.means.len() < 300));
        for code in [13, 31] {
            assert_eq!((row(code).verdict, row(code).action), (Verdict::Application, Action::RestartApp));
        }
        assert_eq!((row(94).verdict, row(94).action), (Verdict::Gpu, Action::RestartApp));
        assert_eq!((row(79).verdict, row(79).action), (Verdict::Gpu, Action::Reboot));
        assert_eq!((row(45).rule, row(162).cancels.as_slice()), (Some(Rule::Consequence), [163].as_slice()));
        assert!((144..=150).all(|code| row(code).rule == Some(Rule::Nvlink5)));
        assert_eq!(table.sxid(26008).map(|row| row.action), Some(Action::Reboot));
    }

    #[test]
    fn a_sites_own_rows_need_only_what_differs() {
        let table = Table::builtin().overridden("[xid]\n109 = { action = \"none\" }\n").unwrap();
        let (ours, theirs) = (Table::builtin().xid(109).unwrap(), table.xid(109).unwrap());
        assert_eq!((theirs.action, theirs.verdict, &theirs.name), (Action::None, ours.verdict, &ours.name));
        let rule = |text: &str| Table::builtin().overridden(text).unwrap().xid(95).unwrap().rule;
        assert_eq!(rule("[xid]\n95 = { means = \"Bad.\" }"), Some(Rule::Containment));
        assert_eq!(rule("[xid]\n95 = { action = \"inspect\" }"), None);
        assert_eq!(rule("[xid]\n95 = { action = \"inspect\", rule = \"containment\" }"), Some(Rule::Containment));
        let row = "[xid]\n900 = { name = \"N\", verdict = \"gpu\", action = \"inspect\", means = \"New.\" }";
        assert_eq!(Table::builtin().overridden(row).unwrap().xid(900).unwrap().means, "New.");
        assert_eq!(table.xid_codes().count(), 173);
    }

    #[test]
    fn mistakes_name_line_and_field() {
        for (text, said) in [
            (
                "[xid]\n\n79 = { action = \"pray\" }",
                "line 3, xid.79.action: is not known; found \"pray\"; allowed: none, restart_app",
            ),
            (
                "[xid]\n79 = { verdict = 4 }",
                "line 2, xid.79.verdict: is not known; found 4; allowed: application, gpu",
            ),
            ("[xid]\n79 = { aktion = \"none\" }", "line 2, xid.79.aktion: unknown field; allowed: name, verdict"),
            ("[xid]\n79 = \"bad\"", "line 2, xid.79: is no row"),
            ("[xid]\nmany = {}", "line 2, xid.many: is no code; allowed: 0 to 99999"),
            ("[xid]\n900 = { name = \"x\" }", "line 2, xid.900.verdict: is missing"),
            ("[xid]\n79 = { name = \"\" }", "line 2, xid.79.name: is no text"),
            ("[xid]\n79 = { cancels = 4 }", "line 2, xid.79.cancels: is no list of codes; found 4"),
            ("# a\n[xids]\n", "line 2, xids: unknown section; allowed: xid, sxid"),
            ("xid = 3", "line 1, xid: is not a section"),
            ("[xid]\n79 = {", "line 2, syntax: "),
        ] {
            let error = Table::builtin().overridden(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
