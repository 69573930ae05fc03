//! The real files, locks, clocks and process: system calls without state of their own.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SendError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::{Append, Cage, Clock, Files, Lock, OpenFile, Opening, Process, Readiness, Untrusted};

/// Mode of new files: only root can read and write.
const FILE_MODE: u32 = 0o600;
/// Mode of new parent folders.
const FOLDER_MODE: u32 = 0o755;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        read_open(file, &metadata, max_bytes)
    }

    fn read_trusted(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        // A FIFO could block this process, and the open of a device may act: the file is opened after the look at it.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let metadata = found.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        check_trusted(&metadata)?;
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        read_open(file, &metadata, max_bytes)
    }

    fn open(&self, path: &Path, opening: &Opening<'_>) -> io::Result<OpenFile> {
        crate::open::open(path, opening)
    }

    fn keep_in_memory(&self, name: &str, bytes: &[u8]) -> io::Result<OpenFile> {
        crate::open::keep_in_memory(name, bytes)
    }

    fn listen(&self, path: &Path) -> io::Result<OpenFile> {
        crate::open::listen(path)
    }

    fn make_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        crate::way::make_link(path, target)
    }

    fn target_of_link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        match fs::read_link(path) {
            Ok(target) => Ok(Some(target)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        options.mode(FILE_MODE).open(path)?.write_all(bytes)
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(FILE_MODE);
        Ok(Box::new(Appended(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE).create(path)
    }

    fn make_cage(&self, cage: &Cage<'_>) -> io::Result<()> {
        cage.make()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let names: io::Result<Vec<_>> = names.collect();
        // Names that are no text are none of the toolstack's.
        Ok(names?
            .into_iter()
            .flat_map(|name| name.into_string())
            .collect())
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(folder)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>> {
        loop {
            let file = open_lock(path)?;
            let Some(file) = lock_by(file, deadline)? else {
                return Ok(None);
            };
            if let Some(lock) = SystemLock::if_current(path, file) {
                return Ok(Some(Box::new(lock)));
            }
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        // Shared, so that two who look at once do not take each other for the holder.
        let file = File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn read_open(file: File, metadata: &Metadata, max_bytes: u64) -> io::Result<Vec<u8>> {
    let limit = max_bytes.saturating_add(1);
    // Room for the whole file and a byte more: reading it takes two system calls then.
    let mut bytes = Vec::with_capacity(metadata.len().min(max_bytes) as usize + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Checks a file's owner and mode as sudo does for its own files. Root's group counts as root.
fn check_trusted(metadata: &Metadata) -> Result<(), Untrusted> {
    const WRITABLE_BY_GROUP: u32 = 0o020;
    const WRITABLE_BY_ALL: u32 = 0o002;
    let (uid, mode) = (metadata.uid(), metadata.mode());
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(Untrusted::OwnedBy { uid });
    }
    let group = if metadata.gid() == 0 {
        0
    } else {
        WRITABLE_BY_GROUP
    };
    if mode & (WRITABLE_BY_ALL | group) != 0 {
        return Err(Untrusted::WritableByOthers { mode });
    }
    Ok(())
}

struct Appended(File);

impl Append for Appended {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn cut_to(&mut self, size_bytes: u64) -> io::Result<()> {
        self.0.set_len(size_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Takes the lock of a lock file as an open file. The caller gives it to a new process as its standard input, so that
/// process has the lock from its start. Waits until `deadline` for another holder or for a process that only looks;
/// without a deadline it does not wait. `None` if the lock is still taken.
pub fn lock_for_child(path: &Path, deadline: Option<Instant>) -> io::Result<Option<File>> {
    lock_by(open_lock(path)?, deadline)
}

/// The lock that [`lock_for_child`] gave to this process; `None` if its standard input is none.
pub fn lock_of_stdin(path: &Path) -> Option<Box<dyn Lock>> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().ok()?;
    let lock = SystemLock::if_current(path, File::from(stdin))?;
    // The descriptor has the lock already, so this does not take a second one.
    lock.file.try_lock().ok()?;
    Some(Box::new(lock))
}

/// An advisory lock file that disappears when it is released.
///
/// The holder removes the file before it closes it. So a process that gets the lock must check that its file is still
/// the one at the path. libxl's `libxl__lock_file` follows the same protocol, so these locks work between both
/// toolstacks.
struct SystemLock {
    path: PathBuf,
    is_left: bool,
    file: File,
}

impl SystemLock {
    /// Returns the lock, or `None` if its last holder has removed the file.
    fn if_current(path: &Path, file: File) -> Option<SystemLock> {
        let ours = file.metadata().ok()?;
        let there = fs::metadata(path).ok()?;
        let same = ours.dev() == there.dev() && ours.ino() == there.ino();
        same.then(|| SystemLock {
            path: path.to_owned(),
            is_left: false,
            file,
        })
    }
}

impl Lock for SystemLock {
    fn leave(mut self: Box<Self>) {
        self.is_left = true;
    }
}

impl Drop for SystemLock {
    fn drop(&mut self) {
        if !self.is_left {
            // A file that cannot be removed does no harm. Closing the descriptor releases the lock.
            let _ = fs::remove_file(&self.path);
        }
        // A child that another thread has just forked has the file too until it executes its program: closing
        // alone would leave the lock to it until then.
        let _ = self.file.unlock();
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.mode(FILE_MODE);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            SystemFiles.create_folder(folder)?;
            options.open(path)
        }
        other => other,
    }
}

/// The file, locked; `None` if it is held by another beyond the deadline.
fn lock_by(file: File, deadline: Option<Instant>) -> io::Result<Option<File>> {
    match (file.try_lock(), deadline) {
        (Ok(()), _) => Ok(Some(file)),
        (Err(TryLockError::Error(error)), _) => Err(error),
        (Err(TryLockError::WouldBlock), None) => Ok(None),
        (Err(TryLockError::WouldBlock), Some(deadline)) => wait_for_lock(file, deadline),
    }
}

/// The kernel cannot wait for a lock with a deadline, so a thread waits. A thread that gets the lock after the
/// deadline releases it, as [`SystemLock`] does.
fn wait_for_lock(file: File, deadline: Instant) -> io::Result<Option<File>> {
    let (send, receive) = mpsc::sync_channel(0);
    std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || {
            if let Err(SendError(Ok(unwanted))) = send.send(file.lock().map(|()| file)) {
                let _ = unwanted.unlock();
            }
        })?;
    match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(locked) => locked.map(Some),
        Err(_) => Ok(None),
    }
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn calendar(&self) -> SystemTime {
        SystemTime::now()
    }

    fn since_boot_s(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        u64::try_from(now.tv_sec).unwrap_or(0)
    }

    fn wait_until(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left > Duration::ZERO {
            std::thread::sleep(left);
        }
    }

    fn wait_for(&self, awaited: Vec<Readiness<'_>>, deadline: Instant) -> io::Result<()> {
        crate::wait::wait(&awaited, deadline)
    }
}

/// The process that runs this code.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProcess;

impl Process for SystemProcess {
    fn id(&self) -> u32 {
        std::process::id()
    }

    fn is_running(&self, id: u32) -> bool {
        // Not by /proc: with `hidepid` it hides processes from one without capabilities, such as a monitor.
        let id = i32::try_from(id).ok().and_then(Pid::from_raw);
        id.is_some_and(|id| test_kill_process(id) != Err(Errno::SRCH))
    }

    fn started_ticks(&self, id: u32) -> Option<u64> {
        /// Longer than any such file, in bytes.
        const STAT_MAX_BYTES: u64 = 4096;
        let path = format!("/proc/{id}/stat");
        let stat = SystemFiles.read(Path::new(&path), STAT_MAX_BYTES).ok()?;
        started_of(&String::from_utf8_lossy(&stat))
    }

    fn new_uuid(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

/// Field 22 of `/proc/PID/stat`. The program's name, in parentheses, is field 2 and may hold anything.
fn started_of(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_can_change_is_not_trusted() {
        use std::fs::Permissions;
        use std::os::unix::fs::{PermissionsExt, chown};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, "x").unwrap();
        let why = |mode: u32| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = SystemFiles.read_trusted(&path, 9).err()?;
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            error
                .into_inner()?
                .downcast::<Untrusted>()
                .ok()
                .map(|why| *why)
        };
        assert_eq!((why(0o644), why(0o600)), (None, None));
        assert!(matches!(
            why(0o666),
            Some(Untrusted::WritableByOthers { .. })
        ));
        assert!(matches!(
            why(0o646),
            Some(Untrusted::WritableByOthers { .. })
        ));
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(65534), Some(65534)).unwrap();
            assert_eq!(why(0o644), Some(Untrusted::OwnedBy { uid: 65534 }));
            chown(&path, Some(0), Some(65534)).unwrap();
            assert!(matches!(
                why(0o664),
                Some(Untrusted::WritableByOthers { .. })
            ));
        }
    }

    #[test]
    fn one_holder_at_a_time_and_no_file_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/lock");
        let held = SystemFiles.lock(&path, None).unwrap();
        assert!(held.is_some());
        assert!(SystemFiles.lock(&path, None).unwrap().is_none());
        assert!(SystemFiles.is_locked(&path).unwrap());
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(SystemFiles.lock(&path, Some(soon)).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        assert!(SystemFiles.lock(&path, None).unwrap().is_some());
    }

    #[test]
    fn a_lock_that_is_left_is_free_and_its_file_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        SystemFiles.lock(&path, None).unwrap().unwrap().leave();
        assert!(path.exists());
        assert!(!SystemFiles.is_locked(&path).unwrap());
        assert!(SystemFiles.lock(&path, None).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_free_at_once_though_another_has_its_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = lock_for_child(&path, None).unwrap().unwrap();
        let child_before_its_exec = file.try_clone().unwrap();
        let lock = SystemLock::if_current(&path, file).unwrap();
        assert!(SystemFiles.is_locked(&path).unwrap());
        Box::new(lock).leave();
        assert!(!SystemFiles.is_locked(&path).unwrap());
        drop(child_before_its_exec);
    }

    #[test]
    fn who_waits_gets_the_lock_when_it_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = SystemFiles.lock(&path, None).unwrap();
        let (path_there, limit) = (path.clone(), Instant::now() + Duration::from_secs(60));
        let waiter = std::thread::spawn(move || {
            SystemFiles
                .lock(&path_there, Some(limit))
                .unwrap()
                .is_some()
        });
        drop(held);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_child_has_its_lock_from_birth_to_death() {
        use std::process::{Command, Stdio};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = lock_for_child(&path, None).unwrap().unwrap();
        assert!(lock_for_child(&path, None).unwrap().is_none());
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(lock))
            .spawn()
            .unwrap();
        assert!(SystemFiles.is_locked(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!SystemFiles.is_locked(&path).unwrap());
        // The standard input of a test is none.
        assert!(lock_of_stdin(&path).is_none());
    }

    #[test]
    fn files_are_read_with_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        SystemFiles.write(&path, b"12345").unwrap();
        assert_eq!(SystemFiles.read(&path, 5).unwrap(), b"12345");
        let error = SystemFiles.read(&path, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        SystemFiles.append_to(&path).unwrap().append(b"6").unwrap();
        assert_eq!(SystemFiles.read(&path, 9).unwrap(), b"123456");
    }

    #[test]
    fn files_are_made_durably_in_folders_that_are_new() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        crate::create_folder_durably(&SystemFiles, &folder).unwrap();
        let (new, path) = (folder.join("f.new"), folder.join("f"));
        crate::write_durably(&SystemFiles, &new, &path, b"1").unwrap();
        crate::write_durably(&SystemFiles, &new, &path, b"2").unwrap();
        assert_eq!(SystemFiles.read(&path, 9).unwrap(), b"2");
        assert!(!new.exists());
        assert!(SystemFiles.sync(&folder.join("none")).is_err());
    }

    #[test]
    fn what_was_added_last_is_cut_off_and_more_is_added_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut file = SystemFiles.append_to(&path).unwrap();
        file.append(b"12345").unwrap();
        file.cut_to(3).unwrap();
        file.append(b"6").unwrap();
        assert_eq!(SystemFiles.read(&path, 9).unwrap(), b"1236");
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let name = "1 (a) b (c) S 1 2 3";
        let fields: Vec<String> = (7..=23).map(|field| field.to_string()).collect();
        assert_eq!(
            started_of(&format!("{name} {}", fields.join(" "))),
            Some(22)
        );
        assert_eq!(started_of(""), None);
        let own = crate::ProcessId::own(&SystemProcess);
        assert!(own.started_ticks.is_some_and(|ticks| ticks > 0));
        assert!(own.is_running(&SystemProcess));
        let earlier = |started_ticks| crate::ProcessId {
            started_ticks,
            ..own
        };
        assert!(!earlier(own.started_ticks.map(|ticks| ticks - 1)).is_running(&SystemProcess));
        assert!(earlier(None).is_running(&SystemProcess));
    }
}
