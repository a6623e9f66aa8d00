//! A file system of one's own to cut the power of: ext4 in an image file, mounted by a loop
//! device, which loses at the cut whatever had not been synced.
//!
//! `commit=300` keeps the kernel from syncing by itself within a test, so that what survives is
//! what the server asked for. The cut is `FS_IOC_SHUTDOWN` with `NOLOGFLUSH`, which `xfs_io` issues
//! without `-f`: from then on every write and sync fails with EIO, and neither data nor journal
//! that are only in memory reach the image.
//!
//! One thing differs from a real loss of power: programs live on and see what their calls return,
//! and a sync that is under way at that instant may return success although its data are lost
//! (`jbd2_complete_transaction` finds its transaction gone and does not look whether the journal
//! was aborted; seen in about every tenth cut). So only what was acknowledged before the ioctl was
//! issued has been promised, just as nobody hears of what a computer without power acknowledges.
//! `xfs_io` therefore waits armed, and the uncertain time is that of one line through a pipe.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::deadline::Deadline;
use crate::process::Missing;

/// Marks a directory as one of these: followed by the pid of its maker and a number.
const MARKER: &str = "larder-loopmount-";
/// How long an unmount may stay busy after the last process has ended.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(10);
/// How long `xfs_io` may take to open the mount point.
const ARM_DEADLINE: Duration = Duration::from_secs(10);
/// The image that [`available`] tries with.
const TRIAL_BYTES: u64 = 16 << 20;

/// Distinguishes the mounts of one process.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A mounted image; unmounted and deleted when dropped.
#[derive(Debug)]
pub struct LoopMount {
    /// Holds the image and the mount point.
    root: PathBuf,
}

/// A finger on the switch of a [`LoopMount`].
#[derive(Debug)]
pub struct Switch {
    /// `xfs_io` with the mount point open, reading commands.
    child: Child,
    commands: Option<ChildStdin>,
}

/// What a cut spares of what is only in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// Nothing (`NOLOGFLUSH`): a loss of power.
    Everything,
    /// The journal (`LOGFLUSH`): names and sizes are ahead of the data, as after a loss of power
    /// just behind a commit of the journal.
    DataAlone,
}

/// When a cut took place: after `issued`, and before `done`.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Before the ioctl.
    pub issued: Instant,
    /// After it had returned: nothing sent later can have become durable.
    pub done: Instant,
}

impl LoopMount {
    /// Makes and mounts an empty file system of `bytes` in the directory for temporary files.
    /// Mounts that ended test runs left behind are removed first.
    ///
    /// # Errors
    /// When a tool fails; the message carries what it said.
    pub fn create(bytes: u64) -> Result<Self> {
        remove_stale();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("{MARKER}{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("mount"))?;
        let mount = Self { root };
        File::create(mount.image())?.set_len(bytes)?;
        run("mkfs.ext4", [OsStr::new("-q"), mount.image().as_os_str()])?;
        mount.attach()?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.root.join("mount")
    }

    /// Makes a cut ready. The mount is busy until it is done or the switch is dropped.
    ///
    /// # Errors
    /// When `xfs_io` cannot be started.
    pub fn arm(&self) -> Result<Switch> {
        let mut child = Command::new("xfs_io")
            .arg("-x")
            .arg(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting xfs_io, of the package xfsprogs")?;
        let commands = child.stdin.take();
        let switch = Switch { child, commands };
        let descriptors = format!("/proc/{}/fd", switch.child.id());
        let mounted = self.path();
        Deadline::after(ARM_DEADLINE).wait_for("xfs_io to open the mount point", || {
            let mut open = fs::read_dir(&descriptors)?.flatten();
            let is_mount =
                |entry: fs::DirEntry| fs::read_link(entry.path()).ok().as_ref() == Some(&mounted);
            Ok(open.any(is_mount).then_some(()))
        })?;
        Ok(switch)
    }

    /// Unmounts and mounts again: the journal is replayed, as at a boot. Nothing may use it.
    ///
    /// # Errors
    /// When it stays busy, or the image cannot be mounted.
    pub fn remount(&self) -> Result<()> {
        self.detach()?;
        self.attach()
    }

    fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    fn attach(&self) -> Result<()> {
        let options = ["-o", "loop,commit=300"].map(OsStr::new);
        let paths = [self.image(), self.path()];
        run("mount", options.into_iter().chain(paths.iter().map(|path| path.as_os_str())))
    }

    fn detach(&self) -> Result<()> {
        Deadline::after(UNMOUNT_DEADLINE)
            .wait_for("the unmount", || Ok(run("umount", [self.path().as_os_str()]).ok()))
    }
}

impl Switch {
    /// Cuts the power. The processes that use the mount see EIO from then on.
    ///
    /// # Errors
    /// When the ioctl is refused.
    pub fn cut(mut self, kind: CutKind) -> Result<Cut> {
        let mut commands = self.commands.take().context("a switch works once")?;
        let command: &[u8] = match kind {
            CutKind::Everything => b"shutdown\nquit\n",
            CutKind::DataAlone => b"shutdown -f\nquit\n",
        };
        let issued = Instant::now();
        commands.write_all(command)?;
        drop(commands);
        let (mut said, mut error) = (String::new(), String::new());
        if let Some(output) = &mut self.child.stdout {
            output.read_to_string(&mut said)?;
        }
        let done = Instant::now();
        if let Some(errors) = &mut self.child.stderr {
            errors.read_to_string(&mut error)?;
        }
        let status = self.child.wait()?;
        // It ends with 0 also when the ioctl failed; it then says so.
        if !status.success() || !error.is_empty() {
            bail!("xfs_io ended with {status}: {}{}", said.trim(), error.trim());
        }
        Ok(Cut { issued, done })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        discard(&self.root);
    }
}

/// Whether loop mounts can be made and cut here, found out by doing it once.
///
/// # Errors
/// Says what is missing and what would provide it.
pub fn available() -> std::result::Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("loop mounts need root: run it with sudo".to_owned()));
    }
    let tools = [
        ("mkfs.ext4", "e2fsprogs"),
        ("mount", "mount"),
        ("umount", "mount"),
        ("xfs_io", "xfsprogs"),
    ];
    for (tool, package) in tools {
        if Command::new(tool).arg("-V").output().is_err() {
            return Err(Missing(format!("{tool} is not installed: apt-get install {package}")));
        }
    }
    LoopMount::create(TRIAL_BYTES)
        .and_then(|mount| mount.arm()?.cut(CutKind::Everything))
        .map_err(|error| Missing(format!("a loop mount cannot be made and cut here: {error:#}")))?;
    Ok(())
}

/// Unmounts (lazily, whatever uses it) and deletes.
fn discard(root: &Path) {
    let mounted = root.join("mount");
    // Fails when it is not mounted, which is as well.
    let _ = Command::new("umount").arg("-l").arg(&mounted).output();
    // While something is still mounted there, deleting would delete the wrong files.
    if !is_mounted(&mounted) {
        let _ = fs::remove_dir_all(root);
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|place| Path::new(place) == path))
}

/// Removes what runs that were ended by force left behind: marked directories of dead processes.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(MARKER)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            discard(&entry.path());
        }
    }
}

fn run<'a>(tool: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let output = Command::new(tool)
        .args(args)
        .output()
        .with_context(|| format!("running {tool}, which must be installed"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{tool} ended with {}: {}", output.status, said.trim());
    }
    Ok(())
}
