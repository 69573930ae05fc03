//! The operations that are compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use xen_port::{GuestKind, Hypervisor};
use xenstore::Client;

use crate::devices::{self, Site};
use crate::measure::{Spread, timed};
use crate::proxy::Proxy;
use crate::report::{Line, Report};
use crate::trace::{self, Counts};
use crate::{NOTHING, Outcome, floor, lives};

/// Memory of the small guests.
const SMALL_MIB: u64 = 64;
/// The name of every guest that is created alone.
pub const NAME: &str = "bench";
/// Memory of each guest of the crowd.
const CROWD_MIB: u64 = 16;
/// Guests at each end of the crowd whose times are compared.
const CROWD_ENDS: usize = 9;

/// A tool that takes xl's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Xen's own toolstack.
    Xl,
    /// The toolstack of this project.
    Xyl,
}

impl Tool {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Xl => "xl",
            Tool::Xyl => "xyl",
        }
    }

    /// A command line of the tool.
    pub fn command(self, words: &[&str]) -> Vec<String> {
        std::iter::once(self.program())
            .chain(words.iter().copied())
            .map(str::to_owned)
            .collect()
    }
}

/// A folder for configurations and logs, and the way to xenstored that counts.
pub struct Bench {
    folder: PathBuf,
    guests: PathBuf,
    proxy: Proxy,
}

impl Bench {
    /// Sets up in a new folder under the system's temporary one.
    pub fn new(guests: &Path) -> Outcome<Bench> {
        let folder = std::env::temp_dir().join(format!("xyl-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let proxy = Proxy::start(
            &folder.join("xenstored"),
            Path::new("/run/xenstored/socket"),
        )?;
        Ok(Bench {
            folder,
            guests: guests.to_owned(),
            proxy,
        })
    }

    /// Writes a configuration and returns its path.
    pub fn config(&self, name: &str, kind: &str, memory_mib: u64, boot: &str) -> Outcome<String> {
        let path = self.folder.join(format!("{name}.cfg"));
        let text = format!(
            "name = \"{name}\"\ntype = \"{kind}\"\nmemory = {memory_mib}\nvcpus = 1\n{boot}\n"
        );
        std::fs::write(&path, text)?;
        Ok(path
            .to_str()
            .ok_or("the temporary folder's name is no text")?
            .to_owned())
    }

    /// The project's own test guest, silent.
    pub fn test_guest(&self, kind: &str) -> Outcome<String> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&self.guests)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| name_of(path).starts_with("testguest"))
            .collect();
        found.sort_by_key(|path| !name_of(path).ends_with(&format!("-{kind}")));
        let kernel = found.first().ok_or("no test guest in the guests' folder")?;
        Ok(format!(
            "kernel = \"{}\"\ncmdline = \"heartbeat_ms=0\"",
            kernel.display()
        ))
    }

    /// Debian's kernel with a small ramdisk.
    fn linux(&self) -> String {
        let at = |name: &str| self.guests.join(name).display().to_string();
        format!(
            "kernel = \"{}\"\nramdisk = \"{}\"",
            at("linux-vmlinuz"),
            at("linux-initrd")
        )
    }

    /// Debian's kernel with another ramdisk.
    pub fn linux_with(&self, ramdisk: &Path) -> String {
        let kernel = self.guests.join("linux-vmlinuz");
        format!(
            "kernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"",
            kernel.display(),
            ramdisk.display()
        )
    }

    /// Path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Counts what one command costs.
    pub fn count(&self, command: &[String]) -> Outcome<(Counts, u64, u64)> {
        self.proxy.take();
        let counts = trace::count(command, self.proxy.path(), &self.folder)?;
        let (requests, bytes) = self.proxy.take();
        Ok((counts, requests, bytes))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// All comparisons; prints the report. Without a site those with devices are left out.
pub fn all(guests: &Path, runs: usize, crowd: usize, site: Option<&Site<'_>>) -> Outcome<()> {
    let bench = Bench::new(guests)?;
    let mut report = Report::default();
    let this = std::env::current_exe()?.display().to_string();
    report.process(
        process_alone(&["true"], runs)?,
        process_alone(&[&this, NOTHING], runs)?,
    );
    for (kind, guest) in [("pv", GuestKind::Pv), ("pvh", GuestKind::Pvh)] {
        let config = bench.config(NAME, kind, SMALL_MIB, &bench.test_guest(kind)?)?;
        let what = format!("{} {SMALL_MIB} MiB", kind.to_uppercase());
        let create = create_and_destroy(&bench, &mut report, &what, &config, runs)?;
        let floor = floor_of(guest, SMALL_MIB, runs)?;
        report.floor(&format!("create {what}"), create, floor);
    }
    pause(&bench, &mut report, runs)?;
    let config = bench.config(NAME, "pvh", 256, &bench.linux())?;
    // The first create of each tool fills its caches, where it has any.
    for tool in [Tool::Xl, Tool::Xyl] {
        timed(&tool.command(&["create", "-q", &config]))?;
        timed(&tool.command(&["destroy", NAME]))?;
    }
    create_and_destroy(
        &bench,
        &mut report,
        "PVH Linux 256 MiB, again",
        &config,
        runs.min(7),
    )?;
    if let Some(site) = site {
        devices::all(&bench, &mut report, site, runs.min(7))?;
    }
    lives::memory_at_rest(&bench, &mut report)?;
    lives::recovery(&bench, &mut report, runs)?;
    lives::journal(&bench, &mut report)?;
    if crowd > 0 {
        crowded(&bench, &mut report, crowd)?;
    }
    report.print();
    Ok(())
}

/// Both tools in turn; the median of xyl's creates.
pub fn create_and_destroy(
    bench: &Bench,
    report: &mut Report,
    what: &str,
    config: &str,
    runs: usize,
) -> Outcome<f64> {
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    let tools = [Tool::Xl, Tool::Xyl];
    for run in 0..runs {
        eprintln!("{what}: run {} of {runs}", run + 1);
        for (tool, [creates, destroys]) in tools.into_iter().zip(times.iter_mut()) {
            creates.push(timed(&tool.command(&["create", "-q", config]))?);
            destroys.push(timed(&tool.command(&["destroy", NAME]))?);
        }
    }
    let mut counts = Vec::new();
    for tool in tools {
        let create = bench.count(&tool.command(&["create", "-q", config]))?;
        let destroy = bench.count(&tool.command(&["destroy", NAME]))?;
        counts.push((create, destroy));
    }
    let [[xl_creates, xl_destroys], [xyl_creates, xyl_destroys]] = times;
    let [(xl_create, xl_destroy), (xyl_create, xyl_destroy)] =
        <[_; 2]>::try_from(counts).map_err(|_| "two tools were counted")?;
    let xyl = Spread::of(xyl_creates)?;
    report.compare(Line {
        what: format!("create {what}"),
        xl: Spread::of(xl_creates)?,
        xyl,
        xl_counts: xl_create,
        xyl_counts: xyl_create,
    });
    report.compare(Line {
        what: format!("destroy {what}"),
        xl: Spread::of(xl_destroys)?,
        xyl: Spread::of(xyl_destroys)?,
        xl_counts: xl_destroy,
        xyl_counts: xyl_destroy,
    });
    Ok(xyl.median_ms)
}

/// A change of a guest that runs; xyl has its monitor make it.
fn pause(bench: &Bench, report: &mut Report, runs: usize) -> Outcome<()> {
    let config = bench.config(NAME, "pvh", SMALL_MIB, &bench.test_guest("pvh")?)?;
    let mut found = Vec::new();
    for tool in [Tool::Xl, Tool::Xyl] {
        timed(&tool.command(&["create", "-q", &config]))?;
        let mut times = Vec::new();
        for _ in 0..runs {
            times.push(timed(&tool.command(&["pause", NAME]))?);
            timed(&tool.command(&["unpause", NAME]))?;
        }
        let counts = bench.count(&tool.command(&["pause", NAME]))?;
        timed(&tool.command(&["destroy", NAME]))?;
        found.push((Spread::of(times)?, counts));
    }
    let [(xl, xl_counts), (xyl, xyl_counts)] =
        <[_; 2]>::try_from(found).map_err(|_| "two tools were measured")?;
    report.compare(Line {
        what: "pause".to_owned(),
        xl,
        xyl,
        xl_counts,
        xyl_counts,
    });
    Ok(())
}

/// Measures the start and the end of a process, which every command needs.
fn process_alone(words: &[&str], runs: usize) -> Outcome<Spread> {
    let command: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let times: Outcome<Vec<Duration>> = (0..runs).map(|_| timed(&command)).collect();
    Spread::of(times?)
}

fn floor_of(kind: GuestKind, memory_mib: u64, runs: usize) -> Outcome<Spread> {
    let xen = xen_sys::Xen::open()?;
    let hv: &dyn Hypervisor = &xen;
    let mut store = Client::connect()?;
    let times: Outcome<Vec<Duration>> = (0..runs)
        .map(|_| floor::once(hv, &mut store, kind, memory_mib))
        .collect();
    Spread::of(times?)
}

/// Many paused guests: the first and the last, and the list of all.
fn crowded(bench: &Bench, report: &mut Report, crowd: usize) -> Outcome<()> {
    let boot = bench.test_guest("pv")?;
    let mut creates = Vec::with_capacity(crowd);
    let floor_alone = floor_of(GuestKind::Pv, CROWD_MIB, CROWD_ENDS)?;
    for number in 1..=crowd {
        let config = bench.config(&format!("crowd{number}"), "pv", CROWD_MIB, &boot)?;
        creates.push(timed(&Tool::Xyl.command(&["create", "-q", "-p", &config]))?);
        if number % 50 == 0 {
            eprintln!("{number} guests");
        }
    }
    let floor_in_crowd = floor_of(GuestKind::Pv, CROWD_MIB, CROWD_ENDS)?;
    report.crowd(crowd, ends_of(&creates)?, [floor_alone, floor_in_crowd]);
    let mut lists: [Vec<Duration>; 2] = Default::default();
    let tools = [Tool::Xl, Tool::Xyl];
    for _ in 0..CROWD_ENDS {
        for (tool, times) in tools.into_iter().zip(lists.iter_mut()) {
            times.push(timed(&tool.command(&["list"]))?);
        }
    }
    let xl_counts = bench.count(&Tool::Xl.command(&["list"]))?;
    let xyl_counts = bench.count(&Tool::Xyl.command(&["list"]))?;
    let [xl, xyl] = lists;
    let what = format!("list of {crowd}");
    report.compare(Line {
        what,
        xl: Spread::of(xl)?,
        xyl: Spread::of(xyl)?,
        xl_counts,
        xyl_counts,
    });
    for number in 1..=crowd {
        timed(&Tool::Xyl.command(&["destroy", &format!("crowd{number}")]))?;
    }
    Ok(())
}

/// The first of a crowd's creates, and the last.
pub fn ends_of(creates: &[Duration]) -> Outcome<[Spread; 2]> {
    let first = creates.iter().take(CROWD_ENDS).copied().collect();
    let last = creates.iter().rev().take(CROWD_ENDS).copied().collect();
    Ok([Spread::of(first)?, Spread::of(last)?])
}
