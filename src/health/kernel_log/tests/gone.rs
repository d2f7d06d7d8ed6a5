//! A GPU that is gone, and several messages of the driver at once.

use super::*;

#[test]
fn a_gpu_that_is_gone_is_seen_without_an_xid() {
    let gone = Event::FallenOff { pci: pci("0000:b3:00.0").unwrap() };
    for line in [
        "NVRM: GPU at 0000:b3:00.0 has fallen off the bus.",
        "NVRM: GPU at PCI:0000:b3:00 has fallen off the bus.",
        "NVRM: GPU 0000:b3:00.0: GPU has fallen off the bus.",
        "NVRM: The NVIDIA GPU 0000:b3:00.0 installed in this system has fallen off the bus and is not responding to commands.",
        "4,1,2,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0aNVRM: fallen off the bus and is not responding to commands.",
        "4,1,2,-;NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:1e07) installed in this\\x0aNVRM: system has fallen off the bus and is not responding.",
    ] {
        assert_eq!(only(line), gone, "{line}");
    }
    // One sentence on three lines of a file.
    let mut parser = Parser::default();
    let mut said = |line: &str| parser.parse(&Record::from_line(line)).len();
    assert_eq!(said("[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0"), 0);
    assert_eq!(said("               NVRM: (PCI ID: 10de:26b5) installed in this system has"), 0);
    assert_eq!(said("               NVRM: fallen off the bus and is not responding to commands."), 1);
    assert_eq!(said("               NVRM: fallen off the bus and is not responding to commands."), 0);
    // Another sentence about a GPU, and its end much later, are nothing.
    assert_eq!(said("NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:26b5)"), 0);
    assert_eq!(said("usb 1-1: new device"), 0);
    assert_eq!(said("NVRM: fallen off the bus and is not responding to commands."), 0);
}

#[test]
fn several_messages_in_one_printk_are_several_events() {
    let record = Record::kmsg(
        1,
        2,
        4,
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600\\x0aNVRM: GPU Board Serial Number: 165\\x0aNVRM: Xid (PCI:0000:9b:00): 79, a\n SUBSYSTEM=pci",
    );
    let seen = Parser::default().parse(&record);
    let kinds: Vec<bool> = seen.iter().map(|seen| matches!(seen.event, Event::Xid(_))).collect();
    assert_eq!(kinds, [false, true]);
    assert_eq!(seen[0].event, Event::Identity { pci: pci("0000:9b:00").unwrap(), uuid: "GPU-509665ad-b600".into() });
    let glued = "NVRM: Xid (PCI:0000:9b:00): 63, one NVRM: Xid (PCI:0000:9b:00): 94, two";
    let seen = Parser::default().parse(&Record::from_line(glued));
    assert_eq!(
        seen.iter().map(|seen| seen.line.as_str()).collect::<Vec<_>>(),
        ["NVRM: Xid (PCI:0000:9b:00): 63, one", "NVRM: Xid (PCI:0000:9b:00): 94, two"]
    );
    // A process may not end a line by its name.
    assert_eq!(xid("NVRM: Xid (PCI:0000:9b:00): 95, pid=1, name=NVRM: Xid (a):, RST: Yes, D-RST: No").code, 95);
}
