//! What tells a changed file from an unchanged one without reading it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How a file looks, links followed. Two stamps that differ mean a change; two that are equal mean none, unless two
/// writes of the same length fall into one tick of the kernel's clock (up to 10 ms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    Missing,
    Unreadable(io::ErrorKind),
    There { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64), orphan: bool },
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(found) => Self::There {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
                orphan: found.nlink() == 0,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(error) => Self::Unreadable(error.kind()),
        }
    }

    /// True for a file that has no name any more: what a bind mount still shows of a file that was replaced at its
    /// source. It will never change again.
    pub(super) fn is_orphan(&self) -> bool {
        matches!(self, Self::There { orphan: true, .. })
    }

    /// The same file or directory, whatever became of what is in it.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::There { device, inode, .. }, Self::There { device: device2, inode: inode2, .. }) => {
                device == device2 && inode == inode2
            }
            _ => self == other,
        }
    }

    /// Changed less than `age` ago by the wall clock, or in its future: somebody who read the file a moment ago may
    /// have read what it held before.
    pub(super) fn is_younger_than(&self, age: Duration) -> bool {
        let Self::There { changed: (seconds, nanoseconds), .. } = self else { return false };
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(*seconds), u32::try_from(*nanoseconds)) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
        changed.is_some_and(|changed| SystemTime::now().duration_since(changed).map_or(true, |past| past < age))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_stamp_follows_links_and_tells_every_way_of_changing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        assert_eq!(Stamp::of(&link), Stamp::Missing);
        fs::write(&file, "one").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        let first = Stamp::of(&link);
        assert_eq!(first, Stamp::of(&file));
        assert!(first.is_younger_than(Duration::from_secs(60)) && !first.is_younger_than(Duration::ZERO));
        fs::write(&file, "longer").expect("a write");
        let longer = Stamp::of(&link);
        assert_ne!(longer, first);
        assert!(longer.is_same_place(&first));
        fs::write(dir.path().join("new"), "longer").expect("a file");
        fs::rename(dir.path().join("new"), &file).expect("a rename");
        assert!(!Stamp::of(&link).is_same_place(&first));
        fs::remove_file(&file).expect("removed");
        assert_eq!(Stamp::of(&link), Stamp::Missing);
        fs::write(&file, "").expect("a file");
        assert!(matches!(Stamp::of(&file.join("below")), Stamp::Unreadable(io::ErrorKind::NotADirectory)));
    }

    #[test]
    fn a_file_without_a_name_is_an_orphan() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let open = fs::File::create(&path).expect("a file");
        let seen = format!("/proc/self/fd/{}", open.as_raw_fd());
        assert!(!Stamp::of(seen.as_ref()).is_orphan());
        fs::remove_file(&path).expect("removed");
        assert!(Stamp::of(seen.as_ref()).is_orphan());
    }
}
