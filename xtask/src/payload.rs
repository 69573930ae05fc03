//! The files that a boot gets. Dom0 finds them in /xyl-lab.

use crate::artifacts::Profile;
use crate::error::{Error, Result, at};
use crate::process::run_quietly;
use crate::root::Xen;
use crate::{places, terminal};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The files and settings of one boot.
pub struct Payload {
    /// Runs as root in dom0, in /xyl-lab/in.
    pub script: Option<PathBuf>,
    /// Words for the script.
    pub arguments: Vec<String>,
    /// Host files, found by name in /xyl-lab/in.
    pub files: Vec<PathBuf>,
    /// Time limit of the script; `None` for no limit.
    pub script_limit: Option<Duration>,
    /// Whether a shell on the terminal follows.
    pub shell: bool,
    /// Whether the script reads what its listener answers; else it has nothing to read.
    pub answers: bool,
    /// Compiler options of its programs.
    pub profile: Profile,
    /// Seed of the tests' random numbers.
    pub seed: u32,
    /// Whether the tests take hours instead of minutes.
    pub soak: bool,
}

impl Payload {
    /// A boot that runs `script` and ends.
    pub fn script(script: PathBuf, limit: Duration) -> Self {
        Self {
            script: Some(script),
            arguments: Vec::new(),
            files: Vec::new(),
            script_limit: Some(limit),
            shell: false,
            answers: false,
            profile: Profile::Lab,
            seed: 0,
            soak: false,
        }
    }

    /// Writes the tar that dom0 of this Xen unpacks. `scratch` is a folder for the way there.
    pub fn pack(&self, xen: Xen, scratch: &Path, tar: &Path) -> Result<()> {
        let stage = scratch.join("stage");
        for folder in ["bin", "guests", "in", "out"] {
            let folder = stage.join(folder);
            fs::create_dir_all(&folder).map_err(at("make", folder))?;
        }
        link(&places::lab(), &stage.join("lab"))?;
        link(&places::workspace().join("dist"), &stage.join("dist"))?;
        for file in our_executables(self.profile)? {
            let folder = if is_guest(&file) { "guests" } else { "bin" };
            link_into(&file, &stage.join(folder))?;
        }
        for file in &self.files {
            link_into(file, &stage.join("in"))?;
        }
        if let Some(script) = &self.script {
            check_script(script)?;
            link(script, &stage.join("script"))?;
        }
        let settings = stage.join("settings");
        fs::write(&settings, self.settings(xen)).map_err(at("write", &settings))?;
        let mut command = Command::new("tar");
        command.args([
            "--create",
            "--dereference",
            "--owner=0",
            "--group=0",
            "--file",
        ]);
        command.arg(tar).arg("-C").arg(&stage).arg(".");
        run_quietly(&mut command).map(drop)
    }

    /// Shell assignments that dom0's init reads.
    fn settings(&self, xen: Xen) -> String {
        let limit_s = self.script_limit.map_or(0, |limit| limit.as_secs());
        let (rows, columns) = terminal::size();
        let quoted: Vec<String> = self.arguments.iter().map(|word| quote(word)).collect();
        format!(
            "export LAB_XEN={} LAB_SEED={} LAB_SOAK={}\nscript_limit_s={limit_s}\nshell={}\nanswers={}\nrows={rows}\ncolumns={columns}\narguments={}\n",
            xen.version(),
            self.seed,
            u8::from(self.soak),
            u8::from(self.shell),
            u8::from(self.answers),
            quote(&quoted.join(" "))
        )
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn check_script(script: &Path) -> Result<()> {
    if script.is_file() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "there is no script {}",
        script.display()
    )))
}

fn link_into(file: &Path, folder: &Path) -> Result<()> {
    let name = file
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{} has no name", file.display())))?;
    link(file, &folder.join(name))
}

fn link(file: &Path, link: &Path) -> Result<()> {
    let file = file.canonicalize().map_err(at("find", file))?;
    symlink(file, link).map_err(at("make", link))
}

/// The programs, the examples (tests use them as probes) and the test guest's kernels of this clone, as far as they have been
/// built.
fn our_executables(profile: Profile) -> Result<Vec<PathBuf>> {
    let programs = profile.folder()?;
    let guest = places::workspace().join("guest/target/release");
    let folders = [programs.join("examples"), programs, guest];
    Ok(folders
        .iter()
        .flat_map(|folder| executables(folder))
        .collect())
}

fn is_guest(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"testguest"))
}

/// Whether a name ends in a dash and 16 hexadecimal digits, as cargo's second copies do.
fn has_hash(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.rsplit_once('-').is_some_and(|(_, hash)| {
        hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Programs by their plain names; cargo's second copies have a hash behind a dash, its libraries an extension.
fn executables(folder: &Path) -> Vec<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o100 != 0)
            && path.extension().is_none()
            && !has_hash(path)
    };
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(is_program)
        .collect();
    found.sort();
    found
}
