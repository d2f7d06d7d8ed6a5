//! What holds of any trace, any faults and both policies.

use super::*;

fn synthetic(config: &Config, load: f64, jobs: usize) -> impl Iterator<Item = Result<TraceJob, TraceError>> + use<> {
    Synthetic::new(&config.groups, load, config.seed).take(jobs)
}

fn bytes(config: &Config, jobs: usize) -> String {
    let (ended, report, _) = run(config.clone(), synthetic(config, 1.1, jobs));
    assert_eq!(ended, Ended::Done);
    serde_json::to_string(&report).unwrap()
}

#[test]
fn one_seed_gives_one_outcome_to_the_byte() {
    let faulty = Config { faults: 0.05, latencies: Latencies::default(), ..config(6, 8, Policy::Wharf) };
    let first = bytes(&faulty, 300);
    assert_eq!(first, bytes(&faulty, 300));
    assert_ne!(first, bytes(&Config { seed: 2, ..faulty }, 300));
}

#[test]
fn scripted_faults_meet_every_core() {
    let faulty = Config { faults: 0.2, latencies: Latencies::default(), ..config(6, 8, Policy::Wharf) };
    let (ended, report, _) = run(faulty.clone(), synthetic(&faulty, 1.0, 400));
    let counts = &report.counts;
    assert_eq!((ended, counts.unfinished()), (Ended::Done, 0));
    for (what, count) in [
        ("succeeded", counts.succeeded),
        ("failed", counts.failed),
        ("retries", counts.retries),
        ("roll_backs", counts.roll_backs),
        ("vetoes", counts.vetoes),
        ("node_losses", counts.node_losses),
        ("lost_tasks", counts.lost_tasks),
    ] {
        assert!(count > 0, "no {what}: {counts:?}");
    }
}

#[test]
fn who_asks_for_no_more_gets_what_is_known() {
    let config = config(2, 8, Policy::Wharf);
    let mut simulation = Simulation::new(config.clone(), synthetic(&config, 1.0, 5000));
    let mut asked = 0;
    let ended = simulation.run(&mut Ticking(0), &mut |_| {
        asked += 1;
        asked < 3
    });
    let (report, _) = simulation.report();
    assert_eq!(ended, Ended::Interrupted);
    assert!(report.counts.jobs > 0 && report.counts.jobs < 5000);
    assert!(report.gpu_utilisation.is_some_and(|part| part > 0.0 && part <= 1.0));
}

#[derive(Debug, Clone)]
struct Any {
    jobs: Vec<TraceJob>,
    config: Config,
}

fn any_simulation() -> impl Strategy<Value = Any> {
    let job = (0u64..200, 0u64..60, 1u32..6, 0u32..5, 0u32..9, 0u64..9000, 0i32..3);
    let jobs = proptest::collection::vec(job, 1..40);
    let latencies = (0u64..4, 0u64..4, 0u64..3, 0u64..3, 0u64..4);
    let policy = proptest::sample::select(vec![Policy::Wharf, Policy::Fifo]);
    let faults = proptest::sample::select(vec![0.0, 0.1, 0.5]);
    (jobs, 1u32..5, 0u32..9, latencies, policy, faults, any::<u64>()).prop_map(
        |(mut jobs, nodes, gpus, latencies, policy, faults, seed)| {
            jobs.sort_by_key(|job| job.0);
            let seconds = Duration::from_secs;
            let job = |(at, lasts, tasks, gpus, cpus, memory_mb, priority)| TraceJob {
                submitted_at: crate::domain::time::Timestamp(0).plus(seconds(at)),
                duration: seconds(lasts),
                tasks,
                gpus,
                cpus,
                memory_mb,
                priority,
                gpu_types: Vec::new(),
            };
            let (stage, prepare, launch, stop, release) = latencies;
            let latencies = Latencies {
                stage: seconds(stage),
                prepare: seconds(prepare),
                launch: seconds(launch),
                stop: seconds(stop),
                release: seconds(release),
            };
            let groups = vec![NodeGroup { cpus: 16, memory_mb: 20_000, ..NodeGroup::of(nodes, gpus, "X") }];
            let config = Config { groups, policy, seed, faults, latencies, checks: true };
            Any { jobs: jobs.into_iter().map(job).collect(), config }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everybody_is_served_and_everything_given_back(any in any_simulation()) {
        let (ended, report, _) = run(any.config.clone(), any.jobs.iter().cloned().map(Ok));
        prop_assert_eq!(ended, Ended::Done);
        let counts = &report.counts;
        prop_assert_eq!(counts.jobs, any.jobs.len() as u64);
        // Jobs without GPUs may wait for GPU jobs that never come: free GPUs keep a part of their nodes.
        let without_gpus = any.jobs.iter().filter(|job| job.gpus == 0).count() as u64;
        let may_wait = if any.config.policy == Policy::Wharf { without_gpus } else { 0 };
        prop_assert!(counts.unfinished() <= may_wait, "{:?}", counts);
        if any.config.faults == 0.0 {
            prop_assert_eq!(counts.failed, 0);
            prop_assert_eq!(counts.gangs_placed, counts.succeeded);
            prop_assert_eq!(report.waits[0].jobs, counts.succeeded);
        }
        let parts = [report.gpu_utilisation, report.gpu_allocation];
        prop_assert!(parts.into_iter().flatten().all(|part| (0.0..=1.0).contains(&part)), "{:?}", report);
    }
}
