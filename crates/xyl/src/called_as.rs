//! The name by which the program was called: `xyl`, or `xl` by programs that know xl alone.
//!
//! As `xl` the program does the same, and differs where programs look: in exit codes, and in the list of commands.
//! Facts: `tools/xl/xl.c` and `tools/xl/xl_utils.c` (exit codes), the same in 4.17 to 4.22.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;

use crate::error::{Exit, Failure};
use crate::stderr::{Kind, Style};

/// The name by which the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalledAs {
    /// Any name but `xl`.
    Xyl,
    /// `xl`: a link to the program, or a copy of it.
    Xl,
}

impl CalledAs {
    /// The name is the file name of the first argument.
    pub fn of(args: &[OsString]) -> CalledAs {
        let name = args.first().and_then(|first| Path::new(first).file_name());
        match name.is_some_and(|name| name == "xl") {
            true => CalledAs::Xl,
            false => CalledAs::Xyl,
        }
    }

    /// The exit code of a failure. xl ends with 1 for all that fails once getopt has taken the arguments.
    ///
    /// `--json` is Xyl's own option, so with it the exit codes are Xyl's own too.
    pub fn exit(self, failure: &Failure, style: Style) -> Exit {
        match failure.exit() {
            Exit::Usage | Exit::NotThereYet if self.follows_xl(style) => Exit::Failed,
            exit => exit,
        }
    }

    /// The exit code where clap refuses the arguments; `command` is that of a line whose global options are known. xl ends with 2
    /// for what getopt refuses: an option of a command that is unknown, and a missing argument. For all others it ends with 1.
    pub fn exit_of_usage(self, kind: ErrorKind, command: Option<&str>, style: Style) -> Exit {
        let is_of_getopt = match (kind, command) {
            (_, None) => false,
            (ErrorKind::UnknownArgument, _) => true,
            // The missing domain of these is seen behind getopt.
            (ErrorKind::MissingRequiredArgument, Some("shutdown" | "reboot")) => false,
            (ErrorKind::MissingRequiredArgument, _) => true,
            _ => false,
        };
        match self.follows_xl(style) && !is_of_getopt {
            true => Exit::Failed,
            false => Exit::Usage,
        }
    }

    fn follows_xl(self, style: Style) -> bool {
        self == CalledAs::Xl && !style.json
    }

    /// Says where xl itself is, if the failure is that Xyl cannot do something yet. Else its advice to use `xl` would
    /// lead back to this program.
    pub fn point_to_xl(self, failure: &Failure, style: Style) {
        if self.follows_xl(style) && failure.exit() == Exit::NotThereYet {
            style.message(
                Kind::Notice,
                "this is Xyl, called by the name `xl`; Xen's own xl is /usr/lib/xen-VERSION/bin/xl on Debian",
            );
        }
    }
}

/// The list of commands in the form of xl's: four lines, then one line for each command, which begins with its name.
/// xl's completion for bash takes the names from it.
pub fn list_of_commands(parser: &clap::Command) -> String {
    let mut text =
        "Usage: xl [-vfNtT] COMMAND [ARGUMENTS]\n\nCommands of Xyl, called as xl:\n\n".to_owned();
    for command in parser.get_subcommands().filter(|one| !one.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string);
        let line = format!(" {:<20} {}", command.get_name(), about.unwrap_or_default());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(name: &str) -> CalledAs {
        CalledAs::of(&[name.into(), "list".into()])
    }

    #[test]
    fn only_the_whole_file_name_counts() {
        assert_eq!(called("/usr/sbin/xl"), CalledAs::Xl);
        assert_eq!(called("xl"), CalledAs::Xl);
        for other in ["xyl", "/opt/xl/xyl", "xl2", "", "xl/.."] {
            assert_eq!(called(other), CalledAs::Xyl, "{other}");
        }
        assert_eq!(CalledAs::of(&[]), CalledAs::Xyl);
    }

    #[test]
    fn exit_codes_are_those_of_xl() {
        let text = Style::default();
        let json = Style { json: true, ..text };
        let later = Failure::not_there_yet("no");
        assert_eq!(CalledAs::Xl.exit(&later, text), Exit::Failed);
        assert_eq!(CalledAs::Xl.exit(&later, json), Exit::NotThereYet);
        assert_eq!(CalledAs::Xyl.exit(&later, text), Exit::NotThereYet);
        let usage = Failure::usage("no");
        assert_eq!(CalledAs::Xl.exit(&usage, text), Exit::Failed);
        let exit = |kind, command| CalledAs::Xl.exit_of_usage(kind, command, text);
        let missing = ErrorKind::MissingRequiredArgument;
        assert_eq!(exit(ErrorKind::UnknownArgument, Some("list")), Exit::Usage);
        assert_eq!(exit(ErrorKind::UnknownArgument, None), Exit::Failed);
        assert_eq!(exit(ErrorKind::ValueValidation, Some("list")), Exit::Failed);
        assert_eq!(exit(missing, Some("destroy")), Exit::Usage);
        assert_eq!(exit(missing, Some("shutdown")), Exit::Failed);
    }
}
