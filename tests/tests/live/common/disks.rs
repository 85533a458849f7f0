//! Small real file systems: one that gets full, and one that stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::process::run;

use super::{LIMIT, Must};

/// The capability to mount, in `CapEff` (capabilities(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// A small file system; unmounted on drop.
pub(crate) struct SmallDisk {
    at: PathBuf,
    frozen: bool,
}

impl SmallDisk {
    /// One in memory. None where this process may not mount: that is said, and has to be true.
    pub(crate) fn tmpfs(at: PathBuf, size_mb: u64) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_mb}m,mode=700"), "tmpfs"]);
        Self::mount(at, mount)
    }

    /// An ext4 in a file, which can be [frozen](Self::freeze).
    pub(crate) fn ext4(at: PathBuf, size_mb: u64) -> Option<Self> {
        let image = at.with_extension("image");
        fs::File::create_new(&image).must().set_len(size_mb << 20).must();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image), LIMIT, "making an ext4").must();
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image);
        Self::mount(at, mount)
    }

    #[expect(clippy::print_stderr, reason = "a test that can't be what it is says so aloud")]
    fn mount(at: PathBuf, mut mount: Command) -> Option<Self> {
        fs::create_dir(&at).must();
        match run(mount.arg(&at), LIMIT, "mounting a small file system") {
            Ok(_) => Some(Self { at, frozen: false }),
            Err(error) => {
                let status = fs::read_to_string("/proc/self/status").must();
                let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
                let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
                let may = effective.is_none_or(|effective| effective & CAP_SYS_ADMIN != 0);
                assert!(!may, "this process may mount, and yet: {error}");
                eprintln!(
                    "NOT TESTED HERE, a real disk that is full or stopped: mounting takes \
                     CAP_SYS_ADMIN, which this process hasn't. The simulated disk's is tested \
                     everywhere."
                );
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Stops it: whoever writes waits.
    pub(crate) fn freeze(&mut self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.at), LIMIT, "freezing").must();
        self.frozen = true;
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self) {
        run(Command::new("fsfreeze").arg("-u").arg(&self.at), LIMIT, "thawing").must();
        self.frozen = false;
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.frozen {
            let _ = run(Command::new("fsfreeze").arg("-u").arg(&self.at), LIMIT, "thawing");
        }
        // Nothing to do about it where that fails: the test has said what it had to say.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at), LIMIT, "unmounting");
    }
}
