//! What `wharf top` draws, read back from a screen in memory.

use super::draw::{View, draw};
use super::picture::Picture;
use crate::cli::samples;
use crate::domain::gpu::GpuState;
use crate::domain::time::Timestamp;
use crate::domain::view::{GpuView, NodeView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::collections::BTreeMap;

fn gpu(index: u32, state: GpuState, task: Option<&str>) -> GpuView {
    let held = task.is_some();
    GpuView {
        node: "gpu-01".into(),
        uuid: format!("GPU-{index}"),
        index,
        model: "NVIDIA H100 80GB HBM3".into(),
        gpu_type: "H100".into(),
        memory_mb: 81_920,
        memory_used_mb: Some(40_960),
        utilization: Some(52),
        temperature_c: Some(61),
        power_w: Some(512),
        state,
        task: task.map(str::to_owned),
        job: held.then(|| "train".into()),
        user: held.then(|| "alice".into()),
        reason: (state == GpuState::Withheld).then(|| "pid 4711 (python) is on it".into()),
        ..GpuView::default()
    }
}

fn picture(gpus: u32) -> Picture {
    let node = NodeView {
        name: "gpu-01".into(),
        address: "10.0.0.1:7601".into(),
        state: "UNREACHABLE".into(),
        reason: None,
        gpus_total: gpus,
        gpus_free: 1,
        cpus: 8,
        memory_mb: 1,
        labels: BTreeMap::new(),
        version: "0.1.0".into(),
        node_uid: "u".into(),
        last_heartbeat: None,
        ..NodeView::default()
    };
    let mut all: Vec<GpuView> = (0..gpus).map(|index| gpu(index, GpuState::Held, Some("7.7.0.0"))).collect();
    all[0] = gpu(0, GpuState::Withheld, None);
    Picture { time: Timestamp(0), nodes: vec![node], gpus: all, jobs: vec![samples::job(7)], more_jobs: false }
}

/// The screen's lines, without blanks at their ends.
fn lines(width: u16, height: u16, picture: &Picture, silent: Option<&str>, view: &mut View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, picture, silent, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    (0..height)
        .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

#[test]
fn eighty_columns_show_every_gpu_with_its_holder() {
    let picture = picture(3);
    let job = &picture.jobs[0];
    let shown = lines(80, 24, &picture, None, &mut View::default());
    assert_eq!(
        shown[0],
        format!("wharf 1 node, 1 UNREACHABLE   3 GPUs, 2 HELD, 1 WITHHELD   1 job, 1 {}", job.state)
    );
    assert_eq!(shown[1], "00:00:00 UTC");
    assert_eq!(shown[2], "NODE       GPU MODEL    STATE    LOAD      MEMORY_GB   TEMP POWER HELD BY");
    assert_eq!(shown[3], "gpu-01       0 H100     WITHHELD ##..  52% 40.0/80     61C  512W  pid 4711 (pyth");
    let holder: String = format!("{} {}", job.name, job.user).chars().take(14).collect();
    assert_eq!(
        shown[4],
        format!("gpu-01       1 H100     HELD     ##..  52% 40.0/80     61C  512W  {}", holder.trim_end())
    );
    assert!(shown.iter().any(|line| line.contains(&format!("     7 {}", job.name))), "{shown:#?}");
}

#[test]
fn a_silent_controller_is_said_and_the_old_picture_stays() {
    let shown = lines(80, 24, &picture(2), Some("connection refused"), &mut View::default());
    assert_eq!(shown[1], "NO ANSWER since 00:00:00 UTC: connection refused");
    assert!(shown[4].starts_with("gpu-01       1"));
}

#[test]
fn scrolling_ends_at_the_last_gpu() {
    let (picture, mut view) = (picture(40), View::default());
    let shown = lines(80, 24, &picture, None, &mut view);
    assert!(shown.last().unwrap().contains("more GPUs below"), "{shown:#?}");
    view.scroll(i32::MAX);
    let shown = lines(80, 24, &picture, None, &mut view);
    assert!(shown.iter().any(|line| line.starts_with("gpu-01      39")), "{shown:#?}");
    view.scroll(-1);
    let shown = lines(80, 24, &picture, None, &mut view);
    assert!(shown.last().unwrap().contains("1 more GPUs below"), "{shown:#?}");
    view.scroll(i32::MIN);
    assert!(lines(80, 24, &picture, None, &mut view)[3].starts_with("gpu-01       0"));
}

#[test]
fn a_tiny_terminal_is_no_panic() {
    for (width, height) in [(1, 1), (10, 3), (80, 5), (200, 100)] {
        lines(width, height, &picture(5), None, &mut View::default());
    }
}
