//! The `xyl` command: parses what was typed, runs one command, reports the outcome.
//!
//! The arguments are read in three steps: [`words`] finds the command word and completes a unique
//! prefix, [`cli`] lets clap parse the rest, and each file under `commands` does one command with
//! the [`context::Context`] that opens Xen and xenstore when they are first needed.

#![deny(clippy::print_stderr)]

pub mod cli;
pub mod commands;
pub mod complete;
pub mod console;
pub mod context;
pub mod error;
pub mod interrupts;
pub mod json;
pub mod output;
pub mod shown;
pub mod tell;
pub mod words;
pub mod xlconf;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::context::Context;
use crate::error::Failure;
use crate::shown::Shown;

/// Runs the command that `args` (the program's name first) ask for; returns the exit code of
/// [`error::Exit`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(complete::VARIABLE)
        .complete();
    let args: Vec<OsString> = args.into_iter().collect();
    let as_json = words::asks_for_json(&args);
    let completed = match words::complete_command(&args) {
        Ok(completed) => completed,
        Err(error) if error.is_help_on_later(&args) => {
            return match writeln!(std::io::stdout(), "{error}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(source) => error::report(&Failure::from(source), as_json),
            };
        }
        Err(error) => return error::report(&Failure::from(error), as_json),
    };
    let parsed = cli::parser_for(words::plain_command(&completed))
        .try_get_matches_from(completed)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => run_parsed(&cli),
        Err(error) => refuse(&error, &args, as_json),
    }
}

fn run_parsed(cli: &Cli) -> ExitCode {
    xen_sys::expect_children();
    xen_sys::give_way_to_daemons();
    // A monitor belongs to a VM of a host that is on: one whose folder has been removed is not to come back for it.
    let switches_on = !matches!(cli.command, cli::Command::Monitor(_));
    let context = match Context::new(&cli.global, switches_on) {
        Ok(context) => context,
        Err(failure) => return error::report(&failure, cli.global.json),
    };
    let outcome = commands::run(&cli.command, &context).and_then(|()| context.finish());
    context.report_counts();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure, cli.global.json),
    }
}

/// Prints clap's own message: help and version are answers, the rest is a usage error.
fn refuse(error: &clap::Error, args: &[OsString], as_json: bool) -> ExitCode {
    if error.use_stderr() && as_json {
        let text = error.render().to_string();
        return error::report(
            &Failure::usage(text.trim_end().trim_start_matches("error: ")),
            true,
        );
    }
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        tell::part(format_args!("xyl: "));
    }
    let is_control = |arg: &OsString| arg.to_string_lossy().contains(char::is_control);
    if error.use_stderr() && args.iter().any(is_control) {
        // Without clap's colours, which could not be told from what was typed.
        let text = error.render().to_string();
        tell::part(format_args!("{}", Shown::lines(&text)));
    } else {
        // A message that cannot be shown is lost; the exit code still tells.
        let _ = error.print();
    }
    if error.use_stderr() {
        error::Exit::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}
