//! Why a command failed, and what the shell is told.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use xen_port::HvError;
use xl_cfg::{Code, Report, Severity};
use xyl_engine::EngineError;

use crate::console::ConsoleError;
use crate::json;
use crate::output::stderr_is_terminal;
use crate::shown::Shown;
use crate::tell;
use crate::words::WordError;

/// Outcome of a command.
pub type Outcome = Result<(), Failure>;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Wrong usage.
    Usage,
    /// What a check was to fail on was found.
    Found,
    /// A command or feature of xl that Xyl does not have yet.
    NotThereYet,
    /// `fsck` has found something.
    Leaks,
    /// `fsck` has found something, and removed it.
    Repaired,
    /// `fsck` has found something that could not be removed.
    LeaksLeft,
    /// Ended by a signal: 128 and its number, as a shell reports it.
    Signal(i32),
}

impl Exit {
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Found => 3,
            Exit::NotThereYet => 4,
            Exit::Leaks => 5,
            Exit::Repaired => 6,
            Exit::LeaksLeft => 7,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command word.
    #[error(transparent)]
    Word(#[from] WordError),
    /// A wrong argument that clap could not see.
    #[error("{0}")]
    Usage(String),
    /// Something of xl that is not there yet.
    #[error("{0}")]
    NotThereYet(String),
    /// What a check was to fail on was found.
    #[error("{0}")]
    Found(String),
    /// No Xen.
    #[error(
        "this is not a Xen host: {path} is not there\nboot this machine into Xen, and in domain 0 load the driver (`modprobe xen-privcmd`); `xyl -N create FILE` checks a configuration anywhere"
    )]
    NotXen {
        /// The device that is missing.
        path: String,
    },
    /// The engine's errors, and through it those of Xen and xenstore.
    #[error("{0}")]
    Engine(EngineError),
    /// The console's.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// What was asked cannot be.
    #[error("{0}")]
    Refused(String),
    /// A file or stream.
    #[error("cannot {op}: {source}")]
    Io {
        /// What was tried.
        op: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads the output any more: no failure, and nothing to say.
    #[error("the output was closed")]
    BrokenPipe,
    /// All has been said on standard output.
    #[error("see what was printed")]
    Said(Exit),
    /// A signal ended the command: nothing to say.
    #[error("ended by signal {0}")]
    Signal(i32),
    /// The configuration has errors; the text shows them with file, line and column. Nothing in it drives a terminal but
    /// Xyl's own colours.
    #[error("{0}")]
    Configuration(String),
}

impl Failure {
    /// A wrong argument.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(message.into())
    }

    /// Something that cannot be.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::Refused(message.into())
    }

    /// Something that Xyl does not have yet.
    pub fn not_there_yet(message: impl Into<String>) -> Failure {
        Failure::NotThereYet(message.into())
    }

    /// A failure of the system.
    pub fn io(op: impl Into<String>, source: io::Error) -> Failure {
        Failure::Io {
            op: op.into(),
            source,
        }
    }

    /// The failure as the engine's callbacks pass errors on.
    pub fn into_engine_error(self) -> EngineError {
        match self {
            Failure::Engine(error) => error,
            Failure::NotXen { path } => HvError::NotXen { path: path.into() }.into(),
            other => EngineError::Record {
                path: "xyl".into(),
                what: other.to_string(),
            },
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Word(WordError::NotThereYet { .. }) | Failure::NotThereYet(_) => {
                Exit::NotThereYet
            }
            Failure::Word(_) | Failure::Usage(_) => Exit::Usage,
            Failure::Found(_) => Exit::Found,
            Failure::BrokenPipe => Exit::Done,
            Failure::Signal(signal) => Exit::Signal(*signal),
            Failure::Said(exit) => *exit,
            _ => Exit::Failed,
        }
    }

    /// Its text. What was typed, or comes from files or guests, drives no terminal.
    fn for_a_terminal(&self) -> String {
        match self {
            // Xyl's own colours are in it, and nothing else.
            Failure::Configuration(text) => text.clone(),
            other => Shown::lines(&other.to_string()).to_string(),
        }
    }

    fn is_silent(&self) -> bool {
        matches!(
            self,
            Failure::BrokenPipe | Failure::Signal(_) | Failure::Said(_)
        )
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Hypervisor(HvError::NotXen { path }) => not_xen(&path),
            EngineError::Config(error) => Failure::from(error),
            other => Failure::Engine(other),
        }
    }
}

impl From<HvError> for Failure {
    fn from(error: HvError) -> Failure {
        Failure::from(EngineError::from(error))
    }
}

impl From<xenstore::Error> for Failure {
    fn from(error: xenstore::Error) -> Failure {
        Failure::Engine(EngineError::from(error))
    }
}

fn not_xen(path: &Path) -> Failure {
    Failure::NotXen {
        path: path.display().to_string(),
    }
}

impl From<xl_cfg::SourceError> for Failure {
    fn from(error: xl_cfg::SourceError) -> Failure {
        Failure::Configuration(Shown::lines(&error.to_string()).to_string())
    }
}

impl From<xl_cfg::Error> for Failure {
    fn from(error: xl_cfg::Error) -> Failure {
        match error.report() {
            Some(report) => {
                let text = report.render(stderr_is_terminal());
                refused(report, text.trim_end())
            }
            None => Failure::Configuration(Shown::lines(&error.to_string()).to_string()),
        }
    }
}

/// A refused configuration: what is wrong with it in short, then each finding, then a way out.
fn refused(report: &Report, findings: &str) -> Failure {
    let errors = || {
        report
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    };
    let text = format!("{}\n{findings}", report.summary());
    // Another error would stop xl too.
    if !errors().all(|error| error.code == Code::Unsupported) {
        return Failure::Configuration(text);
    }
    let command = match report.sources().main_name() {
        // The settings were arguments, too many to say again.
        "/dev/null" => "xl create".to_owned(),
        file => format!("xl create {}", Shown::line(file)),
    };
    Failure::NotThereYet(format!(
        "{text}\nuse `{command}` for this guest, or take these lines out"
    ))
}

/// Errors of the command's own output.
impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Failure {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Failure::BrokenPipe
        } else {
            Failure::io("write the output", source)
        }
    }
}

/// Tells standard error about a failure; answers with the exit code.
pub fn report(failure: &Failure, as_json: bool) -> ExitCode {
    let exit = failure.exit();
    if !failure.is_silent() {
        let text = if as_json {
            json::line(
                &json!({"error": {"message": failure.to_string(), "exit_code": exit.number()}}),
            )
        } else {
            format!("xyl: error: {}", indented(&failure.for_a_terminal()))
        };
        tell::line(format_args!("{text}"));
    }
    exit.into()
}

/// Lines after the first stand in from the margin.
pub fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}
