use super::*;

fn whole(uuid: &str) -> Gpu {
    Gpu { uuid: uuid.into(), ..Gpu::default() }
}

fn slice(uuid: &str, parent: &str) -> Gpu {
    Gpu { mig_parent: Some(parent.into()), ..whole(uuid) }
}

fn process(gpu: &str, pid: u32, command: Option<&str>) -> GpuProcess {
    GpuProcess {
        gpu: gpu.into(),
        pid,
        memory_mb: Some(500),
        command: command.map(str::to_owned),
        container: (pid == 7).then(|| "container 3f2a".to_owned()),
        contained: pid == 7,
    }
}

#[test]
fn every_case_of_who_is_on_what() {
    let node = [whole("A"), whole("P"), slice("S1", "P"), slice("S2", "P")];
    // The GPU asked for, who is on what, what is held, and the pid that stands against it.
    type Case = (&'static str, Vec<GpuProcess>, &'static [&'static str], Option<u32>);
    let cases: [Case; 13] = [
        ("A", vec![], &[], None),
        ("A", vec![process("A", 7, Some("python3"))], &[], Some(7)),
        ("A", vec![process("P", 7, Some("python3"))], &[], None),
        ("A", vec![process("A", 8, Some("Xorg"))], &[], None),
        ("A", vec![process("A", 7, Some("Xorg"))], &[], Some(7)),
        ("A", vec![process("A", 8, Some("nvidia-persiste"))], &[], None),
        ("A", vec![process("A", 8, Some("dcgmi"))], &[], None),
        ("A", vec![process("A", 8, Some("Xorg")), process("A", 9, None)], &[], Some(9)),
        ("S1", vec![process("S1", 9, Some("python3"))], &[], Some(9)),
        ("S2", vec![process("S1", 9, Some("python3"))], &[], None),
        ("S1", vec![process("P", 9, Some("python3"))], &[], Some(9)),
        ("S1", vec![process("P", 9, Some("python3"))], &["S2"], None),
        ("S1", vec![process("P", 9, Some("python3"))], &["A"], Some(9)),
    ];
    for (row, (asked, processes, held, expected)) in cases.into_iter().enumerate() {
        let gpu = node.iter().find(|gpu| gpu.uuid.0 == asked).unwrap();
        let is_held = |gpu: &GpuUuid| held.contains(&gpu.0.as_str());
        let found = withheld_by(gpu, &node, &processes, &IgnoredProcesses::default(), &is_held);
        assert_eq!(found.is_some(), expected.is_some(), "row {row}: {found:?}");
        if let (Some(found), Some(pid)) = (found, expected) {
            assert!(found.contains(&format!("process {pid} (")), "row {row}: {found}");
        }
    }
}

#[test]
fn the_sentence_names_process_command_and_container() {
    let gpu = whole("A");
    let two = [process("A", 7, Some("python3")), process("A", 9, None)];
    let found = withheld_by(&gpu, std::slice::from_ref(&gpu), &two, &IgnoredProcesses::new([""; 0]), &|_| false);
    let expected = "process 7 (python3) of container 3f2a is on it, and 1 more";
    assert_eq!(found.as_deref(), Some(expected));
    let found = withheld_by(&gpu, &[], &two[1..], &IgnoredProcesses::default(), &|_| false);
    assert!(found.unwrap().starts_with("process 9 (not visible in this machine's /proc)"));
}
