//! Xids: their heads in many forms, and what codes say beside their number.

use super::*;

#[test]
fn heads_of_xids_come_in_many_forms() {
    let plain = |code| Xid { code, pci: pci("0000:9b:00.0"), ..Xid::default() };
    for (line, expected) in [
        (
            "NVRM: Xid (PCI:0000:9b:00): 79, pid=12, name=a b, GPU",
            Xid { pid: Some(12), process: Some("a b".into()), ..plain(79) },
        ),
        ("NVRM: Xid (PCI:0000:9b:00.0): 79, pid=12, GPU", Xid { pid: Some(12), ..plain(79) }),
        ("NVRM: Xid (0000:9b:00): 79, GPU", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79 GPU has fallen off the bus.", plain(79)),
        (
            "NVRM: Xid (PCI:0000:9b:00):79,pid=3,name=x,GPU",
            Xid { pid: Some(3), process: Some("x,GPU".into()), ..plain(79) },
        ),
        (
            "NVRM: Xid (PCI:0000:9b:00): 79 pid=3 name=x GPU",
            Xid { pid: Some(3), process: Some("x".into()), ..plain(79) },
        ),
        ("NVRM: Xid (PCI:0000:9b:00): 79, pid='<unknown>', name=<unknown>, GPU", plain(79)),
        ("NVRM: Xid (PCI:0000:9b:00): 79, pid=0, name=, GPU", Xid { pid: Some(0), ..plain(79) }),
        ("NVRM: Xid (PCI:...): 79, GPU", Xid { pci: None, ..plain(79) }),
        ("NVRM: Xid (PCI:0000:9b:00 GPU-I:05): 79, GPU", Xid { gpu_instance: Some(5), ..plain(79) }),
        (
            "NVRM: Xid (PCI:0000:9b:00 GPU-I:01 GPU-CI:02): 79, GPU",
            Xid { gpu_instance: Some(1), compute_instance: Some(2), ..plain(79) },
        ),
        (
            "NVRM: Xid (PCI:0000:9b:00): 45, pid=7, name=a, Ch 00000008 caused by previous Xid 149",
            Xid { pid: Some(7), process: Some("a".into()), caused_by: Some(149), ..plain(45) },
        ),
    ] {
        assert_eq!(xid(line), expected, "{line}");
    }
}

#[test]
fn what_codes_say_more_is_read() {
    use XidDetail::{Containment, Engine, Memory, NvLink, Nvlink5, Recovery};
    let link5 = |unit: &str, fatal, link, status: Vec<u32>| Nvlink5 {
        unit: unit.into(),
        fatal: Some(fatal),
        link: Some(link),
        status,
    };
    for (rest, expected) in [
        ("13, pid=1, Graphics SM Global Exception on (GPC 8, TPC 5, SM 1): Multiple", Engine { gpc: 8, tpc: 5 }),
        (
            "31, pid=1, name=a, Ch 00000010, intr 10000000. MMU Fault: ENGINE GRAPHICS GPC3 GPCCLIENT_T1_3 faulted",
            Engine { gpc: 3, tpc: 1 },
        ),
        ("31, Ch 00000010. MMU Fault: ENGINE HOST0 HUBCLIENT_ESC faulted @ 0x7f", XidDetail::None),
        ("48, DBE has been detected at physAddr 0x18f31d80 partition 16", Memory { address: 0x18f3_1d80 }),
        ("63, Row Remapper: New row (0x0000000018f31d80) marked for remapping", Memory { address: 0x18f3_1d80 }),
        ("63, Row Remapper: New row marked for remapping", XidDetail::None),
        ("64, Dynamic Page Retirement: failed (0x00000000000a8af9).", Memory { address: 0xa_8af9 }),
        ("94, Contained: SM (0x1). RST: No, D-RST: No", Containment { reset: false, drain_and_reset: false }),
        ("94, Contained: SM (0x1). RST: No, D-RST: Yes", Containment { reset: false, drain_and_reset: true }),
        (
            "95, pid=1, name=RST: No, Uncontained: LTC. RST: Yes, D-RST: No",
            Containment { reset: true, drain_and_reset: false },
        ),
        ("95, Uncontained: LTC TAG", XidDetail::None),
        (
            "74, NVLink: fatal error detected on link 14(0x0, 0x1, 0x10000, 0x0, 0x0, 0x0, 0x2)",
            NvLink { link: 14, registers: vec![0, 1, 0x1_0000, 0, 0, 0, 2] },
        ),
        ("137, RLW_RXPIPE interrupt hit on link 11 on GPU0: PRIV Error", NvLink { link: 11, registers: vec![] }),
        (
            "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x0 0x0 0x0 0x0 0x0)",
            link5("NETIR_LINK_EVT", true, 9, vec![0x0255_25c6, 0, 0, 0, 0, 0]),
        ),
        (
            "145, RLW_SRC_TRACK Nonfatal XC1 i0 Link 10 (0x04082907 0x8 0x0 0x0)",
            link5("RLW_SRC_TRACK", false, 10, vec![0x0408_2907, 8, 0, 0]),
        ),
        (
            "150, pid=1, name=Fatal x, MSE_WATCHDOG Non-fatal XC0 i0 Link 00 (0x0)",
            link5("MSE_WATCHDOG", false, 0, vec![0]),
        ),
        ("144, SAW_MVB", Nvlink5 { unit: "SAW_MVB".into(), fatal: None, link: None, status: vec![] }),
        ("154, GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)", Recovery { from: Some(0), to: 1 }),
        (
            "154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x2 (to 0x1)",
            Recovery { from: Some(4), to: 2 },
        ),
        ("154, GPU recovery action changed", XidDetail::None),
        ("32, Channel ID 0000000d intr0 00040000", XidDetail::None),
    ] {
        assert_eq!(xid(&format!("NVRM: Xid (PCI:0000:9b:00): {rest}")).detail, expected, "{rest}");
    }
}
