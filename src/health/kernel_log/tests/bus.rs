//! NVSwitches and the PCI bus.

use super::*;

#[test]
fn switches_are_heard_and_their_follow_up_lines_known() {
    use SxidSeverity::{Fatal, FollowUp, NonFatal, Unsaid};
    for (rest, code, link, severity) in [
        ("28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)", 28006, Some(46), NonFatal),
        ("20034, Fatal, Link 30 LTSSM Fault Up", 20034, Some(30), Fatal),
        ("20034, Data {0x50610002, 0x10100030}", 20034, None, FollowUp),
        ("22013, Severity 0 Engine instance 60 Sub-engine instance 00", 22013, None, FollowUp),
        ("26008, SOE Watchdog error", 26008, None, Unsaid),
        ("00011", 11, None, Unsaid),
    ] {
        let event = only(&format!("[ 1.2] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): {rest}"));
        let expected = Sxid { switch: "nvidia-nvswitch3".into(), pci: pci("0000:c1:00.0"), code, link, severity };
        assert_eq!(event, Event::Sxid(expected), "{rest}");
    }
}

#[test]
fn bus_errors_are_heard_in_both_wordings() {
    use AerSeverity::{Corrected, Fatal, NonFatal};
    let announced = |severity| Event::Aer { severity, device: pci("0000:01:00.0"), driver: None, announcement: true };
    let told = |severity, driver: &str| Event::Aer {
        severity,
        device: pci("0000:01:00.0"),
        driver: Some(driver.into()),
        announcement: false,
    };
    for (line, expected) in [
        ("pcieport 0000:00:01.0: AER: Corrected error received: 0000:01:00.0", announced(Corrected)),
        ("pcieport 0000:00:01.0: AER: Correctable error message received from 0000:01:00.0", announced(Corrected)),
        ("pcieport 0000:00:01.0: AER: Multiple Uncorrected (Fatal) error received: id=0100", announced(Fatal)),
        (
            "pcieport 0000:00:01.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:01:00.0",
            announced(NonFatal),
        ),
        ("AER: Uncorrected (Non-Fatal) error received: 0000:01:00.0", announced(NonFatal)),
        (
            "nvidia 0000:01:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
            told(Fatal, "nvidia"),
        ),
        (
            "nvme 0000:01:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, id=0100(Receiver ID)",
            told(Corrected, "nvme"),
        ),
        (
            "nvidia 0000:01:00.0: AER: can't recover (no error_detected callback)",
            Event::AerUnrecovered { device: pci("0000:01:00.0").unwrap(), driver: "nvidia".into() },
        ),
    ] {
        assert_eq!(only(line), expected, "{line}");
    }
    for line in [
        "pcieport 0000:00:01.0: AER: aer_status: 0x00000040, aer_mask: 0x00000000",
        "pcieport 0000:00:01.0:   device [8086:2030] error status/mask=00000040/00002000",
        "pcieport 0000:00:01.0: AER: enabled with IRQ 27",
        "pcieport 0000:00:01.0: AER: Corrected error received: nowhere",
    ] {
        let quiet = events(line);
        assert!(quiet.is_empty() || line.contains("nowhere"), "{line}: {quiet:?}");
    }
}
