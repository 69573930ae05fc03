//! Runs hot-plug scripts and boot loaders for a process that gives up its rights.
//!
//! A script needs what such a process must not have: new programs, the network, connections to other daemons. A boot loader is to have
//! less than that process, and only a process with rights can take so much away. So the process first
//! makes a child that keeps all rights and does one thing: it runs the programs that it is asked for. The child has no file open but
//! its end of a socket, and reads nothing of a guest. Each request names a program, which the child checks itself. It ends with its
//! parent, and so does the process of a program under way. What a script has started goes on: the kernel ends the script's own process
//! alone. A boot loader ends with all that it has started.
//!
//! A request and a reply are one packet each: numbers and texts, each text with its length before it. The disk of a boot loader, and the
//! files that it has left, go with them. A reply has no number, so none may come late: after a failure the socket is shut down.

use std::ffi::{CStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{
    Child, DISK_INSIDE, EXTRACTED_FILES_MAX, Ended, Extracted, Extraction, Given, Launch, OpenFile,
    Spawn,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::confine::close_all_but;
use crate::extract::extract;
use crate::process::wait_for;
use crate::spawn::SystemSpawn;

/// Name of the child, as `top` shows it.
const NAME: &CStr = c"xyl-scripts";
/// Largest packet in bytes. The texts of a script have 255 bytes each.
const PACKET_MAX_BYTES: usize = 32 << 10;
/// The most texts of a request.
const TEXTS_MAX: usize = 64;
/// Time beyond a script's own limit in which its reply has to come.
const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// The exit code of a program that a signal has ended, in a reply.
const BY_SIGNAL: u64 = u64::MAX;
/// The exit code of the child after a panic.
const PANICKED: libc::c_int = 101;
/// A request: run a hot-plug script, or a program that reads a guest's disk ([`Spawn::extract`]).
const SCRIPT: u64 = 0;
const EXTRACTION: u64 = 1;
/// A reply: the program has ended.
const ENDED: u64 = 0;
/// A reply: it was not run, or took too long.
const TOO_LONG: u64 = 1;
const NOT_RUN: u64 = 2;

/// A packet, and the files that go with it.
type Packet = (Vec<u8>, Vec<OwnedFd>);

/// Starts programs as [`SystemSpawn`] does, but has scripts and boot loaders run by a child with all rights.
pub struct ScriptRunner {
    socket: OwnedFd,
}

impl fmt::Debug for ScriptRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptRunner({})", self.socket.as_raw_fd())
    }
}

impl ScriptRunner {
    /// Makes the child. It runs what `check` lets through. The process must have one thread.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(check: fn(&Launch) -> io::Result<()>) -> io::Result<ScriptRunner> {
        let (ours, childs) = pair()?;
        let parent = std::process::id();
        // SAFETY: the process has one thread, so no lock is held in the child. The child runs `serve_all`, and never returns: no value of
        // this process is dropped there.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => serve_all(&childs, parent, check),
            _ => Ok(ScriptRunner { socket: ours }),
        }
    }

    /// Whether the child is there for a request.
    pub fn is_there(&self) -> bool {
        // Between requests there is nothing to read but the end.
        let ended = wait_for([self.socket.as_fd(); 2], false, Duration::ZERO);
        matches!(ended, Ok([false, _]))
    }

    /// Asks for a program, and waits for its end, but not longer than `limit`.
    fn ask(
        &self,
        request: &[u8],
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<Extracted> {
        match self.reply_to(request, files, limit) {
            Ok(ended) => ended,
            Err(error) => {
                // The reply may come late: it must not be that to the next request.
                shut_down(&self.socket);
                Err(io::Error::new(io::ErrorKind::BrokenPipe, error))
            }
        }
    }

    /// The reply to a request.
    fn reply_to(
        &self,
        request: &[u8],
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<io::Result<Extracted>> {
        send(&self.socket, request, files)?;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let [has_reply, _] = wait_for([self.socket.as_fd(); 2], false, left)?;
            if has_reply {
                break;
            }
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let packet = receive(&self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        read_reply(packet).ok_or(io::ErrorKind::InvalidData.into())
    }
}

impl Spawn for ScriptRunner {
    /// [`io::ErrorKind::BrokenPipe`]: the child is gone, or has not replied in time. It replies to nothing more then.
    fn run(&self, launch: &Launch, limit: Duration) -> io::Result<Ended> {
        match launch.is_script() {
            true => {
                let request = Request::of(launch, SCRIPT, limit)?;
                let replied = self.ask(&request, &[], limit + REPLY_LIMIT)?;
                Ok(replied.ended)
            }
            false => SystemSpawn.run(launch, limit),
        }
    }

    fn start(&self, launch: &Launch, given: &Given<'_>) -> io::Result<Rc<dyn Child>> {
        SystemSpawn.start(launch, given)
    }

    /// [`io::ErrorKind::BrokenPipe`] as for a script. A monitor cancels nothing.
    fn extract(&self, extraction: &Extraction<'_>) -> io::Result<Extracted> {
        let limit = extraction.limit;
        let disk = extraction.disk.descriptor();
        let disk = disk.ok_or(io::ErrorKind::InvalidInput)?;
        let request = Request::of(extraction.launch, EXTRACTION, limit)?;
        self.ask(&request, &[disk], limit + REPLY_LIMIT)
    }
}

/// The child. It goes on with nothing of its parent, also after a panic.
fn serve_all(socket: &OwnedFd, parent: u32, check: fn(&Launch) -> io::Result<()>) -> ! {
    let serve = AssertUnwindSafe(|| serve_parent(socket, parent, check));
    let code = match std::panic::catch_unwind(serve) {
        Ok(()) => 0,
        Err(_) => PANICKED,
    };
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Carries out requests until the parent has closed the socket.
fn serve_parent(socket: &OwnedFd, parent: u32, check: fn(&Launch) -> io::Result<()>) {
    // SAFETY: the calls take numbers and a constant. The parent may have ended before the first one: then this process has another
    // parent.
    let is_bound = unsafe {
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid().unsigned_abs() == parent
    };
    // Among the files is the lock of the VM's monitor: it must not outlive the monitor here.
    if is_bound && close_all_but(socket.as_raw_fd()) {
        let _ = crate::program::give_back();
        while let Ok(Some(packet)) = receive(socket) {
            let result = serve(packet, check);
            let files = files_of(&result).iter().map(|(_, file)| file.as_fd());
            let files: Vec<BorrowedFd<'_>> = files.collect();
            if send(socket, &reply_of(&result), &files).is_err() {
                break;
            }
        }
    }
}

fn serve((bytes, files): Packet, check: fn(&Launch) -> io::Result<()>) -> io::Result<Extracted> {
    let Request { launch, limit } = Request::read(&bytes).ok_or(io::ErrorKind::InvalidInput)?;
    check(&launch)?;
    match (launch.is_script(), files.into_iter().next()) {
        (true, None) => Ok(Extracted {
            ended: SystemSpawn.run(&launch, limit)?,
            files: Vec::new(),
        }),
        (false, Some(disk)) => {
            let disk = OpenFile::handed_over(Path::new(DISK_INSIDE), disk)?;
            extract(&Extraction {
                launch: &launch,
                disk: &disk,
                limit,
                is_cancelled: &|| false,
            })
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A request: its kind, time limit, program, arguments, variables.
struct Request {
    launch: Launch,
    limit: Duration,
}

impl Request {
    fn of(launch: &Launch, kind: u64, limit: Duration) -> io::Result<Vec<u8>> {
        let variables = launch.script_variables().unwrap_or_default();
        let mut packet = Vec::new();
        put_number(&mut packet, kind);
        put_number(&mut packet, limit.as_millis() as u64);
        put_number(&mut packet, launch.arguments().len() as u64);
        put_number(&mut packet, variables.len() as u64);
        put_text(&mut packet, launch.program().as_os_str().as_bytes());
        for argument in launch.arguments() {
            put_text(&mut packet, argument.as_bytes());
        }
        for (name, value) in variables {
            put_text(&mut packet, name.as_bytes());
            put_text(&mut packet, value.as_bytes());
        }
        match packet.len() <= PACKET_MAX_BYTES && launch.arguments().len() <= TEXTS_MAX {
            true => Ok(packet),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The request of a packet; `None` for a packet that is none of this module.
    fn read(packet: &[u8]) -> Option<Request> {
        let mut rest = packet;
        let is_script = match take_number(&mut rest)? {
            SCRIPT => true,
            EXTRACTION => false,
            _ => return None,
        };
        let limit = Duration::from_millis(take_number(&mut rest)?);
        let nr_arguments = take_count(&mut rest, TEXTS_MAX)?;
        let nr_variables = take_count(&mut rest, TEXTS_MAX)?;
        let program = PathBuf::from(take_text(&mut rest)?);
        let mut arguments = Vec::new();
        for _ in 0..nr_arguments {
            arguments.push(take_text(&mut rest)?);
        }
        let mut variables = Vec::new();
        for _ in 0..nr_variables {
            variables.push((take_text(&mut rest)?, take_text(&mut rest)?));
        }
        let launch = Launch::new(&program).ok()?.args(arguments);
        let launch = match is_script {
            true => launch.as_script(variables),
            false => launch,
        };
        Some(Request { launch, limit })
    }
}

/// The packet of a reply. The files of the result go with it.
fn reply_of(result: &io::Result<Extracted>) -> Vec<u8> {
    let (kind, code, said) = match result {
        Ok(Extracted { ended, .. }) => {
            let code = ended.code.and_then(|code| u64::try_from(code).ok());
            (ENDED, code.unwrap_or(BY_SIGNAL), ended.errors.clone())
        }
        Err(error) => {
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => TOO_LONG,
                _ => NOT_RUN,
            };
            (kind, 0, error.to_string().into_bytes())
        }
    };
    let mut packet = Vec::new();
    put_number(&mut packet, kind);
    put_number(&mut packet, code);
    let most = said.len().min(PACKET_MAX_BYTES / 2);
    put_text(&mut packet, said.get(..most).unwrap_or_default());
    let files = files_of(result);
    put_number(&mut packet, files.len() as u64);
    for (name, _) in files {
        put_text(&mut packet, name.as_bytes());
    }
    packet
}

fn files_of(result: &io::Result<Extracted>) -> &[(String, File)] {
    match result {
        Ok(extracted) => &extracted.files,
        Err(_) => &[],
    }
}

fn read_reply((bytes, files): Packet) -> Option<io::Result<Extracted>> {
    let mut rest = bytes.as_slice();
    let (kind, code) = (take_number(&mut rest)?, take_number(&mut rest)?);
    let said = take_text(&mut rest)?.into_vec();
    let nr_files = take_count(&mut rest, EXTRACTED_FILES_MAX)?;
    if nr_files != files.len() {
        return None;
    }
    let mut named = Vec::new();
    for file in files {
        let name = take_text(&mut rest)?.into_string().ok()?;
        named.push((name, File::from(file)));
    }
    let error = |kind| {
        let text = String::from_utf8_lossy(&said).into_owned();
        Some(Err(io::Error::new(kind, text)))
    };
    match kind {
        ENDED => Some(Ok(Extracted {
            ended: Ended {
                code: i32::try_from(code).ok(),
                errors: said,
            },
            files: named,
        })),
        TOO_LONG => error(io::ErrorKind::TimedOut),
        _ => error(io::ErrorKind::Other),
    }
}

/// The number of the texts that follow.
fn take_count(packet: &mut &[u8], most: usize) -> Option<usize> {
    let count = usize::try_from(take_number(packet)?).ok()?;
    (count <= most).then_some(count)
}

fn put_number(packet: &mut Vec<u8>, number: u64) {
    packet.extend_from_slice(&number.to_le_bytes());
}

fn put_text(packet: &mut Vec<u8>, text: &[u8]) {
    put_number(packet, text.len() as u64);
    packet.extend_from_slice(text);
}

fn take_number(packet: &mut &[u8]) -> Option<u64> {
    let (number, rest) = packet.split_first_chunk()?;
    *packet = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_text(packet: &mut &[u8]) -> Option<OsString> {
    let length = usize::try_from(take_number(packet)?).ok()?;
    let (text, rest) = packet.split_at_checked(length)?;
    *packet = rest;
    Some(OsString::from_vec(text.to_vec()))
}

/// Two ends of a socket that keeps packets apart.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the call writes two descriptors, which `ends` has room for.
    match unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has made both for us, and nobody else has them.
        _ => Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }),
    }
}

fn send(socket: &OwnedFd, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(EXTRACTED_FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let packet = [IoSlice::new(packet)];
    sendmsg(socket, &packet, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Ends the socket for both ends. The child may be gone already.
fn shut_down(socket: &OwnedFd) {
    // SAFETY: the call takes numbers.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// The next packet with its files; `None` if the other end is closed.
fn receive(socket: &OwnedFd) -> io::Result<Option<Packet>> {
    let mut packet = vec![0; PACKET_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(EXTRACTED_FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let slice = &mut [IoSliceMut::new(&mut packet)];
        match recvmsg(socket, slice, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    packet.truncate(received.bytes);
    Ok((received.bytes > 0).then_some((packet, files)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::image_of_test;
    use crate::process::Process;
    use crate::rights::{Network, Programs, give_up_rights};

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(text: &str) -> Launch {
        let shell = Launch::new(Path::new("/bin/sh")).unwrap();
        let variables = vec![("XENBUS_TYPE".into(), "vif".into())];
        shell.args(["-c", text]).as_script(variables)
    }

    #[test]
    fn requests_and_replies_are_read_as_they_were_written() {
        let launch = shell("exit 0");
        let packet = Request::of(&launch, SCRIPT, LIMIT).unwrap();
        let read = Request::read(&packet).unwrap();
        assert_eq!((&read.launch, read.limit), (&launch, LIMIT));
        for cut in 0..packet.len() {
            assert!(Request::read(&packet[..cut]).is_none(), "{cut}");
        }
        for code in [Some(3), None] {
            let read = read_reply((reply_of(&Ok(ended(code))), Vec::new()));
            let read = read.unwrap().unwrap().ended;
            assert_eq!((read.code, read.errors), (code, b"why".to_vec()));
        }
        // A name without its file.
        let mut left = ended(Some(0));
        let file = || File::open("/dev/null").unwrap();
        left.files.push(("kernel".to_owned(), file()));
        let reply = reply_of(&Ok(left));
        assert!(read_reply((reply.clone(), Vec::new())).is_none());
        let read = read_reply((reply, vec![file().into()])).unwrap().unwrap();
        assert_eq!(read.files[0].0, "kernel");
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::Other] {
            let reply = reply_of(&Err(kind.into()));
            let read = read_reply((reply, Vec::new())).unwrap();
            assert_eq!(read.unwrap_err().kind(), kind);
        }
    }

    fn ended(code: Option<i32>) -> Extracted {
        let errors = b"why".to_vec();
        Extracted {
            ended: Ended { code, errors },
            files: Vec::new(),
        }
    }

    /// Runs a check in a child that may have one thread. Returns its exit code.
    fn in_child(check: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child uses no lock that another thread may hold but the allocator's, and ends without a return.
        match unsafe { libc::fork() } {
            // SAFETY: the call takes a number.
            0 => unsafe { libc::_exit(check()) },
            pid => Process::of_child(pid).unwrap().wait().unwrap().unwrap(),
        }
    }

    #[test]
    fn a_process_without_rights_has_scripts_run_with_all_of_them() {
        let code = in_child(|| {
            let Ok(runner) = ScriptRunner::start(|_| Ok(())) else {
                return 100;
            };
            if give_up_rights(Network::None, Programs::None).is_err() {
                return 101;
            }
            // What a script may do, and this process may not: a new program, with the right to get more rights.
            let script = "grep -q '^NoNewPrivs:\t0$' /proc/self/status && echo $XENBUS_TYPE";
            let ended = runner.run(&shell(script), LIMIT);
            let is_right =
                ended.is_ok_and(|ended| ended.code == Some(0) && ended.errors == b"vif\n");
            let late = runner.run(&shell("sleep 1000"), Duration::from_millis(50));
            let is_late = late.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
            let own = SystemSpawn.run(&shell("exit 0"), LIMIT);
            let is_refused = !own.is_ok_and(|ended| ended.code == Some(0));
            // It has one file of its own; the others are those of the shell.
            let files = runner.run(&shell("ls /proc/$PPID/fd | wc -l"), LIMIT);
            let is_alone = files.is_ok_and(|ended| ended.errors.trim_ascii() <= b"6".as_slice());
            i32::from(!is_right)
                | i32::from(!is_late) << 1
                | i32::from(!is_refused) << 2
                | i32::from(!is_alone) << 3
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_process_without_rights_gets_the_files_of_a_boot_loader() {
        let Some(image) = image_of_test(b"kernel of the guest") else {
            return;
        };
        let code = in_child(|| {
            let Ok(runner) = ScriptRunner::start(|_| Ok(())) else {
                return 100;
            };
            if give_up_rights(Network::None, Programs::None).is_err() {
                return 101;
            }
            let shell = |text: &str| {
                let shell = Launch::new(Path::new("/bin/sh")).unwrap();
                shell.args(["-c", text])
            };
            let extract = |text: &str| {
                runner.extract(&Extraction {
                    launch: &shell(text),
                    disk: &image,
                    limit: LIMIT,
                    is_cancelled: &|| false,
                })
            };
            let found = extract("head -c 19 /disk >/output/kernel").map(|extracted| {
                let mut files = extracted.files.into_iter();
                let kernel = files.find(|(name, _)| name == "kernel");
                kernel.and_then(|(_, file)| io::read_to_string(file).ok())
            });
            let is_right = found.is_ok_and(|found| found.as_deref() == Some("kernel of the guest"));
            let failed = extract("exit 3");
            let is_failed = failed.is_ok_and(|failed| failed.ended.code == Some(3));
            i32::from(!is_right) | i32::from(!is_failed) << 1
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn what_the_check_refuses_is_not_run() {
        let code = in_child(|| {
            let refuse = |_: &Launch| Err(io::ErrorKind::PermissionDenied.into());
            let runner = ScriptRunner::start(refuse);
            let ended = runner.and_then(|runner| runner.run(&shell("exit 0"), LIMIT));
            i32::from(ended.is_ok())
        });
        assert_eq!(code, 0);
    }

    /// The exit code of this process's only child.
    fn code_of_child() -> i32 {
        let mut status = 0;
        // SAFETY: the call writes a number, which is ours and outlives it.
        match unsafe { libc::waitpid(-1, &raw mut status, 0) } {
            -1 => -1,
            _ => libc::WEXITSTATUS(status),
        }
    }

    #[test]
    fn a_child_that_panics_ends_and_no_request_is_replied_to() {
        let code = in_child(|| {
            let Ok(runner) = ScriptRunner::start(|_| panic!("as the test wants it")) else {
                return 100;
            };
            let was_there = runner.is_there();
            let is_broken = || {
                let ended = runner.run(&shell("exit 0"), LIMIT);
                ended.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            };
            let is_right = was_there && is_broken() && is_broken() && !runner.is_there();
            i32::from(!is_right) | i32::from(code_of_child() != PANICKED) << 1
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_late_reply_is_none_to_the_next_request() {
        let (ours, childs) = pair().unwrap();
        let runner = ScriptRunner { socket: ours };
        let request = Request::of(&shell("exit 0"), SCRIPT, LIMIT).unwrap();
        assert!(runner.is_there());
        let soon = Duration::from_millis(10);
        let late = runner.ask(&request, &[], soon).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        let _ = send(&childs, &reply_of(&Ok(ended(Some(0)))), &[]);
        let next = runner.ask(&request, &[], LIMIT).unwrap_err();
        assert_eq!(next.kind(), io::ErrorKind::BrokenPipe);
        assert!(!runner.is_there());
    }

    /// A script under way ends with the process that has asked for it.
    #[test]
    fn the_child_and_its_script_end_with_their_parent() {
        let file = std::env::temp_dir().join(format!("xen-sys-runner-{}", std::process::id()));
        let text = format!("echo $$ >{}; exec sleep 1000", file.display());
        let launch = shell(&text);
        // SAFETY: as in `in_child`.
        let pid = match unsafe { libc::fork() } {
            0 => {
                let runner = ScriptRunner::start(|_| Ok(()));
                let _ = runner.and_then(|runner| runner.run(&launch, LIMIT));
                // SAFETY: the call takes a number.
                unsafe { libc::_exit(0) }
            }
            pid => pid,
        };
        let asker = Process::of_child(pid).unwrap();
        let deadline = Instant::now() + LIMIT;
        let script = loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(script) = text.trim().parse::<i32>() {
                break script;
            }
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        };
        asker.kill().unwrap();
        asker.wait().unwrap();
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{script}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z"))
        };
        while runs() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(&file).unwrap();
    }
}
