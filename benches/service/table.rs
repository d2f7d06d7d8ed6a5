//! Percentiles, and the table that goes into the README.

/// One quantity, measured many times.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// The value that `percent` of all are not above.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(rank).copied().unwrap_or(f64::NAN)
    }
}

/// Lines of a Markdown table.
#[derive(Debug, Default)]
pub struct Table {
    lines: Vec<String>,
}

impl Table {
    pub fn heading(&mut self) {
        self.lines.push("| what | wharf p50 | p99 | beside it | p50 | p99 | ratio p50 |".to_owned());
        self.lines.push("|---|---:|---:|---|---:|---:|---:|".to_owned());
    }

    /// `ours` beside `theirs`, in the same unit.
    pub fn pair(&mut self, what: &str, unit: &str, ours: &Sample, beside: &str, theirs: &Sample) {
        let line = format!(
            "| {what} | {:.1} {unit} | {:.1} {unit} | {beside} | {:.1} {unit} | {:.1} {unit} | {:.2} |",
            ours.percentile(50),
            ours.percentile(99),
            theirs.percentile(50),
            theirs.percentile(99),
            ours.percentile(50) / theirs.percentile(50),
        );
        eprintln!("{line}");
        self.lines.push(line);
    }

    pub fn alone(&mut self, what: &str, unit: &str, ours: &Sample) {
        let line =
            format!("| {what} | {:.1} {unit} | {:.1} {unit} | | | | |", ours.percentile(50), ours.percentile(99));
        eprintln!("{line}");
        self.lines.push(line);
    }

    pub fn print(&self) {
        self.lines.iter().for_each(|line| println!("{line}"));
    }
}
