//! Builds and starts one domain on real Xen, prints its console, and destroys it. Run it in dom0 as root.
//!
//!     build_probe pv|pvh KERNEL [OPTIONS]
//!     build_probe hvm HVMLOADER --firmware FILE [OPTIONS]
//!     build_probe restore pv|pvh IMAGE [OPTIONS]
//!     build_probe save DOMID IMAGE
//!     build_probe save-live DOMID IMAGE
//!     build_probe show DOMID
//!
//! `restore` fills the domain from a file of `xl save`; `--memory`, `--maxmem` and `--vcpus` are those of the saved guest. `save`
//! writes such a file; the domain stays, suspended. `save-live` writes the memory while the guest runs.
//!
//! `show` prints what Xen knows of a domain, line by line, so that two domains can be compared: one of xl's, say.
//!
//! An HVM domain needs a device model, which the caller starts: `--stay` leaves the domain paused for it.
//!
//! Options: `--firmware FILE` and `--video MIB` (HVM: SeaBIOS or OVMF, and memory of the graphics card), `--memory MIB`, `--maxmem MIB`, `--vcpus N`, `--online N`, `--cmdline TEXT`, `--ramdisk FILE`, `--seconds N` (how
//! long to listen), `--until TEXT` (listen until the console says that; exit code 1 if it never does), `--stay` (leave the
//! domain paused and alive). The console's ring is read directly, so xenconsoled is not needed.

mod image;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use xen_build::cpu_policy::{CpuPolicyOptions, apply_default_policy};
use xen_build::{
    BootModule, BuildRequest, Channel, FIRMWARE, HvmMachine, ModuleContent, build_hvm, build_pv,
    build_pvh, check_hvm, memory,
};
use xen_image::{Image, Loader, Module};
use xen_port::{
    CpuidLeaf, CreateDomain, DomId, Gfn, GuestKind, GuestMemory, HvmParam, Hypervisor, MsrEntry,
};
use xen_sys::Xen;
use xenstore::{Access, Client, Perms, Tree};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.as_slice() {
        [command, domid] if command == "show" => number(domid).and_then(|domid| show(DomId(domid))),
        [command, domid, image] if command == "save" || command == "save-live" => number(domid)
            .and_then(|domid| image::save(DomId(domid), Path::new(image), command == "save-live")),
        words => Options::parse(words).and_then(|options| probe(&options)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("build_probe: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    kind: GuestKind,
    /// The kernel, or the image to restore.
    kernel: PathBuf,
    is_restore: bool,
    memory_mib: u64,
    maxmem_mib: u64,
    vcpus: u32,
    online: u32,
    cmdline: String,
    ramdisk: Option<PathBuf>,
    firmware: Option<PathBuf>,
    video_mib: u64,
    seconds: u64,
    until: Option<String>,
    stay: bool,
}

impl Options {
    fn parse(words: &[String]) -> Outcome<Options> {
        let is_restore = words.first().is_some_and(|word| word == "restore");
        let mut words = words.iter().skip(usize::from(is_restore)).cloned();
        let kind = match words.next().as_deref() {
            Some("pv") => GuestKind::Pv,
            Some("pvh") => GuestKind::Pvh,
            Some("hvm") => GuestKind::Hvm,
            _ => return Err("usage: build_probe pv|pvh|hvm KERNEL [OPTIONS] | show DOMID".into()),
        };
        let kernel = words.next().ok_or("which kernel?")?.into();
        let mut options = Options {
            kind,
            kernel,
            is_restore,
            memory_mib: 64,
            maxmem_mib: 0,
            vcpus: 1,
            online: 1,
            cmdline: String::new(),
            ramdisk: None,
            firmware: None,
            video_mib: 0,
            seconds: 10,
            until: None,
            stay: false,
        };
        while let Some(word) = words.next() {
            if word == "--stay" {
                options.stay = true;
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} wants a value"))?;
            match word.as_str() {
                "--memory" => options.memory_mib = number(&value)?,
                "--maxmem" => options.maxmem_mib = number(&value)?,
                "--vcpus" => options.vcpus = number(&value)?,
                "--online" => options.online = number(&value)?,
                "--cmdline" => options.cmdline = value,
                "--firmware" => options.firmware = Some(value.into()),
                "--video" => options.video_mib = number(&value)?,
                "--ramdisk" => options.ramdisk = Some(value.into()),
                "--seconds" => options.seconds = number(&value)?,
                "--until" => options.until = Some(value),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        Ok(options)
    }
}

fn number<T: FromStr>(word: &str) -> Outcome<T> {
    word.parse()
        .map_err(|_| format!("{word} is no number").into())
}

/// Prints a domain's memory, HVM parameters and CPU policy.
fn show(domid: DomId) -> Outcome<bool> {
    let xen = Xen::open()?;
    let info = xen.domain_info(domid)?.ok_or("there is no such domain")?;
    println!(
        "kind {:?}, {} of {} pages",
        info.kind(),
        info.tot_pages,
        info.max_pages
    );
    if info.kind() != GuestKind::Pv {
        for param in PARAMS {
            println!("{param:?} = {:x?}", xen.hvm_param(domid, param).ok());
        }
    }
    let policy = xen.cpu_policy(domid)?;
    for CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    } in policy.leaves
    {
        println!("cpuid {leaf:#010x} {subleaf:#010x}: {a:08x} {b:08x} {c:08x} {d:08x}");
    }
    for MsrEntry { index, value, .. } in policy.msrs {
        println!("msr {index:#010x}: {value:#x}");
    }
    Ok(true)
}

const PARAMS: [HvmParam; 18] = [
    HvmParam::StorePfn,
    HvmParam::StoreEvtchn,
    HvmParam::ConsolePfn,
    HvmParam::ConsoleEvtchn,
    HvmParam::IdentPt,
    HvmParam::Vm86Tss,
    HvmParam::TimerMode,
    HvmParam::IoreqPfn,
    HvmParam::BufIoreqPfn,
    HvmParam::MonitorRingPfn,
    HvmParam::SharingRingPfn,
    HvmParam::Viridian,
    HvmParam::HpetEnabled,
    HvmParam::VptAlign,
    HvmParam::PagingRingPfn,
    HvmParam::IoreqServerPfn,
    HvmParam::NrIoreqServerPages,
    HvmParam::McaCap,
];

/// Makes the domain, watches it, destroys it. Whether its console said what was waited for.
fn probe(options: &Options) -> Outcome<bool> {
    let xen = Xen::open()?;
    let domid = create(&xen, options)?;
    let result = match options.is_restore {
        true => restore(&xen, domid, options),
        false => boot(&xen, domid, options),
    };
    if !options.stay {
        xen.destroy_domain(domid, Instant::now() + Duration::from_secs(20))?;
        if let Ok(mut store) = Client::connect() {
            store.rm(&xenstore::Path::domain(domid.0))?;
        }
    }
    result
}

fn create(xen: &Xen, options: &Options) -> Outcome<DomId> {
    let domid = xen.create_domain(&CreateDomain {
        domid: None,
        kind: options.kind,
        handle: *b"build_probe.....",
        ssidref: 0,
        hap: options.kind != GuestKind::Pv,
        oos_off: false,
        nested_virt: false,
        vpmu: false,
        iommu: false,
        max_vcpus: options.vcpus,
        max_evtchn_port: 1023,
        max_grant_frames: None,
        max_maptrack_frames: None,
        max_grant_version: 1,
        cpupool: 0,
        msr_relaxed: false,
        vmtrace_size_bytes: 0,
        hvm_pirq: false,
    })?;
    Ok(domid)
}

fn boot(xen: &Xen, domid: DomId, options: &Options) -> Outcome<bool> {
    let kernel = Loader::default().load(&options.kernel)?;
    let module = options.firmware.as_ref().or(options.ramdisk.as_ref());
    let module = module.map(|path| Module::open(path, 1 << 32)).transpose()?;
    run(xen, domid, options, &kernel, module.as_ref())
}

fn restore(xen: &Xen, domid: DomId, options: &Options) -> Outcome<bool> {
    let channels = prepare(xen, domid, options)?;
    let restored = image::restore(xen, domid, options, channels)?;
    introduce(domid, restored.store_gfn, &channels.0)?;
    start(xen, domid, options, restored.console_gfn)
}

fn run(
    xen: &Xen,
    domid: DomId,
    options: &Options,
    kernel: &Image,
    module: Option<&Module>,
) -> Outcome<bool> {
    let (store, console) = prepare(xen, domid, options)?;
    let modules: Vec<BootModule<'_>> = module
        .iter()
        .map(|module| BootModule {
            content: ModuleContent::File(module),
            cmdline: match options.kind {
                GuestKind::Hvm => FIRMWARE,
                _ => "",
            },
        })
        .collect();
    let request = BuildRequest {
        domid,
        kernel,
        cmdline: &options.cmdline,
        modules: &modules,
        target_kib: options.memory_mib << 10,
        max_kib: options.maxmem_mib << 10,
        max_vcpus: options.vcpus,
        online_vcpus: options.online,
        store,
        console,
        claim: true,
        allow_bare_pv32: false,
        hvm_params: match options.kind {
            GuestKind::Pv => &[],
            GuestKind::Pvh => &[(HvmParam::TimerMode, 1)],
            GuestKind::Hvm => &[
                (HvmParam::TimerMode, 1),
                (HvmParam::HpetEnabled, 1),
                (HvmParam::VptAlign, 1),
            ],
        },
    };
    let machine = HvmMachine {
        video_ram_kib: options.video_mib << 10,
        ..HvmMachine::default()
    };
    let before = xen.stats();
    let started = Instant::now();
    let built = match options.kind {
        GuestKind::Pv => build_pv(xen, &request)?,
        GuestKind::Pvh => build_pvh(xen, &request)?,
        GuestKind::Hvm => build_hvm(xen, &request, &machine)?,
    };
    let took = started.elapsed();
    let after = xen.stats();
    println!(
        "built domain {domid} in {took:?}: {} hypercalls, {} mappings of {} frames; {:?}",
        after.hypercalls - before.hypercalls,
        after.map_calls - before.map_calls,
        after.mapped_frames - before.mapped_frames,
        built.extents
    );
    introduce(domid, built.store_gfn, &store)?;
    if options.kind == GuestKind::Hvm {
        println!("RAM: {:?}", check_hvm(&request, &machine)?);
        write_settings(domid)?;
    }
    start(xen, domid, options, built.console_gfn)
}

/// Starts the domain and watches its console, unless it is to stay.
fn start(xen: &Xen, domid: DomId, options: &Options, console: Gfn) -> Outcome<bool> {
    if options.stay {
        return Ok(true);
    }
    let ring = xen.map_foreign(domid, &[console])?;
    xen.unpause_domain(domid)?;
    watch(xen, domid, options, Console::new(ring))
}

/// Prepares the domain as callers of the builder do.
fn prepare(xen: &Xen, domid: DomId, options: &Options) -> Outcome<(Channel, Channel)> {
    let max_kib = options.memory_mib.max(options.maxmem_mib) << 10;
    xen.set_max_vcpus(domid, options.vcpus)?;
    xen.set_max_mem(domid, memory::max_mem_kib(options.memory_mib << 10))?;
    let store = Channel {
        port: xen.alloc_unbound(domid, DomId::ZERO)?,
        backend: DomId::ZERO,
    };
    let console = Channel {
        port: xen.alloc_unbound(domid, DomId::ZERO)?,
        backend: DomId::ZERO,
    };
    if options.kind != GuestKind::Pv {
        let pool = memory::paging_mempool_size_bytes(max_kib, options.vcpus, true);
        xen.set_paging_mempool(domid, pool)?;
    }
    apply_default_policy(xen, domid, options.kind, CpuPolicyOptions::default())?;
    Ok((store, console))
}

/// Introduces the domain to xenstored, and creates the nodes that a guest writes.
fn introduce(domid: DomId, store_gfn: Gfn, store: &Channel) -> Outcome<()> {
    let mut client = Client::connect()?;
    let home = xenstore::Path::domain(domid.0);
    let readable = Perms::owned_by(0).with(domid.0, Access::Read);
    client.mkdir(&home)?;
    client.set_perms(&home, &readable)?;
    client.write(&home.join("name")?, b"build_probe")?;
    client.write(&home.join("domid")?, domid.to_string().as_bytes())?;
    for name in ["device", "control", "cpu", "memory"] {
        client.mkdir(&home.join(name)?)?;
        client.set_perms(&home.join(name)?, &readable)?;
    }
    for name in [
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
        "control/shutdown",
    ] {
        client.mkdir(&home.join(name)?)?;
        client.set_perms(&home.join(name)?, &Perms::owned_by(domid.0))?;
    }
    client.introduce(domid.0, store_gfn.0, store.port.0)?;
    Ok(())
}

/// Writes the settings that hvmloader reads, with the usual values.
fn write_settings(domid: DomId) -> Outcome<()> {
    let mut client = Client::connect()?;
    let home = xenstore::Path::domain(domid.0);
    let readable = Perms::owned_by(0).with(domid.0, Access::Read);
    for folder in ["hvmloader", "platform"] {
        // What is made in a folder later has its permissions.
        client.mkdir(&home.join(folder)?)?;
        client.set_perms(&home.join(folder)?, &readable)?;
    }
    for (name, value) in [
        ("hvmloader/bios", "seabios"),
        ("hvmloader/allow-memory-relocate", "0"),
        ("platform/acpi", "1"),
        ("platform/acpi_s3", "1"),
        ("platform/acpi_s4", "1"),
    ] {
        client.write(&home.join(name)?, value.as_bytes())?;
    }
    Ok(())
}

/// Prints the console until the text comes, the time is up or the domain ends.
fn watch(xen: &Xen, domid: DomId, options: &Options, mut console: Console) -> Outcome<bool> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(options.seconds);
    let mut said = String::new();
    let found = |said: &str| {
        options
            .until
            .as_ref()
            .is_some_and(|text| said.contains(text.as_str()))
    };
    while Instant::now() < deadline && !found(&said) {
        let bytes = console.read()?;
        let text = String::from_utf8_lossy(&bytes);
        print!("{text}");
        said.push_str(&text);
        let info = xen.domain_info(domid)?.ok_or("the domain is gone")?;
        if info.flags.shutdown && bytes.is_empty() {
            println!("\nthe domain has shut down: {:?}", info.shutdown_reason);
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("\nlistened for {:?}", started.elapsed());
    Ok(options.until.is_none() || found(&said))
}

/// The backend's end of a console ring (`xen/include/public/io/console.h`).
struct Console {
    ring: Box<dyn GuestMemory>,
}

impl Console {
    const OUT: usize = 1024;
    const OUT_BYTES: u32 = 2048;
    const OUT_CONS: usize = 3080;
    const OUT_PROD: usize = 3084;

    fn new(ring: Box<dyn GuestMemory>) -> Console {
        Console { ring }
    }

    fn index(&self, offset: usize) -> Outcome<u32> {
        let mut bytes = [0; 4];
        self.ring.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads the guest's output since the last call.
    fn read(&mut self) -> Outcome<Vec<u8>> {
        let (consumed, produced) = (self.index(Self::OUT_CONS)?, self.index(Self::OUT_PROD)?);
        let count = produced.wrapping_sub(consumed).min(Self::OUT_BYTES);
        let mut bytes = Vec::new();
        for number in 0..count {
            let at = consumed.wrapping_add(number) % Self::OUT_BYTES;
            let mut byte = [0];
            self.ring.read(Self::OUT + at as usize, &mut byte)?;
            bytes.extend(byte);
        }
        self.ring.write(Self::OUT_CONS, &produced.to_le_bytes())?;
        Ok(bytes)
    }
}
