//! Lines that others than the kernel and its drivers have written.

use super::*;

#[test]
fn names_that_somebody_chose_are_not_believed() {
    for line in [
        // A file's name with a new line in it.
        r"4,1,1,-;a[7]: segfault at 0 ip 0 sp 0 error 4 in x\x0aNVRM: Xid (PCI:0000:9b:00): 79, y[400000+1000]",
        r"4,1,1,-;traps: a[7] trap in x\x0aNVRM: Xid (PCI:0000:9b:00): 154, changed from 0x1 to 0x0",
        // The name of a process that crashes.
        "[ 1.2] NVRM: Xid ():79[77]: segfault at 0",
        "[ 1.2] nvidia-: SXid ([77]: segfault at 0 ip 0 in x): 26008, [400000+1000]",
        "[ 1.2] nvme nvme0[7]: segfault at 0 in a: controller is down",
        "[ 1.2] XFS[7]: segfault at 0 in forced readonly",
        "[ 1.2] {1[7]: segfault at 0 in }[Hardware Error]: event severity: fatal",
    ] {
        assert_eq!(events(line), [], "{line}");
    }
    // A process with a new line in its name, in what the driver says of it.
    assert_eq!(
        events(r"4,1,1,-;NVRM: Xid (PCI:0000:9b:00): 31, pid=7, name=\x0aEDAC MC0: UE , Ch 00000010").len(),
        1
    );
    // The name of one whose own fault is told.
    assert_eq!(xid("NVRM: Xid (PCI:0000:9b:00): 13, pid=1, name=NVRM: Xid ():79, Graphics Exception").code, 13);
}

#[test]
fn what_a_logging_service_passes_on_is_not_believed_and_what_root_writes_is() {
    let line = "NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.";
    let believed = |line: &str| events(line).len();
    assert_eq!((believed(&format!("3,1,1,-;{line}")), believed(&format!("12,1,1,-;{line}"))), (1, 1));
    for passed_on in [
        format!("13,1,1,-;{line}[4711]: x"),
        format!("<13>[ 1.5] {line}[4711]: x"),
        format!("user  :notice: [ 1.5] {line}[4711]: x"),
        format!("30,1,1,-;{line} x: [7]: y"),
    ] {
        assert_eq!(believed(&passed_on), 0, "{passed_on}");
    }
}
