//! Why a command failed, and what the shell is told.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use xen_port::HvError;
use xl_cfg::{Code, Diagnostic, Report, Severity};
use xyl_engine::{EngineError, ErrorCode, SettingError};

use crate::console::ConsoleError;
use crate::json;
use crate::output::stderr_has_colours;
use crate::shown::Shown;
use crate::tell::{Kind, Style};
use crate::words::WordError;

/// Outcome of a command.
pub type Outcome = Result<(), Failure>;

/// Exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command succeeded.
    Done,
    /// The command failed.
    Failed,
    /// The command line is wrong.
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
    /// Number for the shell.
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
    /// The kernel does not run under Xen.
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
    /// A console session failed.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// What was asked cannot be.
    #[error("{0}")]
    Refused(String),
    /// A create was cancelled, and taken back whole.
    #[error("cancelled{}: no domain was created, and nothing of it is left", .step.map_or_else(String::new, |step| format!(" at the step `{step}`")))]
    Cancelled {
        /// The step that it had come to.
        step: Option<&'static str>,
    },
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
    /// The configuration has errors.
    #[error("{}", .0.text)]
    Configuration(Box<Rejection>),
}

/// Why a configuration was refused.
#[derive(Debug)]
pub struct Rejection {
    /// Each error with its file, line and column. Nothing in it drives a terminal but Xyl's own colours.
    text: String,
    /// The errors and warnings for programs: an array of objects, or null where the file could not be read.
    findings: Value,
    /// Whether each error is something that Xyl cannot do yet and xl can.
    is_not_there_yet: bool,
}

impl Failure {
    /// A configuration with errors.
    pub fn rejected(report: &Report) -> Failure {
        let findings = report.render(stderr_has_colours());
        let text = format!("{}\n{}", report.summary(), findings.trim_end());
        Failure::rejected_with(report, text, false)
    }

    fn rejected_with(report: &Report, text: String, is_not_there_yet: bool) -> Failure {
        Failure::Configuration(Box::new(Rejection {
            text,
            findings: serde_json::to_value(report).unwrap_or_default(),
            is_not_there_yet,
        }))
    }

    /// A configuration that cannot be read.
    fn unreadable(text: &str) -> Failure {
        Failure::Configuration(Box::new(Rejection {
            text: Shown::lines(text).to_string(),
            findings: Value::Null,
            is_not_there_yet: false,
        }))
    }

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
            Failure::Configuration(rejection) if rejection.is_not_there_yet => Exit::NotThereYet,
            Failure::Engine(error) if error.code() == ErrorCode::NotThereYet => Exit::NotThereYet,
            Failure::Word(_) | Failure::Usage(_) => Exit::Usage,
            Failure::Found(_) => Exit::Found,
            Failure::BrokenPipe => Exit::Done,
            Failure::Signal(signal) => Exit::Signal(*signal),
            Failure::Said(exit) => *exit,
            _ => Exit::Failed,
        }
    }

    /// The kind of the failure, for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Failure::Word(WordError::Ambiguous { .. }) => ErrorCode::AmbiguousCommand,
            Failure::Word(WordError::Unknown { .. }) => ErrorCode::UnknownCommand,
            Failure::Word(WordError::NotThereYet { .. }) | Failure::NotThereYet(_) => {
                ErrorCode::NotThereYet
            }
            Failure::Configuration(rejection) if rejection.is_not_there_yet => {
                ErrorCode::NotThereYet
            }
            Failure::Configuration(_) => ErrorCode::Configuration,
            Failure::Usage(_) => ErrorCode::Usage,
            Failure::Found(_) => ErrorCode::Found,
            Failure::Cancelled { .. } => ErrorCode::Cancelled,
            Failure::NotXen { .. } => ErrorCode::NotXen,
            Failure::Engine(error) => error.code(),
            Failure::Console(ConsoleError::ControlDomain) => ErrorCode::ControlDomain,
            Failure::Console(ConsoleError::NoSuchConsole { .. }) => ErrorCode::NoSuchConsole,
            Failure::Console(_) => ErrorCode::Console,
            Failure::Io { .. } | Failure::BrokenPipe => ErrorCode::Io,
            Failure::Refused(_) | Failure::Said(_) | Failure::Signal(_) => ErrorCode::Refused,
        }
    }

    /// What programs are told of it besides its text: its code, and what is known of step, causes and findings.
    pub fn details(&self) -> Value {
        let mut details = json!({"code": self.code().word()});
        match self {
            Failure::Engine(error) => {
                if let Some(step) = error.step() {
                    json::set(&mut details, "step", step);
                }
                if let EngineError::Setting(setting) = error {
                    json::set(&mut details, "findings", vec![setting_json(setting)]);
                }
                let causes = causes(error);
                if !causes.is_empty() {
                    json::set(&mut details, "causes", causes);
                }
            }
            Failure::Configuration(rejection) if !rejection.findings.is_null() => {
                json::set(&mut details, "findings", rejection.findings.clone());
            }
            Failure::Cancelled { step: Some(step) } => json::set(&mut details, "step", *step),
            Failure::Word(WordError::NotThereYet { instead, .. }) => {
                json::set(&mut details, "remedy", *instead);
            }
            Failure::Word(WordError::Ambiguous { candidates, .. }) => {
                json::set(&mut details, "candidates", candidates.clone());
            }
            _ => {}
        }
        details
    }

    /// Its text. What was typed, or comes from files or guests, drives no terminal.
    fn for_a_terminal(&self) -> String {
        match self {
            // Xyl's own colours are in it, and nothing else.
            Failure::Configuration(rejection) => rejection.text.clone(),
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
        Failure::unreadable(&error.to_string())
    }
}

impl From<xl_cfg::Error> for Failure {
    fn from(error: xl_cfg::Error) -> Failure {
        match error.report() {
            Some(report) => refused(report),
            None => Failure::unreadable(&error.to_string()),
        }
    }
}

/// A refused configuration: what is wrong with it in short, then each finding, then a way out.
fn refused(report: &Report) -> Failure {
    let is_error = |finding: &&Diagnostic| finding.severity == Severity::Error;
    // Another error would stop xl too.
    let mut errors = report.iter().filter(is_error);
    if !errors.all(|error| error.code == Code::Unsupported) {
        return Failure::rejected(report);
    }
    let command = match report.sources().main_name() {
        // The settings were arguments, too many to say again.
        "/dev/null" => "xl create".to_owned(),
        file => format!("xl create {}", Shown::line(file)),
    };
    let findings = report.render(stderr_has_colours());
    let text = format!(
        "{}\n{}\nuse `{command}` for this guest, or take these lines out",
        report.summary(),
        findings.trim_end()
    );
    Failure::rejected_with(report, text, true)
}

/// An error that came after the configuration was read, in the form of a finding.
fn setting_json(error: &SettingError) -> Value {
    let place = error.place.as_ref();
    json!({
        "severity": Severity::Error,
        "code": error.source.code().word(),
        "file": place.map_or(&error.file, |place| &place.file),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "key": error.key,
        "domain": error.domain,
        "message": error.source.to_string(),
    })
}

/// What has led to an engine's error, the nearest first.
fn causes(error: &EngineError) -> Vec<String> {
    if let EngineError::Step(failure) = error {
        let left = failure.left_behind.iter();
        let left = left.map(|(step, error)| format!("undoing `{step}`: {error}"));
        return std::iter::once(failure.cause.to_string())
            .chain(left)
            .collect();
    }
    let mut causes = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
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
pub fn report(failure: &Failure, style: Style) -> ExitCode {
    let exit = failure.exit();
    if failure.is_silent() {
        return exit.into();
    }
    if style.json {
        let mut details = failure.details();
        json::set(&mut details, "exit_code", exit.number());
        style.with_details(Kind::Error, &failure.to_string(), details);
    } else {
        style.as_text(Kind::Error, &failure.for_a_terminal());
    }
    exit.into()
}

/// Lines after the first stand in from the margin.
pub fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}
