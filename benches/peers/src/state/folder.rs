//! Where the files of a row go.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Settings;

/// A folder of one row of this run, gone when it ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(settings: &Settings, name: &str) -> Self {
        let name = format!("phalanx-peers-{name}-{}", std::process::id());
        let folder = settings.folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the folder that was named can be written");
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it that is not there yet.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        let _ = fs::remove_dir_all(&path);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The kind of file system that a folder lies on, as the system calls it.
pub fn file_system(folder: &Path) -> String {
    let unknown = || "unknown".to_owned();
    let Ok(folder) = folder.canonicalize() else { return unknown() };
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return unknown() };
    kind(&mounts, &folder).map_or_else(unknown, str::to_owned)
}

/// Why nothing that is synced can be measured there, if so.
pub fn not_a_disk(settings: &Settings) -> Option<String> {
    let kind = file_system(&settings.folder);
    matches!(kind.as_str(), "tmpfs" | "ramfs").then(|| {
        let folder = settings.folder.display();
        format!("{folder} is on {kind}, where a sync does nothing: name one on a disk by --folder")
    })
}

/// Of the mount with the longest path that leads to the folder; of two with one path the later hides the other.
fn kind<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        folder.starts_with(point).then_some((point.len(), kind.split(' ').next()?))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_that_of_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                      2 1 0:1 / /run rw - tmpfs tmpfs rw\n\
                      3 1 0:2 / /run/disk rw - xfs /dev/sdb rw\n\
                      4 3 0:3 / /run/disk rw - btrfs /dev/sdc rw\n";
        let kind = |folder: &str| kind(mounts, Path::new(folder));
        assert_eq!(kind("/data/a"), Some("ext4"));
        assert_eq!(kind("/run/user"), Some("tmpfs"));
        assert_eq!(kind("/runner"), Some("ext4"));
        assert_eq!(kind("/run/disk/a"), Some("btrfs"));
    }
}
