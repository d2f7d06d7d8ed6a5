//! Deletes what a removed task leaves beside its log: its working folder. Blocking.

use super::layout::TaskDir;
use super::tree;
use std::fs;
use std::io;

/// Begins the names of working folders that are on their way out.
const ASIDE: &str = "work.gone.";

impl TaskDir {
    /// Moves the working folder aside and deletes it, and what earlier tries left. Deleting may take long, longer than
    /// its caller waits: by its new name it never is the folder of the next attempt at this task.
    pub fn clear_work(&self) -> io::Result<()> {
        let aside = self.dir.join(format!("{ASIDE}{}", uuid::Uuid::new_v4()));
        match fs::rename(self.work(), &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                tree::remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_folder_goes_and_the_log_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir =
            TaskDir { dir: root.path().join("1.1.0.0"), socket_dir: root.path().join("sockets"), mounted: false };
        dir.clear_work().unwrap();
        let interrupted = dir.dir.join("work.gone.of-an-earlier-try");
        for folder in [dir.work().join("deep/er"), interrupted.join("more")] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), "x").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), dir.work().join("out")).unwrap();
        fs::write(dir.log(0), "output").unwrap();
        for _ in 0..2 {
            dir.clear_work().unwrap();
            let left: Vec<_> = fs::read_dir(&dir.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left, [dir.log(0)]);
        }
    }
}
