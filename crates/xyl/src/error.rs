//! [`Failure`], the error of a command, and [`Exit`], its exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use xen_port::HvError;
use xl_cfg::{Code, Diagnostic, Report, Severity};
use xyl_engine::report::check::setting_to_json;
use xyl_engine::{EngineError, ErrorCode};
use xyl_host::SiteError;
use xyl_host::xl_conf::ConfError;

use crate::console::ConsoleError;
use crate::json;
use crate::output::stderr_has_colours;
use crate::resolve::WordError;
use crate::shown::Shown;
use crate::stderr::{Kind, Style};

/// Result of a command.
pub type Outcome = Result<(), Failure>;

/// Exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command has succeeded.
    Done,
    /// The command failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The check found something that `--fail-on` names.
    Found,
    /// A command or feature of xl that Xyl does not have yet.
    NotThereYet,
    /// `fsck` found leaks.
    Leaks,
    /// `fsck` found leaks, and removed all.
    Repaired,
    /// `fsck` found leaks, and could not remove all.
    LeaksLeft,
    /// Ended by a signal: 128 and its number, as a shell reports it.
    Signal(i32),
}

impl Exit {
    /// The number that the shell gets.
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

/// The reasons why a command fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command word could not be resolved.
    #[error(transparent)]
    Word(#[from] WordError),
    /// A wrong argument that clap accepts.
    #[error("{0}")]
    Usage(String),
    /// A feature of xl that Xyl does not have yet.
    #[error("{0}")]
    NotThereYet(String),
    /// The check found something that `--fail-on` names.
    #[error("{0}")]
    Found(String),
    /// The kernel does not run under Xen.
    #[error(
        "this is not a Xen host: {path} is not there\nboot this machine into Xen, and in domain 0 load the driver (`modprobe xen-privcmd`); `xyl -N create FILE` checks a configuration anywhere"
    )]
    NotXen {
        /// Path of the missing device.
        path: String,
    },
    /// An error of the engine, including those of Xen and xenstore.
    #[error("{0}")]
    Engine(EngineError),
    /// A console session failed.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The command refuses the request.
    #[error("{0}")]
    Refused(String),
    /// A create was cancelled, and all its steps were undone.
    #[error("cancelled{}: no domain was created, and nothing of it is left", .step.as_ref().map_or_else(String::new, |step| format!(" at the step `{step}`")))]
    Cancelled {
        /// The step at which it was cancelled.
        step: Option<String>,
    },
    /// Reading or writing a file or stream failed.
    #[error("cannot {op}: {source}")]
    Io {
        /// The operation that failed.
        op: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The reader of standard output has closed it. No message is printed.
    #[error("the output was closed")]
    BrokenPipe,
    /// The report on standard output says all. Only the exit code remains.
    #[error("see what was printed")]
    Said(Exit),
    /// A signal ended the command. No message is printed.
    #[error("ended by signal {0}")]
    Signal(i32),
    /// The configuration has errors.
    #[error("{}", .0.text)]
    Configuration(Box<Rejection>),
}

/// The reasons why a configuration was refused.
#[derive(Debug)]
pub struct Rejection {
    /// Each error with its file, line and column. The only escape sequences in it are Xyl's own colours.
    text: String,
    /// The errors and warnings for programs: an array of objects. Null if the file could not be read.
    findings: Value,
    /// Whether every error is about a feature of xl that Xyl does not have yet.
    is_not_there_yet: bool,
}

impl Failure {
    /// Builds the failure for a configuration with errors.
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

    /// Builds the failure for a configuration that cannot be read.
    fn unreadable(text: &str) -> Failure {
        Failure::Configuration(Box::new(Rejection {
            text: Shown::lines(text).to_string(),
            findings: Value::Null,
            is_not_there_yet: false,
        }))
    }

    /// Builds a [`Failure::Usage`].
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(message.into())
    }

    /// Builds a [`Failure::Refused`].
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::Refused(message.into())
    }

    /// Builds a [`Failure::NotThereYet`].
    pub fn not_there_yet(message: impl Into<String>) -> Failure {
        Failure::NotThereYet(message.into())
    }

    /// Builds a [`Failure::Io`].
    pub fn io(op: impl Into<String>, source: io::Error) -> Failure {
        Failure::Io {
            op: op.into(),
            source,
        }
    }

    /// Converts the failure to an error that callbacks of the engine can return.
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

    /// Exit code of the failure.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Word(WordError::NotThereYet { .. }) | Failure::NotThereYet(_) => {
                Exit::NotThereYet
            }
            Failure::Configuration(rejection) if rejection.is_not_there_yet => Exit::NotThereYet,
            Failure::Engine(error) if error.code() == ErrorCode::NotThereYet => Exit::NotThereYet,
            Failure::Word(WordError::Refused { .. }) => Exit::Failed,
            Failure::Word(_) | Failure::Usage(_) => Exit::Usage,
            Failure::Found(_) => Exit::Found,
            Failure::BrokenPipe => Exit::Done,
            Failure::Signal(signal) => Exit::Signal(*signal),
            Failure::Said(exit) => *exit,
            _ => Exit::Failed,
        }
    }

    /// Stable code of the failure, for programs.
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
            Failure::Word(WordError::Refused { .. }) => ErrorCode::Refused,
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

    /// Members of the failure's JSON besides its text: the code, and step, causes and findings if known.
    pub fn details(&self) -> Value {
        let mut details = json!({"code": self.code().word()});
        match self {
            Failure::Engine(error) => {
                if let EngineError::Setting(setting) = error {
                    json::set(&mut details, "findings", vec![setting_to_json(setting)]);
                }
                let error = error.to_api();
                if let Some(step) = error.step {
                    json::set(&mut details, "step", step);
                }
                if let Some(domain) = error.domain {
                    json::set(&mut details, "domain", domain);
                }
                if !error.causes.is_empty() {
                    json::set(&mut details, "causes", error.causes);
                }
                if let Some(remedy) = error.remedy {
                    json::set(&mut details, "remedy", remedy);
                }
            }
            Failure::Configuration(rejection) if !rejection.findings.is_null() => {
                json::set(&mut details, "findings", rejection.findings.clone());
            }
            Failure::Cancelled { step: Some(step) } => {
                json::set(&mut details, "step", step.as_str())
            }
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

    /// Text of the failure. Control characters from users, files and guests are escaped.
    fn for_a_terminal(&self) -> String {
        match self {
            // The only escape sequences in it are Xyl's own colours.
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

impl From<SiteError> for Failure {
    fn from(error: SiteError) -> Failure {
        match error {
            SiteError::Machine(error) => Failure::refused(error.to_string()),
            SiteError::Engine(error) => Failure::from(error),
        }
    }
}

impl From<ConfError> for Failure {
    fn from(error: ConfError) -> Failure {
        match error {
            ConfError::Unreadable(error) => Failure::from(error),
            ConfError::Rejected(report) => Failure::rejected(&report),
            ConfError::Named(_) => Failure::refused(error.to_string()),
        }
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

/// Builds the failure for a refused configuration: a summary, each finding, then a remedy.
fn refused(report: &Report) -> Failure {
    let is_error = |finding: &&Diagnostic| finding.severity == Severity::Error;
    // An error of another kind would stop xl too.
    let mut errors = report.iter().filter(is_error);
    if !errors.all(|error| error.code == Code::Unsupported) {
        return Failure::rejected(report);
    }
    let command = match report.sources().main_name() {
        // The settings were arguments; the text does not repeat them.
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

/// Converts errors of writing to standard output.
impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Failure {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Failure::BrokenPipe
        } else {
            Failure::io("write the output", source)
        }
    }
}

/// Prints a failure on standard error. Returns its exit code.
pub fn report(failure: &Failure, style: Style) -> Exit {
    let exit = failure.exit();
    if failure.is_silent() {
        return exit;
    }
    if style.json {
        let mut details = failure.details();
        json::set(&mut details, "exit_code", exit.number());
        style.with_details(Kind::Error, &failure.to_string(), details);
    } else {
        style.as_text(Kind::Error, &failure.for_a_terminal());
    }
    exit
}

/// Indents all lines but the first.
pub fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}
