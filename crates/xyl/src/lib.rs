//! The `xyl` command: parses the arguments, runs one command, reports the result.
//!
//! The arguments are read in three steps. [`resolve`] finds the command word and completes a unique prefix. [`cli`]
//! has clap parse the rest. Then one file under `commands` runs the command with a [`context::Context`], which opens
//! Xen and xenstore at their first use.

#![deny(clippy::print_stderr)]

pub mod called_as;
pub mod cli;
pub mod commands;
pub mod complete;
pub mod console;
pub mod context;
pub mod error;
pub mod interrupts;
pub mod json;
pub mod new_file;
pub mod output;
pub mod resolve;
pub mod shown;
pub mod stderr;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::called_as::CalledAs;
use crate::cli::Cli;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::output::stderr_has_colours;
use crate::shown::Shown;
use crate::stderr::{Kind, Style};

/// Runs the command in `args`, whose first element is the program's name. Returns the exit code of [`error::Exit`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    clap_complete::CompleteEnv::with_factory(|| complete::for_completion(Cli::command()))
        .var(complete::VARIABLE)
        .complete();
    let args: Vec<OsString> = args.into_iter().collect();
    exit_of(&args).into()
}

fn exit_of(args: &[OsString]) -> Exit {
    let style = resolve::style(args);
    let called_as = CalledAs::of(args);
    let completed = match resolve::complete_command(args) {
        Ok(completed) => completed,
        Err(error) if error.is_help_on_later(args) => return print(&format!("{error}\n"), style),
        Err(error) => {
            let failure = match error.of_usage(args) {
                Some(usage) => Failure::usage(usage),
                None => Failure::from(error),
            };
            return fail(&failure, called_as, style);
        }
    };
    if called_as == CalledAs::Xl && resolve::asks_for_list(&completed) {
        let printed = print(&called_as::list_of_commands(&Cli::command()), style);
        return match completed.len() {
            1 => Exit::Failed,
            _ => printed,
        };
    }
    let command = resolve::plain_command(&completed);
    let known = command.filter(|_| resolve::has_known_global_options(&completed));
    let parsed = cli::parser_for(command)
        .try_get_matches_from(&completed)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => run_parsed(&cli, called_as),
        Err(error) => {
            let as_xl = called_as.exit_of_usage(error.kind(), known, style);
            match refuse(error, args, style) {
                Exit::Usage => as_xl,
                exit => exit,
            }
        }
    }
}

fn run_parsed(cli: &Cli, called_as: CalledAs) -> Exit {
    let style = cli.global.style();
    xen_sys::expect_children();
    xen_sys::give_way_to_daemons();
    let switches_on = needs_host(&cli.command);
    let context = match Context::new(&cli.global, switches_on) {
        Ok(context) => context,
        Err(failure) => return fail(&failure, called_as, style),
    };
    let outcome = commands::run(&cli.command, &context).and_then(|()| context.finish());
    context.report_counts();
    match outcome {
        Ok(()) => Exit::Done,
        Err(failure) => fail(&failure, called_as, style),
    }
}

/// Reports a failure. Returns the exit code by the name that the program was called by.
fn fail(failure: &Failure, called_as: CalledAs, style: Style) -> Exit {
    error::report(failure, style);
    called_as.point_to_xl(failure, style);
    called_as.exit(failure, style)
}

/// Prints a text on standard output.
fn print(text: &str, style: Style) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(source) => error::report(&Failure::from(source), style),
    }
}

/// Whether the command needs a running simulated host. A monitor does not start one: if the host's folder was
/// removed, the monitor ends.
fn needs_host(command: &cli::Command) -> bool {
    use cli::Command::{Completion, Man, Monitor, SimulatedHost};
    !matches!(
        command,
        Completion(_) | Man(_) | Monitor(_) | SimulatedHost(_)
    )
}

/// Prints clap's message. Help and version go to standard output; everything else is a usage error.
fn refuse(mut error: clap::Error, args: &[OsString], style: Style) -> Exit {
    let is_bare = matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    );
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return match printed {
            Ok(()) => Exit::Done,
            Err(source) => error::report(&Failure::from(source), style),
        };
    }
    // Without arguments, prints the help as an error. If it cannot be printed, the exit code still shows the error.
    if is_bare && args.len() == 1 && !style.json {
        let _ = error.print();
        return Exit::Usage;
    }
    if is_bare && resolve::plain_command(args).is_none() {
        return error::report(
            &Failure::usage("no command is given; `xyl help` lists them"),
            style,
        );
    }
    // clap suggests how to pass an option's name as a value. Users never mean that.
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
                Exit::Usage
            }
        };
    }
    stderr::part(format_args!("xyl: "));
    let _ = error.print();
    Exit::Usage
}
