//! `xyl man`: manual pages from the same source as the help.

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
    /// The folder, which must be there
    dir: PathBuf,
}

/// Runs `xyl man`.
pub fn run(args: &Args, _context: &Context) -> Outcome {
    let mut xyl = Cli::command();
    xyl.build();
    write_all(&args.dir, &xyl, None)
}

/// The page of a command and those of its subcommands. `parent` is the page that it belongs to.
fn write_all(dir: &Path, command: &Command, parent: Option<&str>) -> Outcome {
    let name = page_name(command);
    let mut see_also: Vec<String> = parent.map(str::to_owned).into_iter().collect();
    see_also.extend(seen(command).map(page_name));
    write(dir, command, &see_also)?;
    seen(command).try_for_each(|sub| write_all(dir, sub, Some(&name)))
}

/// The subcommands that have pages.
fn seen(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// `xyl-create`, as clap builds it.
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

/// One page. clap_mangen knows the options; what clap keeps as one text after the help gets sections here.
fn page(out: &mut dyn Write, command: &Command, see_also: &[String]) -> io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    let man = Man::new(command.clone());
    man.render_title(out)?;
    man.render_name_section(out)?;
    let usage = usage.trim_start_matches("Usage: ").trim();
    writeln!(out, ".SH SYNOPSIS\n.nf\n{}\n.fi", escaped(usage))?;
    man.render_description_section(out)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(out)?;
    }
    if seen(command).next().is_some() {
        man.render_subcommands_section(out)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    for part in after.as_deref().unwrap_or("").split("\n\n") {
        section(out, part)?;
    }
    let pages: Vec<String> = see_also.iter().map(|name| format!("{name}(1)")).collect();
    writeln!(
        out,
        ".SH \"SEE ALSO\"\n{}, xl(1), xl.cfg(5)",
        escaped(&pages.join(", "))
    )
}

/// A part of the text after the help: one that begins with a heading gets its section, with lines as they are.
fn section(out: &mut dyn Write, part: &str) -> io::Result<()> {
    let (first, rest) = part.split_once('\n').unwrap_or((part, ""));
    let heading = match first {
        "Examples:" => "EXAMPLES",
        "Exit codes:" => "EXIT STATUS",
        "Environment:" => "ENVIRONMENT",
        _ if first.starts_with("JSON:") => {
            return writeln!(out, ".SH JSON\n.nf\n{}\n.fi", escaped(part));
        }
        _ if part.trim().is_empty() => return Ok(()),
        _ => return writeln!(out, ".SH NOTES\n.nf\n{}\n.fi", escaped(part)),
    };
    writeln!(out, ".SH \"{heading}\"\n.nf\n{}\n.fi", escaped(rest))
}

/// A text for roff: backslashes, hyphens and what would be a request at the start of a line.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = text.lines().map(|line| match line.chars().next() {
        Some('.' | '\'') => format!("\\&{line}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
