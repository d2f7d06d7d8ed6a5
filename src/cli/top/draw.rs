//! Draws a picture on a terminal of 80 columns or more. Without colour nothing is lost: states are words, loads are bars
//! with their number.

use super::picture::Picture;
use crate::cli::nodes::state_word;
use crate::cli::table::{ago, one_line, short};
use crate::domain::gpu::GpuState;
use crate::domain::view::{GpuView, JobView};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

/// Lines for jobs at the bottom, with their headings.
const JOB_LINES: u16 = 8;
const BAR: usize = 4;

/// What the person has set.
#[derive(Debug, Default)]
pub(super) struct View {
    color: bool,
    /// First GPU that is shown.
    first: usize,
}

impl View {
    pub(super) fn new(color: bool) -> Self {
        Self { color, first: 0 }
    }

    pub(super) fn scroll(&mut self, lines: i32) {
        let distance = usize::try_from(lines.unsigned_abs()).unwrap_or(usize::MAX);
        self.first =
            if lines < 0 { self.first.saturating_sub(distance) } else { self.first.saturating_add(distance) };
    }

    fn style(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }
}

/// `silent`: why the controller has not answered lately; the picture is then an old one.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture, silent: Option<&str>, view: &mut View) {
    let jobs = JOB_LINES.min(u16::try_from(picture.jobs.len() + 1).unwrap_or(JOB_LINES));
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(jobs),
        Constraint::Length(1),
    ])
    .split(frame.area());
    frame.render_widget(head(picture, silent, view), areas[0]);
    let shown = usize::from(areas[1].height.saturating_sub(1));
    view.first = view.first.min(picture.gpus.len().saturating_sub(shown));
    frame.render_widget(gpus(picture, areas[1], shown, view), areas[1]);
    frame.render_widget(jobs_table(&picture.jobs, view), areas[3]);
    let below = picture.gpus.len().saturating_sub(view.first + shown);
    let more = if below > 0 { format!("{below} more GPUs below") } else { String::new() };
    frame.render_widget(Paragraph::new(format!("q leave   arrows, PgUp, PgDn scroll   {more}")), areas[4]);
}

fn head<'a>(picture: &Picture, silent: Option<&str>, view: &View) -> Paragraph<'a> {
    let time = picture.time.to_rfc3339();
    let clock = time.get(11..19).unwrap_or(&time).to_owned();
    let sums = format!("{}   {}   {}", picture.nodes_line(), picture.gpus_line(), picture.jobs_line());
    let first = Line::from(vec![Span::styled("wharf ", Style::new().add_modifier(Modifier::BOLD)), Span::raw(sums)]);
    let second = match silent {
        Some(why) => Line::styled(
            format!("NO ANSWER since {clock} UTC: {}", one_line(why)),
            view.style(Color::Red).add_modifier(Modifier::BOLD),
        ),
        None => Line::raw(format!("{clock} UTC   {}", picture.closed_line())),
    };
    Paragraph::new(vec![first, second])
}

fn gpus<'a>(picture: &Picture, area: Rect, shown: usize, view: &View) -> Table<'a> {
    let wide = area.width >= 100;
    let rows = picture.gpus.iter().skip(view.first).take(shown).map(|gpu| gpu_row(gpu, wide, view));
    let widths = [
        Constraint::Length(if wide { 16 } else { 10 }),
        Constraint::Length(3),
        Constraint::Length(if wide { 20 } else { 8 }),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Min(8),
    ];
    let heading = ["NODE", "GPU", "MODEL", "STATE", "LOAD", "MEMORY_GB", "TEMP", "POWER", "HELD BY"];
    Table::new(rows, widths).header(Row::new(heading).style(bold())).column_spacing(1)
}

fn gpu_row<'a>(gpu: &GpuView, wide: bool, view: &View) -> Row<'a> {
    let dash = || "-".to_owned();
    let model = if wide { one_line(&gpu.model) } else { one_line(&gpu.gpu_type) };
    // What is wrong goes before who holds it.
    let holder = match (&gpu.reason, &gpu.job, &gpu.user, &gpu.task) {
        (Some(reason), ..) => one_line(reason),
        (None, Some(job), Some(user), _) => format!("{} {}", one_line(job), one_line(user)),
        (None, _, _, Some(task)) => task.clone(),
        _ => dash(),
    };
    let memory = gpu
        .memory_used_mb
        .map_or_else(dash, |used| format!("{:.1}/{:.0}", gigabytes(used), gigabytes(gpu.memory_mb)));
    let cells = [
        Span::raw(short(&one_line(&gpu.node), if wide { 16 } else { 10 })),
        Span::raw(format!("{:>3}", gpu.index)),
        Span::raw(short(&model, if wide { 20 } else { 8 })),
        Span::styled(state_word(gpu.state), view.style(color_of(gpu.state))),
        Span::raw(gpu.utilization.map_or_else(dash, load)),
        Span::raw(memory),
        Span::raw(gpu.temperature_c.map_or_else(dash, |celsius| format!("{celsius}C"))),
        Span::raw(gpu.power_w.map_or_else(dash, |watts| format!("{watts}W"))),
        Span::raw(holder),
    ];
    Row::new(cells)
}

fn jobs_table<'a>(jobs: &[JobView], view: &View) -> Table<'a> {
    let rows = jobs.iter().take(usize::from(JOB_LINES - 1)).map(|job| {
        Row::new([
            Span::raw(format!("{:>6}", job.job_id)),
            Span::raw(short(&one_line(&job.name), 20)),
            Span::raw(short(&one_line(&job.user), 10)),
            Span::styled(job.state.clone(), view.style(job_color(&job.state))),
            Span::raw(format!("{}/{}", job.tasks_running, job.tasks_total)),
            Span::raw(job.gpus_total.to_string()),
            Span::raw(ago(job.submitted_at)),
            Span::raw(job.reason.as_deref().map(one_line).unwrap_or_default()),
        ])
    });
    let widths = [
        Constraint::Length(6),
        Constraint::Length(20),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(4),
        Constraint::Length(7),
        Constraint::Min(4),
    ];
    let heading = ["   JOB", "NAME", "USER", "STATE", "TASKS", "GPUS", "AGE", "REASON"];
    Table::new(rows, widths).header(Row::new(heading).style(bold())).column_spacing(1)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// `##..  42%`: a bar and its number.
fn load(percent: u32) -> String {
    let percent = percent.min(100);
    let full = usize::try_from(percent).unwrap_or(100) * BAR / 100;
    format!("{}{} {percent:>3}%", "#".repeat(full), ".".repeat(BAR - full))
}

fn gigabytes(megabytes: u64) -> f64 {
    // Exact to far beyond what any device has.
    #[allow(clippy::cast_precision_loss)]
    let megabytes = megabytes as f64;
    megabytes / 1024.0
}

fn color_of(state: GpuState) -> Color {
    match state {
        GpuState::Free => Color::Green,
        GpuState::Held => Color::Cyan,
        GpuState::Withheld => Color::Yellow,
        GpuState::Faulty | GpuState::Lost => Color::Red,
    }
}

fn job_color(state: &str) -> Color {
    match state {
        "RUNNING" => Color::Green,
        "STOPPING" => Color::Yellow,
        _ => Color::Cyan,
    }
}
