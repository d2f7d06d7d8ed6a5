//! The rights of folders for state.

use crate::daemon::make_state_dir;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn folders_get_their_rights_only_when_they_are_made() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let (above, state) = (dir.path().join("wharf"), dir.path().join("wharf/agent"));
    make_state_dir(&state, 0o711).unwrap();
    assert_eq!((mode(&above), mode(&state)), (0o755, 0o711));
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    make_state_dir(&state, 0o711).unwrap();
    assert_eq!(mode(&state), 0o700, "somebody wanted it so");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(make_state_dir(&dir.path().join("file"), 0o711).unwrap_err().to_string().contains("file"));
}
