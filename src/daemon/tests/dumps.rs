//! What is left of a process that crashes.

use crate::daemon::keep_out_of_dumps;

#[test]
fn a_daemon_leaves_no_core_file() {
    assert!(nix::sys::prctl::get_dumpable().unwrap());
    keep_out_of_dumps(false);
    let kept_out = !nix::sys::prctl::get_dumpable().unwrap();
    nix::sys::prctl::set_dumpable(true).unwrap();
    assert!(kept_out);
}
