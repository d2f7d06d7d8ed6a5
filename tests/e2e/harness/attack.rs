//! Rows of the table that `tests/security` prints: each attack says what it tries, and its end what came of it.
//!
//! One line in a test is a row, written when the test leaves its scope; one that fails there is a row that FAILED:
//!
//! ```text
//! let _row = attack("tokens", "a join token used twice", 2, "the second refused, and nothing issued");
//! ```

use std::io::Write;

/// An attack under way.
#[derive(Debug)]
#[must_use = "the row is written when this is dropped: let _row = attack(...)"]
pub struct Attack {
    rule: String,
    tried: String,
    count: u64,
    came: String,
}

/// `rule` is what has to hold, `tried` what is done against it, so many times; `came` what comes of it if the rule holds.
pub fn attack(rule: &str, tried: &str, count: u64, came: &str) -> Attack {
    Attack { rule: rule.to_owned(), tried: tried.to_owned(), count, came: came.to_owned() }
}

impl Attack {
    /// What was counted or measured meanwhile.
    pub fn came_to(&mut self, count: u64, came: &str) {
        self.count = count;
        came.clone_into(&mut self.came);
    }

    fn line(&self, failed: bool) -> String {
        let plain = |text: &str| text.replace(['\t', '\n'], " ");
        let (verdict, came) = if failed { ("FAILED", "the test failed") } else { ("held", self.came.as_str()) };
        format!("{}\t{}\t{}\t{}\t{verdict}\n", plain(&self.rule), plain(&self.tried), self.count, plain(came))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("WHARF_SECURITY_ROWS") else { return };
        let line = self.line(std::thread::panicking());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            // A row that is missing fails the table; there may be a panic under way already.
            eprintln!("a row of the table of attacks could not be written: {error}");
        }
    }
}
