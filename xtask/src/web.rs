//! `cargo xtask web`: puts the page of `xyld` together, with Node and npm.

use crate::error::{Error, Result};
use crate::{places, process};
use std::process::{Command, Stdio};

/// npm, in the folder with the sources of the page.
fn npm(words: &str) -> Command {
    let mut command = Command::new("npm");
    command.args(words.split(' '));
    command.current_dir(places::workspace().join("web"));
    command
}

/// Whether Node and npm are there.
pub fn has_npm() -> bool {
    let mut command = npm("--version");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Installs the modules of other projects by the lock file, and makes `web/dist`. The next build of `xyld` embeds it.
pub fn build() -> Result<()> {
    if !has_npm() {
        return Err(Error::Missing {
            what: "Node and npm, which put the page together, are not there".into(),
            remedy: "apt-get install nodejs npm".into(),
        });
    }
    process::run(&mut npm("ci --no-audit --no-fund --ignore-scripts"))?;
    process::run(&mut npm("run --silent build"))
}

/// Runs the tests of the page's functions. They need no browser, and no module of another project.
pub fn test() -> Result<()> {
    process::run(&mut npm("run --silent test"))
}
