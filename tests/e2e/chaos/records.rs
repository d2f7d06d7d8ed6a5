//! What tasks have written down about themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A task's own words. Times are seconds since boot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// One, unless it ran twice.
    pub begins: Vec<Begin>,
    /// Lines on stdout that it had written for certain.
    pub ticked: u64,
    /// The last time of all.
    pub last: f64,
    /// Lines on stdout that it wrote in all, if it came to its end.
    pub end: Option<u64>,
}

/// The start, and what it was given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Begin {
    pub at: f64,
    /// Its parent, as it sees it.
    pub shim: i32,
    pub gpus: Vec<String>,
    /// `ADDRESS:PORT`
    pub ports: Vec<String>,
}

impl Record {
    /// A line that was cut off is an error: they are written whole.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut record = Self::default();
        for line in text.lines() {
            record.take(line).ok_or_else(|| format!("'{line}' is no line of a record"))?;
        }
        Ok(record)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let at: f64 = words.get(1)?.parse().ok()?;
        match words[..] {
            ["BEGIN", _, _, shim, gpus, ip, ports] => {
                let gpus = gpus.split(',').filter(|gpu| gpu.starts_with("GPU-")).map(str::to_owned).collect();
                let ports = ports.split([':', ';', ',']).filter(|word| word.parse::<u16>().is_ok());
                let ports = ports.map(|port| format!("{ip}:{port}")).collect();
                self.begins.push(Begin { at, shim: shim.parse().ok()?, gpus, ports });
            }
            ["TICK", _, count] => self.ticked = count.parse().ok()?,
            ["END", _, count] => self.end = Some(count.parse().ok()?),
            _ => return None,
        }
        self.last = at;
        Some(())
    }
}

/// All records, by task.
pub fn read_all(folder: &Path) -> BTreeMap<String, Record> {
    let entries = fs::read_dir(folder).expect("the folder is ours").flatten();
    let read = |path: &Path| {
        let text = fs::read_to_string(path).expect("tasks write text");
        // What is being written just now comes with the next look.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Record::parse(whole).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path()))).collect()
}
