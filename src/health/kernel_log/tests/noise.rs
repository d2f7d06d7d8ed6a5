//! Lines that say nothing, and lines that nobody should write.

use super::*;
use proptest::prelude::*;

#[test]
fn ordinary_lines_and_lines_of_programs_say_nothing() {
    for line in [
        "",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07",
        "NVRM: Xid error: xyz, invalid data",
        "NVRM: Xid (PCI:0000:9b:00)",
        "NVRM: Xid (PCI:0000:9b:00): many",
        "NVRM: Xid (PCI:0000:9b:00): 99999999999",
        "NVRM: GPU 0000:91:00.0: GPU serial number is 1653723052734.",
        "NVRM: A GPU crash dump has been created.",
        "mce: [Hardware Error]: Machine check events logged",
        "mce: [Hardware Error]: TSC 0 ADDR 13",
        "mce: [Hardware Error]: Run the above through 'mcelog --ascii'",
        "EDAC MC: Ver: 3.0.0",
        "EDAC MC0: Giving out device to module skx_edac",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
        "nvme nvme0: 40/0/0 default/read/poll queues",
        "oom_reaper: reaped process 19289 (memcg_process), now anon-rss:0kB",
        "May 19 07:08:57 host train[77]: NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.",
        "audit: type=1400 msg=\"NVRM: Xid (PCI:0000:9b:00): 79\"",
        "python3[12]: NVRM: GPU at 0000:01:00.0 has fallen off the bus.",
    ] {
        assert_eq!(events(line), [], "{line}");
    }
}

/// Pieces that parsers look for, so that random texts get behind the first comparison.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "NVRM: ",
        "Xid (",
        "PCI:",
        "0000:9b:00",
        ".0",
        "): ",
        "79",
        "154",
        "95",
        "74",
        "149",
        ", pid=",
        "12",
        "'<unknown>'",
        ", name=",
        "GPU has fallen off the bus.",
        " GPU-I:",
        "GPU at ",
        "The NVIDIA GPU ",
        "RST: ",
        "D-RST: Yes",
        "link 4(",
        "0x",
        "from 0x",
        " to 0x",
        "caused by previous Xid ",
        "nvidia-nvswitch0: SXid (",
        "Fatal",
        "Link ",
        "Severity ",
        "AER: ",
        "PCIe Bus Error: severity=",
        "Uncorrected (",
        "id=",
        "mlx5_core ",
        "mce: [Hardware Error]: CPU ",
        "Machine Check",
        "Bank ",
        "EDAC MC0: ",
        "UE",
        "oom-kill:constraint=",
        ",task=",
        ",pid=",
        "INFO: task ",
        " blocked for more than",
        ":",
        "nvme ",
        "\\x0a",
        "\\x",
        "[",
        "]",
        "<6>",
        "kernel: ",
        "6,1,2,-;",
        "kern  :warn  : ",
        "\n",
        "\n SUBSYSTEM=",
        "(GPC ",
        "TPC ",
        "GPCCLIENT_T",
        "GPC",
        "callbacks suppressed",
        "Sun Feb 23 16:24:18 2025",
        "2025-01-21T04:41:44,283302+00:00",
        "é",
        "\u{fffd}",
        " ",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_text_makes_a_parser_panic_or_say_too_much(pieces in prop::collection::vec(piece(), 0..24), raw in any::<bool>()) {
        let text = pieces.concat();
        let record = if raw { Record::kmsg(1, 2, 4, &text) } else { Record::from_line(&text) };
        let mut parser = Parser::default();
        for _ in 0..2 {
            let seen = parser.parse(&record);
            prop_assert!(seen.len() <= MAX_EVENTS);
            prop_assert!(seen.iter().map(|seen| seen.line.len()).sum::<usize>() <= MAX_TEXT_BYTES);
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let text = String::from_utf8_lossy(&bytes);
        let head = format!("NVRM: Xid (PCI:0000:9b:00): 95, {text}");
        prop_assert!(events(&text).len() <= MAX_EVENTS && events(&head).len() <= MAX_EVENTS);
    }
}

#[test]
fn a_huge_text_is_cut() {
    let huge = format!("{}{}", "NVRM: Xid (PCI:0000:9b:00): 13, x\n".repeat(100_000), "é".repeat(1 << 20));
    let seen = Parser::default().parse(&Record::kmsg(1, 2, 4, &huge));
    assert_eq!(seen.len(), MAX_EVENTS);
}
