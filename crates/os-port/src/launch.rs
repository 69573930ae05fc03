//! Programs that the toolstack starts: [`Launch`] says which, [`Spawn`] starts it.
//!
//! Nothing else starts a program (`clippy.toml` refuses `Command::new`), so each program has the same surroundings. They do
//! not depend on the user's shell:
//!
//! | what | is |
//! |---|---|
//! | program | an absolute path; nothing is searched for in `PATH`, and no shell reads the arguments |
//! | environment | `PATH` as [`SYSTEM_FOLDERS`]; `TZ` and `LANG` of this process; `XYL_HOST` for a simulated host; the variables of a hot-plug script |
//! | working folder | `/` |
//! | files | standard input, output and error, and [`Given::files`]; all others are closed |
//! | umask | 077 |
//! | session | its own (setsid(2)), so no terminal |
//! | signals | none blocked, none ignored, none caught |
//! | resource limits | those of a service; no core file |
//! | scheduling | `SCHED_OTHER`, nice 0 |

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::{Child, OpenFile};

/// Folders of the system's programs, in search order.
pub const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Variables that a program inherits from this process: time zone and language of messages.
const INHERITED: [&str; 2] = ["TZ", "LANG"];
/// The variable that names a simulated host.
const HOST: &str = "XYL_HOST";
/// Bits of a file's mode that let others write to it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A program to start, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    host: Option<OsString>,
    /// The variables of a hot-plug script; `None` for another program.
    variables: Option<Vec<(OsString, OsString)>>,
}

impl Launch {
    /// Names a program by its absolute path.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a path that is not absolute.
    pub fn new(program: &Path) -> io::Result<Launch> {
        if !program.is_absolute() {
            let what = format!("the program's path `{}` is not absolute", program.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Launch {
            program: program.to_owned(),
            args: Vec::new(),
            host: None,
            variables: None,
        })
    }

    /// Finds a program of the system by its name, such as `losetup`. Takes the first one in [`SYSTEM_FOLDERS`] that
    /// root owns and only root can write to.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none, and [`io::ErrorKind::InvalidInput`] for a name with a `/`.
    pub fn of_system(name: &str) -> io::Result<Launch> {
        if name.is_empty() || name.contains('/') {
            let what = format!("`{name}` is no name of a program");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut places = SYSTEM_FOLDERS
            .map(|folder| Path::new(folder).join(name))
            .into_iter();
        match places.find(|place| is_of_root(place)) {
            Some(place) => Launch::new(&place),
            None => {
                let what = format!(
                    "there is no `{name}` of root in {}",
                    SYSTEM_FOLDERS.join(", ")
                );
                Err(io::Error::new(io::ErrorKind::NotFound, what))
            }
        }
    }

    /// Appends arguments to those that it has.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Launch {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs the program on the simulated host `value`, as `XYL_HOST` does.
    pub fn on_host(mut self, value: impl Into<OsString>) -> Launch {
        self.host = Some(value.into());
        self
    }

    /// Makes it a hot-plug script with these variables in its environment. [`Spawn::run`] keeps what such a program writes to its
    /// standard output, too, and the kernel kills it when the process that has started it dies.
    pub fn as_script(mut self, variables: Vec<(OsString, OsString)>) -> Launch {
        self.variables = Some(variables);
        self
    }

    /// The variables of a hot-plug script; `None` for another program.
    pub fn script_variables(&self) -> Option<&[(OsString, OsString)]> {
        self.variables.as_deref()
    }

    /// Whether it is a hot-plug script.
    pub fn is_script(&self) -> bool {
        self.variables.is_some()
    }

    /// The program's path, absolute.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The arguments after the program's name.
    pub fn arguments(&self) -> &[OsString] {
        &self.args
    }

    /// All variables of the program's environment.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let inherited = INHERITED.map(|name| (name.into(), env::var_os(name)));
        let inherited = inherited
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let mut all = vec![(OsString::from("PATH"), SYSTEM_FOLDERS.join(":").into())];
        all.extend(inherited);
        all.extend(self.host.clone().map(|value| (HOST.into(), value)));
        all.extend(self.variables.iter().flatten().cloned());
        all
    }

    /// Program and arguments as text for messages.
    pub fn line(&self) -> String {
        let args = self.args.iter().map(OsString::as_os_str);
        let words = [self.program.as_os_str()].into_iter().chain(args);
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        words.join(" ")
    }
}

/// Whether root owns the file at a path, and only root can write to it.
fn is_of_root(path: &Path) -> bool {
    let is_closed = |metadata: fs::Metadata| {
        metadata.is_file() && metadata.uid() == 0 && metadata.mode() & WRITABLE_BY_OTHERS == 0
    };
    fs::metadata(path).is_ok_and(is_closed)
}

/// Result of a program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// The last [`ERRORS_MAX_BYTES`] bytes of its standard error, and of a script's standard output.
    pub errors: Vec<u8>,
}

/// Number of bytes of standard error that are kept of a program that is run to its end.
pub const ERRORS_MAX_BYTES: usize = 4096;
/// The same for [`Child::said`]. The replies to the commands for [`FILES_MAX`] disks have room.
pub const SAID_MAX_BYTES: usize = 16 << 10;

/// The descriptor of the first of [`Given::files`].
pub const FIRST_FILE: u32 = 4;
/// The most files that a program gets beside its standard ones.
pub const FILES_MAX: usize = 32;

/// The files and limits of a program that runs beside this process, besides its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The file for its output and its errors. Without one they go nowhere.
    pub output: Option<&'a OpenFile>,
    /// Whether the start of its errors is kept for [`Child::said`], in place of `output`. The program must ignore SIGPIPE: what it
    /// writes after the end of this process fails.
    pub keeps_errors: bool,
    /// Whether it reads what [`Child::tell`] writes as its standard input. Its output is kept with its errors then.
    pub takes_commands: bool,
    /// Open files, at most [`FILES_MAX`]. The program has them under the descriptors from [`FIRST_FILE`] on.
    pub files: &'a [&'a OpenFile],
    /// The bounds of a program that a guest may take over.
    pub bounds: Option<Bounds>,
}

/// The bounds of a program that a guest may take over. The kernel refuses it, for ever, hypercalls (each request to `/dev/xen/privcmd`
/// fails with `ENOTTY`; not so for a device model), new processes, and sockets. It can start threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most processes and threads of its user (`RLIMIT_NPROC`).
    pub nr_threads: u64,
    /// The most memory of its own that it can write to, in bytes (`RLIMIT_DATA`).
    pub memory_bytes: u64,
    /// The largest address space, in bytes (`RLIMIT_AS`). The C library reserves much of it for threads, and uses little.
    pub addresses_bytes: u64,
    /// The largest size that it can give a file, in bytes (`RLIMIT_FSIZE`); `None` for any.
    pub file_bytes: Option<u64>,
    /// Whether it shows a guest's display. It can then map the memory of guests: [`Child::keep_to_domain`] leaves it that of its own.
    /// It can also make TCP sockets, but not connect one.
    pub has_display: bool,
    /// Whether it is the device model of an HVM guest. It makes hypercalls until it has restricted its files of privcmd to its domain, which
    /// [`Child::keep_to_domain`] makes sure of before the guest runs. It cannot change its limits.
    pub is_device_model: bool,
}

/// Path of the guest's disk for a program of [`Spawn::extract`].
pub const DISK_INSIDE: &str = "/disk";
/// Folder into which such a program writes. It has no file but [`ANSWER_INSIDE`], and only this run of the program uses it.
pub const OUTPUT_INSIDE: &str = "/output";
/// An empty file in that folder, to which the program writes what it has found.
pub const ANSWER_INSIDE: &str = "/output/answer";
/// The most files that such a program may leave in its folder.
pub const EXTRACTED_FILES_MAX: usize = 8;

/// A program for [`Spawn::extract`].
#[derive(Clone, Copy)]
pub struct Extraction<'a> {
    /// The program, with its arguments.
    pub launch: &'a Launch,
    /// The guest's disk: a block device or an image.
    pub disk: &'a OpenFile,
    /// The longest time that it has.
    pub limit: Duration,
    /// Whether it is to be killed before that. It is asked again and again.
    pub is_cancelled: &'a dyn Fn() -> bool,
}

/// The end of a program of [`Spawn::extract`], and what it has left.
#[derive(Debug)]
pub struct Extracted {
    /// Its end, and what it has said.
    pub ended: Ended,
    /// The regular files of its folder, by their names; none if it has failed, or left more than [`EXTRACTED_FILES_MAX`]. No other process can write to them or find them.
    pub files: Vec<(String, File)>,
}

/// The port that starts programs. `xen-sys` has the real one; a simulated host can answer by itself.
pub trait Spawn: std::fmt::Debug {
    /// Runs a program until it ends, without input, and discards its output, but for a script's. Kills a program that runs longer
    /// than `limit`, with all processes of its group.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if it was killed; the system's error if it could not be started.
    fn run(&self, launch: &Launch, limit: Duration) -> io::Result<Ended>;

    /// Starts a program that runs beside this process, without input.
    ///
    /// # Errors
    /// The system's error if it could not be started; [`io::ErrorKind::InvalidInput`] for too many files.
    fn start(&self, launch: &Launch, given: &Given<'_>) -> io::Result<Rc<dyn Child>>;

    /// Runs a program that reads a guest's disk, such as a boot loader, until it ends. It is a user of its own without any right. Its
    /// root has the system's programs, the disk ([`DISK_INSIDE`]), which it can only read, and a folder in memory ([`OUTPUT_INSIDE`]).
    /// It has no network, and no other process is there for it. The program, and all that it has started, is killed at its time limit,
    /// when it is cancelled, and when this process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] and [`io::ErrorKind::Interrupted`] if it was killed for its time limit, or since it was cancelled;
    /// [`io::ErrorKind::InvalidInput`] for a disk that is no file of the system; the system's error if it could not be started.
    fn extract(&self, extraction: &Extraction<'_>) -> io::Result<Extracted> {
        let _ = extraction;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Runs a program that must succeed.
///
/// # Errors
/// As [`Spawn::run`], and the program's standard error if its exit code is not 0.
pub fn run_to_success(spawn: &dyn Spawn, launch: &Launch, limit: Duration) -> io::Result<()> {
    let Ended { code, errors } = spawn.run(launch, limit)?;
    if code == Some(0) {
        return Ok(());
    }
    let end = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Err(io::Error::other(format!(
        "`{}` failed with {end}: {}",
        launch.line(),
        String::from_utf8_lossy(&errors).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_absolute_path_or_one_of_the_system() {
        let invalid = |refused: io::Result<Launch>| refused.unwrap_err().kind();
        assert_eq!(
            invalid(Launch::new(Path::new("ls"))),
            io::ErrorKind::InvalidInput
        );
        for name in ["", "/bin/ls", "../ls"] {
            assert_eq!(
                invalid(Launch::of_system(name)),
                io::ErrorKind::InvalidInput
            );
        }
        let missing = Launch::of_system("no-such-program");
        assert_eq!(invalid(missing), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_environment_is_built_and_not_inherited() {
        let launch = Launch::new(Path::new("/bin/true"))
            .unwrap()
            .args(["-a", "b"]);
        let names = |launch: &Launch| {
            let mut names: Vec<_> = launch
                .environment()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            names.retain(|name| name != "TZ" && name != "LANG");
            names
        };
        assert_eq!(names(&launch), ["PATH"]);
        assert_eq!(
            names(&launch.clone().on_host("sim:/x")),
            ["PATH", "XYL_HOST"]
        );
        assert_eq!(launch.line(), "/bin/true -a b");
    }
}
