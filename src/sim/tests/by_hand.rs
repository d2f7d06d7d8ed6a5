//! Outcomes that follow with pencil and paper.

use super::*;

/// One node of 8 GPUs. A has 6 of them until 100; B wants all 8 at 10; C wants 2 for 20 s at 20 and D 2 for 200 s at 21.
const OVERTAKING: [&str; 4] = ["0,100,1,6,0", "10,50,1,8,0", "20,20,1,2,0", "21,200,1,2,0"];

#[test]
fn plain_fifo_has_everybody_wait_for_the_first() {
    let (ended, report, _) = run(config(1, 8, Policy::Fifo), lines(&OVERTAKING));
    assert_eq!(ended, Ended::Done);
    // A at 0, B at 100, C and D at 150.
    assert_eq!((waits(&report, "8").max_s, waits(&report, "2-7").max_s), (90.0, 130.0));
    assert_eq!((waits(&report, "2-7").p50_s, waits(&report, "all").mean_s), (129.0, (90.0 + 130.0 + 129.0) / 4.0));
    assert_eq!(report.makespan_s, 350.0);
    let used = 600.0 + 400.0 + 40.0 + 400.0;
    assert_eq!(report.gpu_utilisation, Some(used / (350.0 * 8.0)));
    assert_eq!(report.gpu_utilisation_while_submitting, Some(6.0 / 8.0));
    assert_eq!(report.counts.longest_queue, 3);
}

#[test]
fn what_would_delay_the_first_waits_behind_it() {
    let (ended, report, _) = run(config(1, 8, Policy::Wharf), lines(&OVERTAKING));
    assert_eq!(ended, Ended::Done);
    // All of the node is kept for B, so nobody passes it: how long C lasts is not known to anybody.
    assert_eq!((waits(&report, "8").max_s, waits(&report, "2-7").max_s), (90.0, 130.0));
}

#[test]
fn small_jobs_pass_where_that_delays_nobody() {
    // Two nodes of 4: one is taken until 100, half of the other until 60. B wants a whole node, and is kept the second, as
    // it has most that is free: D cannot pass it, has its place at 100, and so has it with plain FIFO.
    let trace = ["0,100,1,4,0", "0,60,1,2,0", "10,50,1,4,0", "20,500,1,2,0"];
    let (_, ours, _) = run(config(2, 4, Policy::Wharf), lines(&trace));
    let (_, plain, _) = run(config(2, 4, Policy::Fifo), lines(&trace));
    assert_eq!((ours.waits[0].max_s, plain.waits[0].max_s), (80.0, 80.0));
    assert_eq!(waits(&ours, "2-7").jobs, 4);
    // Four nodes, three of them taken until 100. B wants all four: nobody passes it.
    let trace = ["0,100,3,4,0", "10,50,4,4,0", "20,30,1,1,0"];
    let (_, ours, _) = run(config(4, 4, Policy::Wharf), lines(&trace));
    let (_, plain, _) = run(config(4, 4, Policy::Fifo), lines(&trace));
    assert_eq!((waits(&ours, "1").max_s, waits(&plain, "1").max_s), (130.0, 130.0));
    // B wants three, of 3 GPUs each: a fourth GPU is to be had beside them.
    let trace = ["0,100,3,4,0", "10,50,3,3,0", "20,30,1,1,0"];
    let (_, ours, _) = run(config(4, 4, Policy::Wharf), lines(&trace));
    let (_, plain, _) = run(config(4, 4, Policy::Fifo), lines(&trace));
    assert_eq!((waits(&ours, "1").max_s, waits(&plain, "1").max_s), (0.0, 80.0));
    assert_eq!((waits(&ours, "9-63").max_s, waits(&plain, "9-63").max_s), (90.0, 90.0));
}

#[test]
fn priority_goes_before_time() {
    let trace = ["0,100,1,8,0", "1,10,1,8,0", "2,10,1,8,5"];
    let (_, report, _) = run(config(1, 8, Policy::Wharf), lines(&trace));
    // The urgent one at 100, the other at 110.
    assert_eq!((waits(&report, "8").max_s, waits(&report, "8").p50_s), (109.0, 98.0));
}

#[test]
fn agents_take_their_time() {
    let latencies = Latencies {
        stage: Duration::from_secs(20),
        prepare: Duration::from_secs(30),
        launch: Duration::from_secs(1),
        stop: Duration::from_secs(1),
        release: Duration::from_secs(9),
    };
    let trace = ["0,100,1,8,0", "0,10,1,8,0"];
    let (_, report, _) = run(Config { latencies, ..config(1, 8, Policy::Wharf) }, lines(&trace));
    // 51 s to start, 100 s of work, 9 s to release: the second is placed at 160.
    assert_eq!((waits(&report, "8").p50_s, waits(&report, "8").max_s), (0.0, 160.0));
    assert_eq!(report.makespan_s, 160.0 + 51.0 + 10.0 + 9.0);
    assert_eq!(report.gpu_utilisation, Some(110.0 / 230.0));
    assert_eq!(report.gpu_allocation, Some(1.0));
}

#[test]
fn what_the_cluster_does_not_have_is_left_out() {
    let trace = ["0,10,1,9,0", "0,10,3,8,0", "0,10,2,8,0"];
    let (ended, report, _) = run(config(2, 8, Policy::Fifo), lines(&trace));
    assert_eq!((ended, report.counts.impossible, report.counts.succeeded), (Ended::Done, 2, 1));
    assert_eq!(report.waits[0].max_s, 0.0);
}

#[test]
fn the_speed_is_that_of_the_stopwatch() {
    let (_, report, speed) = run(config(1, 8, Policy::Wharf), lines(&["0,10,1,8,0", "5,10,4,2,0"]));
    // Arrivals at 0 and 5, and a release with somebody waiting at 10: one microsecond each.
    assert_eq!((report.counts.passes, report.counts.gangs_placed, report.counts.tasks_placed), (3, 2, 5));
    assert_eq!((speed.scheduler_s, speed.placement_p99_ms), (3e-6, 0.001));
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let (ended, report, _) = run(config(1, 8, Policy::Wharf), lines(&[]));
    assert_eq!((ended, report.makespan_s, report.gpu_utilisation), (Ended::Done, 0.0, None));
}

#[test]
fn a_mistake_in_the_trace_ends_it_where_it_stands() {
    let (ended, report, _) = run(config(1, 8, Policy::Wharf), lines(&["0,10,1,8,0", "5,10,0,2,0"]));
    let Ended::Trace(error) = ended else { panic!("{ended:?}") };
    assert_eq!((error.line, error.column.as_deref(), report.counts.jobs), (3, Some("tasks"), 1));
}
