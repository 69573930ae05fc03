//! Guests with a disk and an interface: their create and destroy, and devices that come and go while a guest runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use xenstore::{Client, Path as StorePath, Tree};

use crate::Outcome;
use crate::lives::domid;
use crate::measure::{Spread, timed};
use crate::report::{Line, Report};
use crate::scenarios::{Bench, NAME, Tool, create_and_destroy, ends_of};

/// Size of each image.
const IMAGE_BYTES: u64 = 16 << 20;
/// Number of guests of the crowd with devices.
const CROWD: usize = 100;
/// Memory of the guests.
const MEMORY_MIB: u64 = 256;
/// Virtual device that comes and goes.
const PLUGGED: &str = "xvdc";
/// Its folder among the guest's devices in xenstore, and that of the interface.
const DEVICES: [&str; 2] = ["vbd/51744", "vif/0"];
/// Time limit for the guest to connect a device that was attached.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Time limit for the guest to say that it runs.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Line of the guest's console once it serves.
const GUEST_IS_UP: &str = "XYL-GUEST-UP";
/// Folder of the guests' consoles.
const CONSOLES: &str = "/var/log/xen/console";

/// A bridge, and a ramdisk with the drivers of both frontends. The caller has made both.
pub struct Site<'a> {
    /// Name of the bridge.
    pub bridge: &'a str,
    /// Path of the ramdisk.
    pub ramdisk: &'a Path,
}

/// Measures all of it with both tools in turn.
pub fn all(bench: &Bench, report: &mut Report, site: &Site<'_>, runs: usize) -> Outcome<()> {
    let image = image(bench, "disk.img")?;
    let device = loop_device(&image)?;
    let outcome = lives(bench, report, (&device, "block device"), site.bridge, runs);
    detach_loop(&device)?;
    outcome?;
    let image = path_text(&image)?;
    lives(bench, report, (image, "raw file"), site.bridge, runs)?;
    hot_plug(bench, report, site, runs)?;
    crowded(bench, report, site.bridge)
}

/// Creates and destroys a guest of each type with a disk, of which the target and the kind are given, and an interface.
fn lives(
    bench: &Bench,
    report: &mut Report,
    (target, kind_of_disk): (&str, &str),
    bridge: &str,
    runs: usize,
) -> Outcome<()> {
    for kind in ["pv", "pvh"] {
        let guest = bench.test_guest(kind)?;
        let devices = devices(target, bridge);
        let config = bench.config(NAME, kind, 64, &format!("{guest}\n{devices}"))?;
        let what = format!(
            "{} with a {kind_of_disk} and an interface",
            kind.to_uppercase()
        );
        create_and_destroy(bench, report, &what, &config, runs)?;
    }
    Ok(())
}

/// Many paused guests with a disk and an interface each: how long the first creates take, and the last.
fn crowded(bench: &Bench, report: &mut Report, bridge: &str) -> Outcome<()> {
    let guest = bench.test_guest("pv")?;
    let names: Vec<String> = (1..=CROWD)
        .map(|number| format!("devices{number}"))
        .collect();
    let mut creates = Vec::with_capacity(CROWD);
    for name in &names {
        let image = image(bench, &format!("{name}.img"))?;
        let devices = devices(path_text(&image)?, bridge);
        let config = bench.config(name, "pv", 16, &format!("{guest}\n{devices}"))?;
        creates.push(timed(&Tool::Xyl.command(&["create", "-q", "-p", &config]))?);
    }
    report.crowd_with_devices(CROWD, ends_of(&creates)?);
    for name in &names {
        timed(&Tool::Xyl.command(&["destroy", name]))?;
    }
    Ok(())
}

/// A loop device that shows an image: the block device of this benchmark.
fn loop_device(image: &Path) -> Outcome<String> {
    let shown = Command::new("losetup")
        .args(["-f", "--show"])
        .arg(image)
        .output()?;
    if !shown.status.success() {
        return Err(format!("losetup: {}", shown.status).into());
    }
    Ok(String::from_utf8(shown.stdout)?.trim().to_owned())
}

fn detach_loop(device: &str) -> Outcome<()> {
    let words = ["losetup", "-d", device].map(str::to_owned);
    timed(&words).map(drop)
}

fn path_text(path: &Path) -> Outcome<&str> {
    Ok(path
        .to_str()
        .ok_or("the temporary folder's name is no text")?)
}

/// An image below the benchmark's folder.
pub fn image(bench: &Bench, name: &str) -> Outcome<PathBuf> {
    let path = bench.folder().join(name);
    std::fs::File::create(&path)?.set_len(IMAGE_BYTES)?;
    Ok(path)
}

/// Lines of a configuration with one device of each kind: a disk with this target, and an interface.
pub fn devices(target: &str, bridge: &str) -> String {
    format!("disk = [ '{target},raw,xvda,rw' ]\nvif = [ 'bridge={bridge}' ]")
}

/// Attaches and detaches a disk and an interface of a Linux guest, which lets them go by itself.
fn hot_plug(bench: &Bench, report: &mut Report, site: &Site<'_>, runs: usize) -> Outcome<()> {
    let image = image(bench, "plugged.img")?;
    let boot = bench.linux_with(site.ramdisk);
    let config = bench.config(NAME, "pvh", MEMORY_MIB, &boot)?;
    let disk = format!("{},raw,{PLUGGED},rw", image.display());
    let bridge = format!("bridge={}", site.bridge);
    let block = [
        vec!["block-attach", NAME, &disk],
        vec!["block-detach", NAME, PLUGGED],
    ];
    let network = [
        vec!["network-attach", NAME, &bridge],
        vec!["network-detach", NAME, "0"],
    ];
    for (pair, device) in [block, network].into_iter().zip(DEVICES) {
        let mut found = Vec::new();
        for tool in [Tool::Xl, Tool::Xyl] {
            let _ = std::fs::remove_file(console());
            timed(&tool.command(&["create", "-q", &config]))?;
            let outcome = await_boot().and_then(|()| plugged(bench, tool, (&pair, device), runs));
            timed(&tool.command(&["destroy", NAME]))?;
            found.push(outcome?);
        }
        let [xl, xyl] = <[_; 2]>::try_from(found).map_err(|_| "two tools were measured")?;
        for (xl, xyl) in xl.into_iter().zip(xyl) {
            report.compare(Line {
                what: xl.what,
                xl: xl.times,
                xyl: xyl.times,
                xl_counts: xl.counts,
                xyl_counts: xyl.counts,
            });
        }
    }
    Ok(())
}

/// One command of a tool, measured.
struct Measured {
    what: String,
    times: Spread,
    counts: (crate::trace::Counts, u64, u64),
}

/// Runs an attach and a detach in turn. The guest connects the device between them: xl's scripts leave it time for that, and a detach would
/// wait for it.
fn plugged(
    bench: &Bench,
    tool: Tool,
    (pair, device): (&[Vec<&str>; 2], &str),
    runs: usize,
) -> Outcome<Vec<Measured>> {
    let [attach, detach] = pair.each_ref().map(|words| tool.command(words));
    let mut times: [Vec<Duration>; 2] = Default::default();
    for run in 0..runs {
        eprintln!("{}: run {} of {runs}", attach.join(" "), run + 1);
        times[0].push(timed(&attach)?);
        await_connected(device)?;
        times[1].push(timed(&detach)?);
    }
    let attach_counts = bench.count(&attach)?;
    await_connected(device)?;
    let counts = [attach_counts, bench.count(&detach)?];
    let mut measured = Vec::new();
    for ((words, counts), times) in pair.iter().zip(counts).zip(times) {
        measured.push(Measured {
            what: words.first().copied().unwrap_or_default().to_owned(),
            times: Spread::of(times)?,
            counts,
        });
    }
    Ok(measured)
}

/// Waits until the guest's end of a device is connected.
fn await_connected(device: &str) -> Outcome<()> {
    let domid = domid()?;
    let state = StorePath::new(&format!("/local/domain/{domid}/device/{device}/state"))?;
    let mut store = Client::connect()?;
    let started = Instant::now();
    while started.elapsed() < CONNECT_LIMIT {
        if store.read_opt(&state)?.as_deref() == Some(b"4") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the guest has not connected {device}").into())
}

fn console() -> PathBuf {
    Path::new(CONSOLES).join(format!("guest-{NAME}.log"))
}

fn await_boot() -> Outcome<()> {
    let started = Instant::now();
    while started.elapsed() < BOOT_LIMIT {
        let said = std::fs::read(console()).unwrap_or_default();
        if String::from_utf8_lossy(&said).contains(GUEST_IS_UP) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err("the guest with hot-plugged devices did not start".into())
}
