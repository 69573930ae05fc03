//! Plans a [`VmSpec`] from a configuration. Create, restart and dry run call it.
//!
//! It fills in all defaults. It refuses each unsupported setting by name and line, so that no configuration is obeyed
//! only in part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use uuid::Uuid;
use xen_build::MEMORY_MAX_KIB;
use xen_port::{CpuMap, GuestKind};
use xl_cfg::types::{
    Action as CfgAction, Affinity, Cpuid, NameRule, Passthrough, TimerMode, TscMode,
};
use xl_cfg::{Config, DomainConfig, DomainType, SetKey, Source, Value};

use crate::EngineError;
use crate::Host;
use crate::config::boot_loader;
use crate::config::hvm;
use crate::config::locate::locate;
use crate::host::topology;
use crate::vm::channel::Channel;
use crate::vm::disk::Disk;
use crate::vm::framebuffer::Framebuffer;
use crate::vm::keyboard::Keyboard;
use crate::vm::nic::{self, VifDefaults};
use crate::vm::paths::whole_path;
use crate::vm::pci::PassedPci;
use crate::vm::spec::{Action, BootLoader, OnShutdown, Shim, VmSpec};
use crate::vm::store;

/// KiB of a MiB.
const KIB_PER_MIB: u64 = 1024;
/// xl's default timer mode: missed ticks do not delay later ones.
pub(crate) const DEFAULT_TIMER_MODE: u64 = 1;

/// Setting in a VM's record if xl.conf switches claims off. xl.cfg has no setting for it.
const NO_CLAIM: &str = "xyl_no_claim";

/// Settings that Xyl obeys.
const OBEYED: &[&str] = &[
    "name",
    "type",
    "builder",
    "uuid",
    "pool",
    "on_poweroff",
    "on_reboot",
    "on_watchdog",
    "on_crash",
    "on_soft_reset",
    "nomigrate",
    "max_grant_frames",
    "max_maptrack_frames",
    "max_grant_version",
    "max_event_channels",
    "vcpus",
    "maxvcpus",
    "cpus",
    "cpus_soft",
    "cpu_weight",
    "cap",
    "nestedhvm",
    "vmtrace_buf_kb",
    "msr_relaxed",
    "cpuid",
    "tsc_mode",
    "timer_mode",
    "localtime",
    "rtc_timeoffset",
    "memory",
    "maxmem",
    "hap",
    "kernel",
    "firmware",
    "ramdisk",
    "bootloader",
    "bootloader_args",
    "pci",
    "bootloader_restrict",
    "cmdline",
    "root",
    "extra",
    "pvshim",
    "pvshim_path",
    "pvshim_cmdline",
    "pvshim_extra",
    "seclabel",
    "init_seclabel",
    "disk",
    "vif",
    "channel",
    "vfb",
    "vkb",
];

/// Settings that have no effect, in xl too, without the setting that they belong to.
const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    (
        "device model",
        &[
            "device_model_version",
            "device_model_override",
            "device_model_stubdomain_override",
            "device_model_stubdomain_seclabel",
            "device_model_user",
            "device_model_args",
            "device_model_args_pv",
            "device_model_args_hvm",
            "dm_restrict",
            "stubdomain_kernel",
            "stubdomain_cmdline",
            "stubdomain_ramdisk",
            "stubdomain_memory",
        ],
    ),
    (
        "display",
        &[
            "vnclisten",
            "vncpasswd",
            "vncdisplay",
            "vncunused",
            "keymap",
            "opengl",
            "display",
            "xauthority",
        ],
    ),
    (
        "bootloader",
        &["bootloader_args", "bootloader_restrict", "bootloader_user"],
    ),
    (
        "PCI device",
        &[
            "pci_msitranslate",
            "pci_power_mgmt",
            "pci_permissive",
            "pci_seize",
        ],
    ),
];

/// Size of a page in bytes. Xen allocates trace buffers in whole pages.
const PAGE_BYTES: u32 = 4096;
/// Maximum trace buffer of a vCPU in bytes (`arch_sanitise_domain_config`).
const VMTRACE_MAX_BYTES: u32 = 64 << 20;
/// Maximum number of vCPUs of a PVH or HVM guest: `HVM_MAX_VCPUS` of Xen's public header hvm/hvm_info_table.h.
const HVM_VCPUS_MAX: u32 = 128;

/// The host's defaults from `/etc/xen/xl.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDefaults {
    /// Maximum number of grant-table frames.
    pub max_grant_frames: Option<u32>,
    /// Maximum number of maptrack frames.
    pub max_maptrack_frames: Option<u32>,
    /// Maximum grant-table version.
    pub max_grant_version: Option<u32>,
    /// Memory is allocated without a claim.
    pub no_claim: bool,
    /// Defaults of network interfaces.
    pub vif: VifDefaults,
}

/// A VM that can be created, and its configuration.
#[derive(Debug)]
pub struct Planned {
    /// Specification of the VM.
    pub spec: VmSpec,
    /// The configuration, with its warnings.
    pub config: Config,
}

impl Planned {
    /// Adds the place of the setting to an error of this VM's create.
    pub fn locate(&self, error: EngineError) -> EngineError {
        locate(&self.config, error)
    }

    /// The complete configuration for a restart: each setting as given, and the values that were decided later, by
    /// the host's configuration or while the VM ran.
    pub fn config_text(&self) -> String {
        config_text(&self.config.domain, &self.spec)
    }
}

/// Plans the VM of a configuration. `topology` returns each CPU of the host and its NUMA node; it is called only if
/// the configuration names CPUs. `firmware` returns the path of the boot loader that `firmware` names
/// ([`crate::config::firmware::find`]).
pub fn plan(
    config: Config,
    defaults: &HostDefaults,
    topology: &mut dyn FnMut() -> Result<Vec<(u32, u32)>, EngineError>,
    firmware: &mut dyn FnMut(&str) -> Result<PathBuf, EngineError>,
) -> Result<Planned, EngineError> {
    let config = config.refuse_keys(why_not).map_err(xl_cfg::Error::from)?;
    let config =
        check_vmtrace(check_memory(check_vcpus(config)?)?)?.warn_of_keys(why_without_effect);
    let kernel = match &config.domain.boot.firmware {
        // The firmware of an HVM guest is none of its kernel's.
        Some(name) if config.domain.domain_type != DomainType::Hvm => firmware(name),
        _ => {
            let path = config.domain.boot.kernel.as_deref().unwrap_or("");
            Ok(boot_path(&config.domain, path))
        }
    };
    match kernel.and_then(|kernel| spec(&config.domain, kernel, defaults, topology)) {
        Ok(spec) => Ok(Planned { spec, config }),
        Err(error) => Err(locate(&config, error)),
    }
}

/// The path of a kernel or ramdisk. That on a guest's disk is the boot loader's business.
fn boot_path(domain: &DomainConfig, path: &str) -> PathBuf {
    match domain.boot.bootloader {
        Some(_) => PathBuf::from(path),
        None => whole_path(path),
    }
}

/// The boot loader. A path is made absolute; a name is looked for at each start.
fn boot_loader_of(domain: &DomainConfig) -> Option<BootLoader> {
    let program = domain.boot.bootloader.as_deref()?;
    Some(BootLoader {
        program: match program.contains('/') {
            true => whole_path(program).display().to_string(),
            false => program.to_owned(),
        },
        arguments: domain.boot.bootloader_args.clone(),
    })
}

/// Parses the configuration of a new VM. Unsupported settings are reported with all other errors. `names` is the
/// host's rule for names ([`crate::vm::names::rule`]).
pub fn parse<S: AsRef<str>>(
    source: Source,
    overrides: &[S],
    names: NameRule,
) -> Result<Config, xl_cfg::Error> {
    xl_cfg::parse_refusing(source, overrides, names, why_not)
}

/// Plans a VM from its record.
pub fn plan_record(
    name: &str,
    text: &str,
    topology: &mut dyn FnMut() -> Result<Vec<(u32, u32)>, EngineError>,
) -> Result<Planned, EngineError> {
    let source = Source::from_bytes(name, text.as_bytes()).map_err(xl_cfg::Error::from)?;
    let config = xl_cfg::parse_record(source)?;
    let no_claim = config.domain.raw.get(NO_CLAIM) == Some(&Value::Atom("1".to_owned()));
    let defaults = HostDefaults {
        no_claim,
        ..HostDefaults::default()
    };
    // A record has the path of the boot loader, since it was decided when the VM was created.
    let mut firmware = |firmware: &str| {
        Err(EngineError::Record {
            path: name.into(),
            what: format!("it has `firmware = \"{firmware}\"` and no `kernel`"),
        })
    };
    plan(config, &defaults, topology, &mut firmware)
}

fn check_vcpus(config: Config) -> Result<Config, EngineError> {
    let nr_vcpus = config.domain.processors.max_vcpus;
    let kind = config.domain.domain_type;
    if kind == DomainType::Pv || nr_vcpus <= HVM_VCPUS_MAX {
        return Ok(config);
    }
    let key = if config.is_set("maxvcpus") {
        "maxvcpus"
    } else {
        "vcpus"
    };
    let message =
        format!("a guest of type `{kind}` has at most {HVM_VCPUS_MAX} vCPUs; this is {nr_vcpus}");
    let rejected = config.refuse_value(key, message);
    Err(xl_cfg::Error::from(rejected).into())
}

/// Refuses memory sizes that no domain can have, while their line is known.
fn check_memory(config: Config) -> Result<Config, EngineError> {
    const MAX_MIB: u64 = MEMORY_MAX_KIB / KIB_PER_MIB;
    let memory = &config.domain.memory;
    let sizes = [("memory", memory.target_mib), ("maxmem", memory.max_mib)];
    let too_large = |(key, mib): &(&str, u64)| *mib > MAX_MIB && config.is_set(key);
    let Some((key, mib)) = sizes.into_iter().find(too_large) else {
        return Ok(config);
    };
    let message = format!("a guest has at most {MAX_MIB} MiB of memory (16 TiB); this is {mib}");
    let rejected = config.refuse_value(key, message);
    Err(xl_cfg::Error::from(rejected).into())
}

/// Refuses invalid trace buffers. Xen has them only for guests with hardware virtualisation, with a size that is a
/// power of two.
fn check_vmtrace(config: Config) -> Result<Config, EngineError> {
    let size_bytes = vmtrace_size_bytes(&config.domain);
    let message = if size_bytes == 0 {
        return Ok(config);
    } else if config.domain.domain_type == DomainType::Pv {
        "Xen traces no PV guests: take the line out".to_owned()
    } else if !size_bytes.is_power_of_two() || size_bytes > VMTRACE_MAX_BYTES {
        let kib = size_bytes / 1024;
        format!(
            "a trace buffer has 4, 8, 16 KiB and so on, doubled, up to 65536; this is {kib} KiB"
        )
    } else {
        return Ok(config);
    };
    let rejected = config.refuse_value("vmtrace_buf_kb", message);
    Err(xl_cfg::Error::from(rejected).into())
}

/// Size of each vCPU's trace buffer in bytes, rounded to whole pages as in libxl.
fn vmtrace_size_bytes(domain: &DomainConfig) -> u32 {
    let kib = domain.processors.vmtrace_buf_kib.unwrap_or(0);
    let size_bytes = kib.saturating_mul(1024);
    size_bytes
        .checked_next_multiple_of(PAGE_BYTES)
        .unwrap_or(u32::MAX)
}

/// The reason why a setting has no effect. `None` if it has one, if its value asks for nothing, or if the parser has
/// reported it.
fn why_without_effect(key: &SetKey<'_>, domain: &DomainConfig) -> Option<String> {
    let info = key.info?;
    if !info.applies_to(domain.domain_type) || is_off(&key.value.to_value()) {
        return None;
    }
    let name = info.name;
    if domain.boot.bootloader.is_some() && name.starts_with("bootloader_") {
        let is_user = name == "bootloader_user";
        return is_user
            .then(|| format!("`{name}` has no effect: each boot loader is a user of its own"));
    }
    if name.starts_with("pci_") && !domain.pci.is_empty() {
        return None;
    }
    if domain.domain_type == DomainType::Hvm && is_of_machine(name) {
        return hvm::why_in_part(name, domain);
    }
    lacking(name).map(|what| format!("`{name}` has no effect: the guest has no {what}"))
}

/// Whether the machine of an HVM guest has what a setting is about, or the setting is refused.
fn is_of_machine(name: &str) -> bool {
    matches!(lacking(name), None | Some("device model" | "display"))
}

/// The feature that a guest of Xyl lacks, so that a setting has no effect.
fn lacking(name: &str) -> Option<&'static str> {
    let belongs = |(_, names): &&(&'static str, &[&str])| names.contains(&name);
    WITHOUT_EFFECT.iter().find(belongs).map(|(what, _)| *what)
}

/// The reason why a setting is refused. `None` if it is accepted.
fn why_not(key: &SetKey<'_>, domain: &DomainConfig) -> Option<String> {
    let info = key.info?;
    let name = info.name;
    if !info.applies_to(domain.domain_type) || name != "builder" && info.is_deprecated() {
        return None;
    }
    let of_hvm = hvm::why_not(name, domain);
    if let Some(reason) = of_hvm.or_else(|| unsupported_value(name, domain)) {
        return Some(reason);
    }
    let value = key.value.to_value();
    let is_hvm = domain.domain_type == DomainType::Hvm;
    let has_no_effect = lacking(name).is_some() && !(is_hvm && is_of_machine(name));
    let is_of_hvm = is_hvm && (hvm::is_obeyed(name) || hvm::is_default(name, domain));
    let harmless = OBEYED.contains(&name) || is_of_hvm || has_no_effect || is_off(&value);
    (!harmless && !is_default(name, &value, domain))
        .then(|| format!("`{name}` is not supported by Xyl yet{}", instead(name)))
}

/// Advice: another way to write the setting.
fn instead(name: &str) -> &'static str {
    match name {
        "vnc" => ": write `vfb = [ \"vnc=1\" ]`, with all of its settings in it",
        _ => "",
    }
}

fn unsupported_value(name: &str, domain: &DomainConfig) -> Option<String> {
    if name == "disk" {
        return domain
            .disks
            .iter()
            .find_map(|disk| Disk::of_config(disk).err());
    }
    if name == "vif" {
        return nic::why_not(&domain.vifs, domain.hvm.is_some());
    }
    if name == "channel" {
        return Channel::all_of_config(&domain.pv_devices.channels).err();
    }
    if name == "vfb" {
        return Framebuffer::all_of_config(&domain.framebuffers).err();
    }
    if name == "vkb" {
        let nr_framebuffers = domain.framebuffers.len();
        return Keyboard::all_of_config(&domain.pv_devices.keyboards, nr_framebuffers).err();
    }
    if name == "pci" {
        return PassedPci::all_of_config(&domain.pci, kind_of(domain)).err();
    }
    if name == "firmware" {
        return firmware_without_shim(domain);
    }
    if name == "bootloader" {
        return why_no_boot_loader(domain);
    }
    let is_without_acpi = name == "acpi"
        && domain.domain_type == DomainType::Pvh
        && domain.platform.acpi == Some(false);
    is_without_acpi
        .then(|| "a PVH guest without ACPI tables is not supported by Xyl yet".to_owned())
}

/// The reason why `bootloader` is refused.
fn why_no_boot_loader(domain: &DomainConfig) -> Option<String> {
    let boot = &domain.boot;
    boot.bootloader.as_ref()?;
    if boot.firmware.is_some() {
        return Some(
            "`bootloader` and `firmware` both say what to boot: take one of them out".to_owned(),
        );
    }
    let disks: Result<Vec<Disk>, String> = domain.disks.iter().map(Disk::of_config).collect();
    // A disk that is refused is told at `disk`.
    boot_loader::why_not(&disks.ok()?, &boot.bootloader_args)
}

/// The reason why `firmware` is refused: it names PV boot loaders, and a PVH guest without a shim starts none.
fn firmware_without_shim(domain: &DomainConfig) -> Option<String> {
    let firmware = domain.boot.firmware.as_deref()?;
    if domain.domain_type == DomainType::Hvm {
        return None;
    }
    let starts_pv = domain.domain_type == DomainType::Pv || domain.boot.shim.enabled;
    (!starts_pv).then(|| {
        format!(
            "`{firmware}` is a PV boot loader, which a guest of type `pvh` cannot start: write `kernel = \"/usr/lib/grub-xen/grub-i386-xen_pvh.bin\"` (Debian's package grub-xen-host), or type=\"pv\""
        )
    })
}

/// Whether the value switches the setting off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Atom(text) => text.is_empty() || text == "0",
        Value::List(items) => items.is_empty(),
    }
}

/// Whether a refused setting has its default value.
fn is_default(name: &str, value: &Value, domain: &DomainConfig) -> bool {
    match name {
        "passthrough" => {
            let is_off = matches!(
                domain.platform.passthrough,
                Some(Passthrough::Default | Passthrough::Disabled)
            );
            is_off || wants_iommu(domain)
        }
        "acpi" => true,
        "oos" => domain.memory.out_of_sync == Some(true),
        "altp2m" => *value == Value::Atom("disabled".to_owned()),
        _ => false,
    }
}

fn spec(
    domain: &DomainConfig,
    kernel: PathBuf,
    defaults: &HostDefaults,
    topology: &mut dyn FnMut() -> Result<Vec<(u32, u32)>, EngineError>,
) -> Result<VmSpec, EngineError> {
    let (processors, memory, limits) = (&domain.processors, &domain.memory, &domain.limits);
    let max_vcpus = processors.max_vcpus;
    let mut affinity = |wanted: &Option<Affinity>| match wanted {
        Some(affinity) => resolve(affinity, max_vcpus, &topology()?),
        None => Ok(Vec::new()),
    };
    let percent = |value: Option<u32>| value.and_then(|value| u16::try_from(value).ok());
    let uuid = domain.uuid.unwrap_or_else(Uuid::new_v4);
    let framebuffers = Framebuffer::all_of_config(&domain.framebuffers).unwrap_or_default();
    Ok(VmSpec {
        name: domain.name.clone(),
        uuid,
        kind: kind_of(domain),
        target_kib: memory.target_mib * KIB_PER_MIB,
        max_kib: memory.max_mib * KIB_PER_MIB,
        vcpus: processors.vcpus,
        max_vcpus,
        hard_affinity: affinity(&processors.hard_affinity)?,
        soft_affinity: affinity(&processors.soft_affinity)?,
        cpu_weight: percent(processors.scheduling.weight),
        cpu_cap: percent(processors.scheduling.cap_percent),
        pool: domain.platform.pool.clone(),
        kernel,
        ramdisk: domain
            .boot
            .ramdisk
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(|path| boot_path(domain, path)),
        cmdline: domain.boot.cmdline.clone(),
        boot_loader: boot_loader_of(domain),
        shim: shim(domain),
        wants_bare: domain.raw.get("pvshim").is_some_and(is_off),
        on: on_shutdown(domain),
        hap: memory.hap,
        nested_virt: domain.domain_type != DomainType::Pv && processors.nested_hvm.unwrap_or(false),
        vpmu: false,
        tsc_mode: tsc_mode(domain.time.tsc_mode),
        time_offset_s: time_offset_s(domain),
        rtc_offset_s: domain.time.rtc_offset_s.unwrap_or(0),
        localtime: domain.time.localtime == Some(true),
        timer_mode: domain
            .time
            .timer_mode
            .map_or(DEFAULT_TIMER_MODE, timer_mode),
        nomigrate: domain.platform.no_migrate.unwrap_or(false),
        cpuid: processors
            .cpuid
            .as_ref()
            .map(Cpuid::bits)
            .unwrap_or_default(),
        msr_relaxed: processors.msr_relaxed.unwrap_or(false),
        max_grant_frames: limits.max_grant_frames.or(defaults.max_grant_frames),
        max_maptrack_frames: limits.max_maptrack_frames.or(defaults.max_maptrack_frames),
        max_grant_version: limits.max_grant_version.or(defaults.max_grant_version),
        max_event_channels: limits.max_event_channels,
        vmtrace_size_bytes: vmtrace_size_bytes(domain),
        has_label: [
            &domain.platform.security_label,
            &domain.platform.init_security_label,
        ]
        .iter()
        .any(|label| label.is_some()),
        claim: !defaults.no_claim,
        // `why_not` has refused any other.
        disks: domain.disks.iter().flat_map(Disk::of_config).collect(),
        nics: nic::all_of_config(&domain.vifs, uuid, &defaults.vif, domain.hvm.is_some())?,
        channels: Channel::all_of_config(&domain.pv_devices.channels).unwrap_or_default(),
        keyboards: Keyboard::all_of_config(&domain.pv_devices.keyboards, framebuffers.len())
            .unwrap_or_default(),
        framebuffers,
        has_iommu: wants_iommu(domain) || !domain.pci.is_empty(),
        pci: PassedPci::all_of_config(&domain.pci, kind_of(domain)).unwrap_or_default(),
        hvm: hvm::machine(domain),
    })
}

fn kind_of(domain: &DomainConfig) -> GuestKind {
    match domain.domain_type {
        DomainType::Pv => GuestKind::Pv,
        DomainType::Pvh => GuestKind::Pvh,
        DomainType::Hvm => GuestKind::Hvm,
    }
}

/// Whether `passthrough` asks for the IOMMU. Only PV guests can have that: the tables of others are Xen's choice.
fn wants_iommu(domain: &DomainConfig) -> bool {
    let asks = matches!(
        domain.platform.passthrough,
        Some(Passthrough::Enabled | Passthrough::SyncPt)
    );
    asks && domain.domain_type == DomainType::Pv
}

fn shim(domain: &DomainConfig) -> Option<Shim> {
    let shim = &domain.boot.shim;
    shim.enabled.then(|| Shim {
        path: shim.path.as_deref().map(whole_path),
        cmdline: shim.cmdline.clone(),
        extra: shim.extra.clone(),
    })
}

/// The CPUs of each vCPU. The list ends with the last vCPU that has CPUs of its own.
fn resolve(
    affinity: &Affinity,
    max_vcpus: u32,
    topology: &[(u32, u32)],
) -> Result<Vec<CpuMap>, EngineError> {
    let mut maps = Vec::new();
    for vcpu in 0..max_vcpus {
        let Some(list) = affinity.of_vcpu(vcpu) else {
            break;
        };
        let cpus: CpuMap = list.resolve(topology).into_iter().collect();
        if cpus.is_empty() {
            return Err(EngineError::NoSuchCpus {
                vcpu,
                wanted: list.to_string(),
            });
        }
        maps.push(cpus);
    }
    Ok(maps)
}

fn on_shutdown(domain: &DomainConfig) -> OnShutdown {
    let actions = &domain.actions;
    OnShutdown {
        poweroff: action(actions.on_poweroff),
        reboot: action(actions.on_reboot),
        watchdog: action(actions.on_watchdog),
        crash: action(actions.on_crash),
        soft_reset: action(actions.on_soft_reset),
    }
}

fn action(action: CfgAction) -> Action {
    match action {
        CfgAction::Destroy => Action::Destroy,
        CfgAction::Restart => Action::Restart,
        CfgAction::CoredumpDestroy => Action::CoredumpDestroy,
        CfgAction::CoredumpRestart => Action::CoredumpRestart,
        CfgAction::RenameRestart => Action::RenameRestart,
        CfgAction::Preserve => Action::Preserve,
        CfgAction::SoftReset => Action::SoftReset,
    }
}

/// Xen's number of a time-stamp counter mode (`XEN_CPUID_TSC_MODE_*`).
fn tsc_mode(mode: Option<TscMode>) -> u32 {
    match mode {
        None | Some(TscMode::Default | TscMode::NativeParavirt) => 0,
        Some(TscMode::AlwaysEmulate) => 1,
        Some(TscMode::Native) => 2,
    }
}

/// Xen's number of a timer mode (`HVMPTM_*`).
fn timer_mode(mode: TimerMode) -> u64 {
    match mode {
        TimerMode::DelayForMissedTicks => 0,
        TimerMode::NoDelayForMissedTicks => 1,
        TimerMode::NoMissedTicksPending => 2,
        TimerMode::OneMissedTickPending => 3,
    }
}

fn time_offset_s(domain: &DomainConfig) -> i64 {
    let given = i64::from(domain.time.rtc_offset_s.unwrap_or(0));
    if domain.time.localtime != Some(true) {
        return given;
    }
    given + i64::from(crate::host::timezone::now().offset().seconds())
}

/// The text of a VM's record: each setting as given, then the decided values.
fn config_text(domain: &DomainConfig, spec: &VmSpec) -> String {
    let mut settings = domain.raw.clone();
    // `kernel` has the file that it has named.
    settings.remove("firmware");
    for (name, value) in decided(spec) {
        settings.insert(name.to_owned(), Value::Atom(value));
    }
    for (name, maps) in [
        ("cpus", &spec.hard_affinity),
        ("cpus_soft", &spec.soft_affinity),
    ] {
        if !maps.is_empty() {
            let lists = maps.iter().map(|map| Value::Atom(map.to_string()));
            settings.insert(name.to_owned(), Value::List(lists.collect()));
        }
    }
    if !spec.disks.is_empty() {
        let disks = spec.disks.iter().map(|disk| Value::Atom(disk.cfg_text()));
        settings.insert("disk".to_owned(), Value::List(disks.collect()));
    }
    if !spec.nics.is_empty() {
        let nics = spec.nics.iter().map(|nic| Value::Atom(nic.cfg_text()));
        settings.insert("vif".to_owned(), Value::List(nics.collect()));
    }
    if !spec.channels.is_empty() {
        let channels = spec.channels.iter();
        let channels = channels.map(|channel| Value::Atom(channel.cfg_text()));
        settings.insert("channel".to_owned(), Value::List(channels.collect()));
    }
    if !spec.framebuffers.is_empty() {
        let framebuffers = spec.framebuffers.iter();
        let framebuffers = framebuffers.map(|one| Value::Atom(one.cfg_text()));
        settings.insert("vfb".to_owned(), Value::List(framebuffers.collect()));
    }
    let mut keyboards = spec
        .keyboards
        .iter()
        .filter(|one| !one.is_of_framebuffer)
        .peekable();
    if keyboards.peek().is_some() {
        let keyboards = keyboards.map(|one| Value::Atom(one.cfg_text()));
        settings.insert("vkb".to_owned(), Value::List(keyboards.collect()));
    }
    if !spec.pci.is_empty() {
        let devices = spec.pci.iter().map(|one| Value::Atom(one.cfg_text()));
        settings.insert("pci".to_owned(), Value::List(devices.collect()));
    }
    text_of(&settings)
}

/// Settings as the text of a record.
fn text_of(settings: &BTreeMap<String, Value>) -> String {
    let mut text = String::new();
    for (name, value) in settings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// Changes a list in the text of a VM's record, such as `disk`. A list without items is left out.
///
/// # Errors
/// [`EngineError::Config`] for a text that is no configuration.
pub(crate) fn change_list(
    name: &str,
    text: &str,
    setting: &str,
    change: impl FnOnce(&mut Vec<String>),
) -> Result<String, EngineError> {
    let source = Source::from_bytes(name, text.as_bytes()).map_err(xl_cfg::Error::from)?;
    let mut settings = xl_cfg::parse_record(source)?.domain.raw;
    let mut items = match settings.remove(setting) {
        Some(Value::List(items)) => items.into_iter().filter_map(into_atom).collect(),
        _ => Vec::new(),
    };
    change(&mut items);
    if !items.is_empty() {
        let items = items.into_iter().map(Value::Atom).collect();
        settings.insert(setting.to_owned(), Value::List(items));
    }
    Ok(text_of(&settings))
}

fn into_atom(value: Value) -> Option<String> {
    match value {
        Value::Atom(text) => Some(text),
        Value::List(_) => None,
    }
}

/// The settings that may have another value than in the configuration.
fn decided(spec: &VmSpec) -> Vec<(&'static str, String)> {
    let mib = |kib: u64| kib.div_ceil(KIB_PER_MIB).to_string();
    let path = |path: &PathBuf| {
        path.to_str()
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
    };
    let boot_loader = spec.boot_loader.as_ref();
    let small = |value: Option<u16>| value.map(|value| value.to_string());
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let shim_path = spec.shim.as_ref().and_then(|shim| shim.path.as_ref());
    let machine = spec.hvm.as_ref();
    let bios_path = machine.and_then(|machine| machine.bios_path.as_ref());
    let loader_path = machine.and_then(|machine| machine.loader_path.as_ref());
    let settings = [
        ("name", Some(spec.name.clone())),
        ("uuid", Some(spec.uuid_text())),
        ("memory", Some(mib(spec.target_kib))),
        ("maxmem", Some(mib(spec.max_kib))),
        ("vcpus", Some(spec.vcpus.to_string())),
        ("maxvcpus", Some(spec.max_vcpus.to_string())),
        ("kernel", path(&spec.kernel)),
        ("ramdisk", spec.ramdisk.as_ref().and_then(path)),
        ("bootloader", boot_loader.map(|one| one.program.clone())),
        ("pvshim_path", shim_path.and_then(path)),
        ("bios", machine.map(|machine| machine.bios.to_string())),
        ("bios_path_override", bios_path.and_then(path)),
        ("firmware_override", loader_path.and_then(path)),
        ("cpu_weight", small(spec.cpu_weight)),
        ("cap", small(spec.cpu_cap)),
        ("max_grant_frames", number(spec.max_grant_frames)),
        ("max_maptrack_frames", number(spec.max_maptrack_frames)),
        ("max_grant_version", number(spec.max_grant_version)),
        (NO_CLAIM, (!spec.claim).then(|| "1".to_owned())),
    ];
    let is_set = |(name, value): (&'static str, Option<String>)| Some((name, value?));
    settings.into_iter().filter_map(is_set).collect()
}

/// Plans the VM from its record on this host.
pub fn of_record(host: &Host, uuid: Uuid) -> Result<Planned, EngineError> {
    let uuid = uuid.hyphenated().to_string();
    let text = store::read(&*host.files, &host.dirs, &uuid)?;
    let path = store::path(&host.dirs, &uuid);
    plan_record(&path.display().to_string(), &text, &mut || {
        topology::of(&*host.hv)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xl_cfg::{Code, Severity};

    fn try_plan(text: &str) -> Result<Planned, EngineError> {
        plan_record("guest.cfg", text, &mut || {
            Ok(vec![(0, 0), (1, 0), (2, 1), (3, 1)])
        })
    }

    fn no_firmware(name: &str) -> Result<PathBuf, EngineError> {
        panic!("asked for {name}")
    }

    fn planned(text: &str) -> Planned {
        try_plan(&format!("name = \"g\"\nkernel = \"/k\"\n{text}\n")).unwrap()
    }

    /// The codes of the errors for which a configuration is refused.
    fn codes(text: &str) -> Vec<Code> {
        let refused = try_plan(&format!("name = \"g\"\nkernel = \"/k\"\n{text}\n"));
        let EngineError::Config(error) = refused.unwrap_err() else {
            panic!("{text}");
        };
        let report = error.report().unwrap();
        let errors = report.iter().filter(|one| one.severity == Severity::Error);
        errors.map(|one| one.code).collect()
    }

    fn refused(text: &str) -> String {
        try_plan(&format!("name = \"g\"\nkernel = \"/k\"\n{text}\n"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn fills_in_what_xl_would() {
        let spec = planned("memory = 64").spec;
        assert_eq!(
            (spec.kind, spec.target_kib, spec.max_kib),
            (GuestKind::Pv, 65536, 65536)
        );
        assert_eq!(
            (spec.vcpus, spec.max_vcpus, spec.max_event_channels),
            (1, 1, 1023)
        );
        assert_eq!(spec.on.reboot, Action::Restart);
        assert_eq!(spec.on.poweroff, Action::Destroy);
        assert_eq!(spec.on.soft_reset, Action::SoftReset);
        assert!(spec.claim && !spec.uuid.is_nil());
    }

    #[test]
    fn refuses_by_name_and_line_what_it_cannot_do() {
        let text = refused("disk = [ \"/dev/vg/x,qed,xvda,rw\" ]");
        assert!(
            text.contains("guest.cfg:3:1") && text.contains("`xvda`"),
            "{text}"
        );
        for line in [
            "vif = [ \"bridge=br0,type=ioemu\" ]",
            "channel = [ \"name=a,connection=socket,path=a\" ]",
            "p9 = [ \"tag=a,path=/srv,security_model=none\" ]",
            "vfb = [ \"sdl=1\" ]",
            "vkb = [ \"backend-type=linux,backend=net\" ]",
            "type = \"hvm\"\nvfb = [ \"vnc=1\" ]",
            "type = \"hvm\"\ndisk = [ \"/x,qcow2,hda\" ]",
            "type = \"hvm\"\nvif = [ \"model=isa\" ]",
            "type = \"hvm\"\ndevice_model_args = [ \"-x\" ]",
            "type = \"hvm\"\npae = 0",
            "type = \"hvm\"\nms_vm_genid = \"generate\"",
            "type = \"hvm\"\nsoundhw = \"hda\"",
            "type = \"hvm\"\npci = [ \"01:00.0\" ]",
            "type = \"pvh\"\npci = [ \"01:00.0\" ]",
            "pci = [ \"01:00.*\" ]",
            "pci = [ \"01:00.0\", \"01:00.0\" ]",
            "type = \"pvh\"\nacpi = 0",
            "vnc = 1",
            "type = \"pvh\"\npassthrough = \"enabled\"",
            "passthrough = \"share_pt\"",
        ] {
            assert_eq!(codes(line), [Code::Unsupported], "{line}");
        }
    }

    #[test]
    fn accepts_what_asks_for_nothing() {
        for line in [
            "disk = []",
            "vif = []",
            "vnc = 0",
            "type = \"pvh\"\npvshim = 0",
            "type = \"pvh\"\nacpi = 1",
            "device_model_version = \"qemu-xen\"",
            "passthrough = \"disabled\"",
            "passthrough = \"enabled\"",
            "serial = \"pty\"",
        ] {
            planned(line);
        }
    }

    #[test]
    fn warns_of_what_has_no_effect() {
        let warnings = |text: &str| planned(text).config.report().to_string();
        for (line, why) in [
            ("vnclisten = \"0.0.0.0\"", "no display"),
            ("keymap = \"de\"", "no display"),
            ("vncpasswd = \"x\"", "no display"),
            ("device_model_version = \"qemu-xen\"", "no device model"),
            ("bootloader_args = [ \"-q\" ]", "no bootloader"),
            ("pci_permissive = 1", "no PCI device"),
        ] {
            let text = warnings(&format!("memory = 64\n{line}"));
            assert!(
                text.contains("guest.cfg:4:1") && text.contains(why),
                "{text}"
            );
        }
        assert_eq!(warnings("memory = 64\npci_permissive = 0"), "");
    }

    #[test]
    fn the_record_keeps_the_machine_of_an_hvm_guest() {
        let settings = "type = \"hvm\"\nfirmware = \"uefi\"\nbios_path_override = \"f/OVMF.fd\"\nfirmware_override = \"l\"\n\
            boot = \"dc\"\nacpi_s3 = 0\nhpet = 0\nviridian = [ \"defaults\" ]\nmmio_hole = 512\nvga = \"stdvga\"\n\
            vncdisplay = 7\nserial = \"pty\"\nusb = 1\nusbdevice = \"tablet\"\ndm_restrict = 1\n\
            disk = [ \"/dev/vg/x,raw,hda,rw\", \"/y.iso,raw,hdc,cdrom\" ]\nvif = [ \"type=vif\", \"model=e1000\" ]";
        let first = planned(settings);
        let machine = first.spec.hvm.as_ref().unwrap();
        assert_eq!(first.spec.kind, GuestKind::Hvm);
        assert_eq!(machine.bios, xl_cfg::types::Bios::Ovmf);
        assert!(machine.bios_path.as_ref().unwrap().is_absolute());
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
        // Without a kernel it boots from its disks.
        let text = "name = 'g'\ntype = 'hvm'\nmemory = 64\ndisk = [ '/x,raw,xvda' ]\n";
        let spec = try_plan(text).unwrap().spec;
        assert_eq!((spec.kernel, spec.ramdisk), (PathBuf::new(), None));
    }

    #[test]
    fn an_hvm_guest_is_told_of_an_interface_without_an_emulated_card() {
        let warnings = |vif: &str| {
            let text = format!("memory = 64\ntype = \"hvm\"\nvif = [ \"{vif}\" ]");
            planned(&text).config.report().to_string()
        };
        assert!(warnings("script=vif-route").contains("guest.cfg:5:1"));
        assert_eq!(warnings("bridge=br0"), "");
        assert_eq!(warnings("type=vif,script=vif-route"), "");
    }

    #[test]
    fn a_pvh_guest_has_no_more_vcpus_than_xen_gives() {
        planned("type = \"pvh\"\nvcpus = 128");
        for (line, place) in [("vcpus = 512", "4:9"), ("maxvcpus = 129", "4:12")] {
            let text = format!("type = \"pvh\"\n{line}");
            assert!(refused(&text).contains(place), "{text}");
            assert_eq!(codes(&text), [Code::OutOfRange]);
        }
    }

    #[test]
    fn a_wrong_value_does_not_hide_a_refusal() {
        let text = b"name = \"g\"\nkernel = \"/k\"\nmemory = 64\ndisk = [ \"/x,bad,xvda\" ]\nvtpm = [ \"backend=tpm\" ]\n";
        let error = parse::<&str>(
            Source::from_bytes("guest.cfg", text).unwrap(),
            &[],
            NameRule::Strict,
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("5:1: error: `vtpm` is not supported"),
            "{text}"
        );
        assert!(
            text.contains("cannot be `bad`") || text.contains("`bad`"),
            "{text}"
        );
    }

    #[test]
    fn resolves_cpus_on_this_host() {
        let spec = planned("vcpus = 2\ncpus = \"node:1\"").spec;
        assert_eq!(spec.hard_affinity, vec![CpuMap::from_iter([2, 3]); 2]);
        let text = refused("cpus = \"17\"");
        assert!(text.contains("17"), "{text}");
    }

    #[test]
    fn the_record_makes_the_same_vm_again() {
        let first = planned("memory = 64\ncmdline = 'a \"b\" \\\\ c'\nextra = \"x\"");
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_what_the_host_has_decided() {
        let text = "name = \"g\"\nkernel = \"/k\"\nvcpus = 2\ncpus = \"all\"\n";
        let source = Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        let defaults = HostDefaults {
            max_grant_frames: Some(40),
            max_maptrack_frames: Some(50),
            max_grant_version: Some(1),
            no_claim: true,
            ..HostDefaults::default()
        };
        let mut cpus = || Ok(vec![(0, 0), (1, 0), (2, 1)]);
        let mut first = plan(config, &defaults, &mut cpus, &mut no_firmware).unwrap();
        // The masks of xl.conf, applied to the plan.
        first.spec.hard_affinity = vec![CpuMap::from_iter([1]), CpuMap::from_iter([0, 2])];
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_what_changed_while_the_vm_ran() {
        let mut first = planned("memory = 64\nvcpus = 2\nmaxvcpus = 4");
        first.spec.name = "other".to_owned();
        (first.spec.target_kib, first.spec.vcpus) = (32 << 10, 3);
        (first.spec.cpu_weight, first.spec.cpu_cap) = (Some(512), Some(50));
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_the_disks() {
        let first = planned(
            "disk = [ '/dev/vg/x,raw,xvda,rw', 'vdev=xvdb,access=w!,no-discard,target=b,c.img' ]",
        );
        assert_eq!(first.spec.disks.len(), 2);
        assert!(
            first
                .spec
                .disks
                .iter()
                .all(|disk| disk.target.is_absolute())
        );
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_the_network_interfaces() {
        let first = planned(
            "vif = [ '', 'mac=00:16:3e:00:00:01,bridge=br1,vifname=web,rate=10Mb/s,mtu=9000,untrusted', 'devid=7,ip=10.0.0.1 10.0.0.2' ]",
        );
        assert_eq!(first.spec.nics.len(), 3);
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_the_channels() {
        let first = planned(
            "channel = [ 'connection=pty, name=org.example.agent', 'name=b,connection=pty,path=/x', 'name=c,connection=socket,path=/run/c' ]",
        );
        assert_eq!(first.spec.channels.len(), 3);
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_keeps_the_pci_devices_with_their_defaults() {
        let text = "pci = [ \"01:00.0,vslot=3\", \"name=nic,permissive=0\" ]\npci_permissive = 1\nmemory = 64";
        let first = planned(text);
        assert!(first.spec.has_iommu && first.spec.pci[0].is_permissive);
        assert!(!first.spec.pci[1].is_permissive);
        assert_eq!(first.config.report().to_string(), "");
        let again = plan_record("record", &first.config_text(), &mut || Ok(vec![])).unwrap();
        assert_eq!(again.spec.pci, first.spec.pci);
        assert!(
            planned("passthrough = \"enabled\"\nmemory = 64")
                .spec
                .has_iommu
        );
        assert!(!planned("memory = 64").spec.has_iommu);
    }

    #[test]
    fn the_record_keeps_the_framebuffer_and_the_keyboards() {
        let first = planned(
            "vfb = [ 'vnclisten=0.0.0.0:3,vncpasswd=secret' ]\nvkb = [ 'backend-type=linux,unique-id=a', 'backend-type=qemu' ]",
        );
        assert_eq!(
            (first.spec.framebuffers.len(), first.spec.keyboards.len()),
            (1, 3)
        );
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
    }

    #[test]
    fn the_record_has_the_file_that_firmware_named() {
        let plan_with = |text: &str| {
            let text = format!("name = 'g'\nfirmware = 'pvgrub32'\n{text}\n");
            let source = Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
            let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
            let mut found = |name: &str| Ok(PathBuf::from(format!("/usr/{name}.bin")));
            let mut cpus = || Ok(Vec::new());
            plan(config, &HostDefaults::default(), &mut cpus, &mut found)
        };
        let first = plan_with("type = 'pv'").unwrap();
        assert_eq!(first.spec.kernel, PathBuf::from("/usr/pvgrub32.bin"));
        let again = try_plan(&first.config_text()).unwrap();
        assert_eq!(again.spec, first.spec);
        // A PVH guest starts a PV boot loader in the shim alone.
        plan_with("type = 'pvh'\npvshim = 1").unwrap();
        let error = plan_with("type = 'pvh'").unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::Configuration);
    }

    #[test]
    fn a_boot_loader_reads_the_first_disk_and_its_record_keeps_it() {
        let try_with = |text: &str| try_plan(&format!("name = 'g'\nmemory = 64\n{text}\n"));
        let disk = "disk = [ '/dev/vg/x,raw,xvda,rw', '/y,qcow2,xvdb,rw' ]";
        let first = try_with(&format!(
            "bootloader = 'pygrub'\nbootloader_args = [ '--entry=1' ]\n{disk}"
        ))
        .unwrap();
        let boot_loader = first.spec.boot_loader.clone().unwrap();
        assert_eq!(boot_loader.program, "pygrub");
        assert_eq!(boot_loader.arguments, ["--entry=1"]);
        assert_eq!(first.spec.kernel, PathBuf::new());
        assert_eq!(try_plan(&first.config_text()).unwrap().spec, first.spec);
        // Kernel and ramdisk are on the guest's disk.
        let text = format!("bootloader = '/l/b'\nkernel = 'k'\nramdisk = '/r'\n{disk}");
        let first = try_with(&text).unwrap();
        assert_eq!(first.spec.kernel, PathBuf::from("k"));
        assert_eq!(first.spec.ramdisk, Some(PathBuf::from("/r")));
        assert_eq!(try_plan(&first.config_text()).unwrap().spec, first.spec);
        let many = format!("bootloader_args = [ {} ]\n{disk}", "'a',".repeat(33));
        for text in [
            "",
            "disk = [ '/x.iso,,hdc,cdrom' ]",
            "disk = [ '/x,qcow2,xvda' ]",
            "disk = [ '/x,vhd,xvda' ]",
            &format!("firmware = 'pvgrub64'\n{disk}"),
            &many,
        ] {
            let error = try_with(&format!("bootloader = 'pygrub'\n{text}")).unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::Configuration, "{text}");
        }
    }

    #[test]
    fn network_interfaces_get_the_hosts_defaults() {
        let config = |vif: &str| {
            let text = format!("name = 'g'\nkernel = '/k'\nvif = [ '{vif}' ]\n");
            let source = Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
            xl_cfg::parse::<&str>(source, &[]).unwrap()
        };
        let plan_with = |vif: &str, defaults: VifDefaults| {
            let defaults = HostDefaults {
                vif: defaults,
                ..HostDefaults::default()
            };
            plan(
                config(vif),
                &defaults,
                &mut || Ok(Vec::new()),
                &mut no_firmware,
            )
        };
        let route = VifDefaults {
            script: Some("vif-route".to_owned()),
            ..VifDefaults::default()
        };
        let spec = plan_with("", route.clone()).unwrap().spec;
        let script = spec.nics[0].script().unwrap();
        assert_eq!(script.path, "/etc/xen/scripts/vif-route");
        let spec = plan_with("script=vif-bridge", route).unwrap().spec;
        assert_eq!(spec.nics[0].script(), None);
        let bridge = VifDefaults {
            bridge: Some("lan".to_owned()),
            ..VifDefaults::default()
        };
        let spec = plan_with("", bridge).unwrap().spec;
        assert_eq!(spec.nics[0].bridge(), "lan");
    }

    #[test]
    fn a_shim_is_planned_as_xl_would_and_its_record_keeps_it() {
        assert_eq!(planned("type = \"pvh\"").spec.shim, None);
        // Without `pvshim`, the other shim settings have no effect. A PV guest has no shim.
        for without in ["type = \"pvh\"\npvshim_extra = \"x\"", "pvshim = 1"] {
            assert_eq!(planned(without).spec.shim, None, "{without}");
        }
        let command_line = |settings: &str| {
            let first = planned(&format!("type = \"pvh\"\npvshim = 1\n{settings}"));
            let again = try_plan(&first.config_text()).unwrap();
            assert_eq!(again.spec, first.spec);
            assert_eq!(first.spec.kind, GuestKind::Pvh);
            first.spec.shim.unwrap().command_line()
        };
        assert_eq!(command_line(""), "pv-shim console=xen,pv");
        assert_eq!(
            command_line("pvshim_extra = \"loglvl=all\""),
            "pv-shim console=xen,pv loglvl=all"
        );
        assert_eq!(
            command_line(
                "pvshim_cmdline = \"a b\"\npvshim_extra = \"c\"\npvshim_path = \"x/shim\""
            ),
            "a b c"
        );
    }

    #[test]
    fn a_trace_buffer_has_whole_pages_and_a_size_that_xen_gives() {
        let size_bytes = |kib: u32| {
            let text = format!("type = \"pvh\"\nvmtrace_buf_kb = {kib}");
            try_plan(&format!("name = \"g\"\nkernel = \"/k\"\n{text}\n"))
                .map(|planned| planned.spec.vmtrace_size_bytes)
        };
        for (kib, bytes) in [(0, 0), (1, 4096), (4, 4096), (5, 8192), (65536, 64 << 20)] {
            assert_eq!(size_bytes(kib).unwrap(), bytes, "{kib}");
        }
        for kib in [9, 12, 65537, 131_072, i32::MAX.unsigned_abs()] {
            let error = size_bytes(kib).unwrap_err();
            assert!(matches!(error, EngineError::Config(_)), "{kib}: {error}");
        }
        assert!(refused("vmtrace_buf_kb = 4").contains("3:18"));
    }

    #[test]
    fn a_pv_guest_has_no_nested_virtualisation() {
        assert!(!planned("nestedhvm = 1").spec.nested_virt);
        assert!(planned("type = \"pvh\"\nnestedhvm = 1").spec.nested_virt);
    }
}
