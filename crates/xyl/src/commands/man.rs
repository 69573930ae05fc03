//! `xyl man`: writes manual pages from clap's descriptions of the commands.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Write the manual pages of xyl and of each command into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mkdir -p /usr/local/share/man/man1
  xyl man /usr/local/share/man/man1")]
pub struct Args {
    /// The folder; it must exist
    dir: PathBuf,
}

/// Runs `xyl man`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if !args.dir.is_dir() {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        let what = format!("write manual pages into {}", args.dir.display());
        return Err(Failure::io(what, source));
    }
    if context.would(format!("write manual pages into {}", args.dir.display()))? {
        return Ok(());
    }
    // clap adds a `help` command. It gets no page, so no page may refer to it.
    let mut xyl = Cli::command()
        .disable_help_subcommand(true)
        .mut_subcommands(|sub| sub.disable_help_subcommand(true));
    xyl.build();
    write_all(&args.dir, &xyl, None)
}

/// Writes the page of a command and those of its subcommands. `parent` is the page of the command above.
fn write_all(dir: &Path, command: &Command, parent: Option<&str>) -> Outcome {
    let name = page_name(command);
    let mut see_also: Vec<String> = parent.map(str::to_owned).into_iter().collect();
    see_also.extend(seen(command).map(page_name));
    write(dir, command, &see_also)?;
    seen(command).try_for_each(|sub| write_all(dir, sub, Some(&name)))
}

/// Returns the subcommands that have pages.
fn seen(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

/// Name of a page, such as `xyl-create`, as clap builds it.
fn page_name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or(command.get_name()).to_owned()
}

fn write(dir: &Path, command: &Command, see_also: &[String]) -> Outcome {
    let path = dir.join(format!("{}.1", page_name(command)));
    File::create(&path)
        .and_then(|mut file| page(&mut file, command, see_also))
        .map_err(|source| Failure::io(format!("write {}", path.display()), source))
}

/// Writes one page. clap_mangen prints the options. This function splits the text after the help into sections.
fn page(out: &mut dyn Write, command: &Command, see_also: &[String]) -> io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    let man = Man::new(command.clone())
        .source(concat!("xyl ", env!("CARGO_PKG_VERSION")))
        .manual("Xyl");
    man.render_title(out)?;
    man.render_name_section(out)?;
    let usage = usage.trim_start_matches("Usage: ").lines().map(str::trim);
    let usage: Vec<&str> = usage.filter(|line| !line.is_empty()).collect();
    section(out, "SYNOPSIS", &as_it_is(&usage))?;
    man.render_description_section(out)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(out)?;
    }
    if seen(command).next().is_some() {
        man.render_subcommands_section(out)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    for (heading, body) in sections(after.as_deref().unwrap_or("")) {
        section(out, heading, &body)?;
    }
    let pages: Vec<String> = see_also.iter().map(|name| format!("{name}(1)")).collect();
    let pages = format!("{}, xl(1), xl.cfg(5)", pages.join(", "));
    section(out, "SEE ALSO", &escaped(&pages))
}

fn section(out: &mut dyn Write, heading: &str, body: &str) -> io::Result<()> {
    writeln!(out, ".SH \"{heading}\"\n{}", body.trim_end())
}

/// Splits the text after the help into sections, as roff. Each section appears once, at the place of its first part.
fn sections(after: &str) -> Vec<(&'static str, String)> {
    let mut sections: Vec<(&'static str, String)> = Vec::new();
    for part in after.split("\n\n").filter(|part| !part.trim().is_empty()) {
        let (first, rest) = part.split_once('\n').unwrap_or((part, ""));
        let (heading, body) = match first {
            "Examples:" => ("EXAMPLES", rest.to_owned()),
            "Exit codes:" => ("EXIT STATUS", rest.to_owned()),
            "Environment:" => ("ENVIRONMENT", rest.to_owned()),
            _ => match part.strip_prefix("JSON: ") {
                Some(rest) => ("JSON", capitalised(rest)),
                None => ("NOTES", part.to_owned()),
            },
        };
        match sections.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, text)) => *text += &format!(".PP\n{}", flowing(&body)),
            None => sections.push((heading, flowing(&body))),
        }
    }
    sections
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// Joins the lines of prose. Indented lines stay as they are.
fn flowing(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let runs = lines.chunk_by(|one, next| one.starts_with(' ') == next.starts_with(' '));
    let is_indented = |run: &[&str]| run.iter().any(|line| line.starts_with(' '));
    runs.map(|run| match is_indented(run) {
        true => as_it_is(run),
        false => escaped(&run.join("\n")) + "\n",
    })
    .collect()
}

fn as_it_is(lines: &[&str]) -> String {
    format!(".nf\n{}\n.fi\n", escaped(&lines.join("\n")))
}

/// Escapes a text for roff: special characters, and line starts that roff would take as requests.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut starts_line = true;
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            '.' if starts_line => escaped.push_str("\\&."),
            other => escaped.push(other),
        }
        starts_line = c == '\n';
    }
    escaped
}
