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

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::context::Context;
use crate::error::Failure;
use crate::output::stderr_has_colours;
use crate::shown::Shown;
use crate::tell::{Kind, Style};

/// Runs the command that `args` (the program's name first) ask for; returns the exit code of
/// [`error::Exit`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(complete::VARIABLE)
        .complete();
    let args: Vec<OsString> = args.into_iter().collect();
    let style = words::style(&args);
    let completed = match words::complete_command(&args) {
        Ok(completed) => completed,
        Err(error) if error.is_help_on_later(&args) => {
            return match writeln!(std::io::stdout(), "{error}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(source) => error::report(&Failure::from(source), style),
            };
        }
        Err(error) => return error::report(&Failure::from(error), style),
    };
    let parsed = cli::parser_for(words::plain_command(&completed))
        .try_get_matches_from(completed)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => run_parsed(&cli),
        Err(error) => refuse(error, &args, style),
    }
}

fn run_parsed(cli: &Cli) -> ExitCode {
    xen_sys::expect_children();
    xen_sys::give_way_to_daemons();
    let switches_on = needs_host(&cli.command);
    let context = match Context::new(&cli.global, switches_on) {
        Ok(context) => context,
        Err(failure) => return error::report(&failure, cli.global.style()),
    };
    let outcome = commands::run(&cli.command, &context).and_then(|()| context.finish());
    context.report_counts();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure, cli.global.style()),
    }
}

/// Whether a simulated host is to be switched on for the command. A monitor belongs to a VM of a host that is on: one whose
/// folder has been removed is not to come back for it.
fn needs_host(command: &cli::Command) -> bool {
    use cli::Command::{Completion, Man, Monitor, SimulatedHost};
    !matches!(
        command,
        Completion(_) | Man(_) | Monitor(_) | SimulatedHost(_)
    )
}

/// Prints clap's own message: help and version are answers, the rest is a usage error.
fn refuse(mut error: clap::Error, args: &[OsString], style: Style) -> ExitCode {
    let is_bare = matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    );
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(source) => error::report(&Failure::from(source), style),
        };
    }
    // Without any argument the help is the answer. A message that cannot be shown is lost; the exit code still tells.
    if is_bare && args.len() == 1 && !style.json {
        let _ = error.print();
        return error::Exit::Usage.into();
    }
    if is_bare && words::plain_command(args).is_none() {
        return error::report(
            &Failure::usage("no command is given; `xyl help` lists them"),
            style,
        );
    }
    // How to pass an option's name as a value is never what was meant.
    error.remove(ContextKind::Suggested);
    let is_control = |arg: &OsString| arg.to_string_lossy().contains(char::is_control);
    let shows_colours = stderr_has_colours() && !args.iter().any(is_control);
    if style.json || style.timestamps || !shows_colours {
        let text = error.render().to_string();
        let text = text.trim_end().trim_start_matches("error: ");
        return match style.json {
            true => error::report(&Failure::usage(text), style),
            false => {
                style.as_text(Kind::Error, &Shown::lines(text).to_string());
                error::Exit::Usage.into()
            }
        };
    }
    tell::part(format_args!("xyl: "));
    let _ = error.print();
    error::Exit::Usage.into()
}
