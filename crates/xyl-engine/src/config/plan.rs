//! From a configuration to a [`VmSpec`]: defaults filled in, and what Xyl cannot do refused by name
//! and line, so that no configuration is half obeyed.

use std::fmt::Write as _;
use std::path::PathBuf;

use uuid::Uuid;
use xen_build::MEMORY_MAX_KIB;
use xen_port::{CpuMap, GuestKind};
use xl_cfg::types::{Action as CfgAction, Affinity, NameRule, Passthrough, TimerMode, TscMode};
use xl_cfg::{Config, DomainConfig, DomainType, SetKey, Source, Value};

use crate::EngineError;
use crate::Host;
use crate::config::locate::{locate, whole_path};
use crate::host::topology;
use crate::vm::spec::{Action, OnShutdown, Shim, VmSpec};
use crate::vm::store;

/// KiB of a MiB.
const KIB_PER_MIB: u64 = 1024;
/// xl's timer mode for guests that say nothing: ticks are not delayed for missed ones.
pub(crate) const DEFAULT_TIMER_MODE: u64 = 1;

/// What a VM's record says where the host's configuration has switched claims off: xl.cfg has no setting
/// for it.
const NO_CLAIM: &str = "xyl_no_claim";

/// Settings that are obeyed.
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
    "tsc_mode",
    "timer_mode",
    "localtime",
    "rtc_timeoffset",
    "memory",
    "maxmem",
    "hap",
    "kernel",
    "ramdisk",
    "cmdline",
    "root",
    "extra",
    "pvshim",
    "pvshim_path",
    "pvshim_cmdline",
    "pvshim_extra",
    "seclabel",
    "init_seclabel",
];

/// Settings that have no effect in xl as here without what they belong to.
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

/// Bytes of a page. Xen gives trace buffers in whole pages.
const PAGE_BYTES: u32 = 4096;
/// The largest trace buffer of a vCPU that Xen gives, in bytes (`arch_sanitise_domain_config`).
const VMTRACE_MAX_BYTES: u32 = 64 << 20;
/// The most vCPUs of a PVH guest: `HVM_MAX_VCPUS` of Xen's public header hvm/hvm_info_table.h.
const PVH_VCPUS_MAX: u32 = 128;

/// What the host's own configuration says where a guest's says nothing (`/etc/xen/xl.conf`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDefaults {
    /// Maximum number of grant-table frames.
    pub max_grant_frames: Option<u32>,
    /// Maximum number of maptrack frames.
    pub max_maptrack_frames: Option<u32>,
    /// Highest grant-table version.
    pub max_grant_version: Option<u32>,
    /// Memory is not claimed before it is allocated.
    pub no_claim: bool,
}

/// A VM that can be created, and the configuration that asked for it.
#[derive(Debug)]
pub struct Planned {
    /// The VM to create.
    pub spec: VmSpec,
    /// The configuration, with its warnings.
    pub config: Config,
}

impl Planned {
    /// An error of a create of this VM, with the place of the setting that it is about.
    pub fn locate(&self, error: EngineError) -> EngineError {
        locate(&self.config, error)
    }

    /// The configuration in full, for whoever restarts the VM: every setting as it was given, and what
    /// was decided since, be it by this host's own configuration or while the VM ran.
    pub fn config_text(&self) -> String {
        config_text(&self.config.domain, &self.spec)
    }
}

/// Decides what a configuration asks for. `topology` tells the host's CPUs and the NUMA node of each;
/// it is asked only where the configuration names CPUs.
pub fn plan(
    config: Config,
    defaults: &HostDefaults,
    topology: &mut dyn FnMut() -> Result<Vec<(u32, u32)>, EngineError>,
) -> Result<Planned, EngineError> {
    let config = config.refuse_keys(why_not).map_err(xl_cfg::Error::from)?;
    let config =
        check_vmtrace(check_memory(check_vcpus(config)?)?)?.warn_of_keys(why_without_effect);
    match spec(&config.domain, defaults, topology) {
        Ok(spec) => Ok(Planned { spec, config }),
        Err(error) => Err(locate(&config, error)),
    }
}

/// Parses the configuration of a new VM; what Xyl cannot do is among the errors, beside all others. `names` is the host's
/// rule for names ([`crate::vm::names::rule`]).
pub fn parse<S: AsRef<str>>(
    source: Source,
    overrides: &[S],
    names: NameRule,
) -> Result<Config, xl_cfg::Error> {
    xl_cfg::parse_refusing(source, overrides, names, why_not)
}

/// Plans what a VM's record says.
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
    plan(config, &defaults, topology)
}

fn check_vcpus(config: Config) -> Result<Config, EngineError> {
    let nr_vcpus = config.domain.processors.max_vcpus;
    if config.domain.domain_type != DomainType::Pvh || nr_vcpus <= PVH_VCPUS_MAX {
        return Ok(config);
    }
    let key = if config.is_set("maxvcpus") {
        "maxvcpus"
    } else {
        "vcpus"
    };
    let message = format!("a PVH guest has at most {PVH_VCPUS_MAX} vCPUs; this is {nr_vcpus}");
    let rejected = config.refuse_value(key, message);
    Err(xl_cfg::Error::from(rejected).into())
}

/// What no domain can have is refused here, where the line of it is known.
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

/// Xen gives a trace buffer to guests with hardware virtualisation alone, and of a power of two.
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

/// The trace buffer of each vCPU, in bytes: whole pages, as libxl rounds it.
fn vmtrace_size_bytes(domain: &DomainConfig) -> u32 {
    let kib = domain.processors.vmtrace_buf_kib.unwrap_or(0);
    let size_bytes = kib.saturating_mul(1024);
    size_bytes
        .checked_next_multiple_of(PAGE_BYTES)
        .unwrap_or(u32::MAX)
}

/// Why a setting has no effect; `None` where it has, where it asks for nothing, and where the reader of the
/// configuration has said so already.
fn why_without_effect(key: &SetKey<'_>, domain: &DomainConfig) -> Option<String> {
    let info = key.info?;
    if !info.applies_to(domain.domain_type) || is_off(&key.value.to_value()) {
        return None;
    }
    let name = info.name;
    lacking(name).map(|what| format!("`{name}` has no effect: the guest has no {what}"))
}

/// What a guest of Xyl would need for a setting to have an effect.
fn lacking(name: &str) -> Option<&'static str> {
    let belongs = |(_, names): &&(&'static str, &[&str])| names.contains(&name);
    WITHOUT_EFFECT.iter().find(belongs).map(|(what, _)| *what)
}

/// Why a setting is refused; `None` where it is not.
fn why_not(key: &SetKey<'_>, domain: &DomainConfig) -> Option<String> {
    let info = key.info?;
    let name = info.name;
    let says_type = name == "type" || name == "builder" && !domain.raw.contains_key("type");
    if says_type && domain.domain_type == DomainType::Hvm {
        return Some(
            "HVM guests are not supported by Xyl yet: use type=\"pvh\" or type=\"pv\"".to_owned(),
        );
    }
    // Most of its other settings would be refused for that one reason.
    if domain.domain_type == DomainType::Hvm {
        return None;
    }
    if !info.applies_to(domain.domain_type) || name != "builder" && info.is_deprecated() {
        return None;
    }
    if let Some(reason) = unsupported_value(name, domain) {
        return Some(reason);
    }
    let value = key.value.to_value();
    let harmless = OBEYED.contains(&name) || lacking(name).is_some() || is_off(&value);
    (!harmless && !is_default(name, &value, domain))
        .then(|| format!("`{name}` is not supported by Xyl yet{}", instead(name)))
}

/// What to write meanwhile, where there is something.
fn instead(name: &str) -> &'static str {
    match name {
        "bootloader" => ": copy the guest's kernel out of its disk, and set `kernel`",
        _ => "",
    }
}

fn unsupported_value(name: &str, domain: &DomainConfig) -> Option<String> {
    let is_without_acpi = name == "acpi"
        && domain.domain_type == DomainType::Pvh
        && domain.platform.acpi == Some(false);
    is_without_acpi
        .then(|| "a PVH guest without ACPI tables is not supported by Xyl yet".to_owned())
}

/// Whether a value switches its setting off: nothing is asked for.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Atom(text) => text.is_empty() || text == "0",
        Value::List(items) => items.is_empty(),
    }
}

/// Whether a setting that is not obeyed says no more than the default.
fn is_default(name: &str, value: &Value, domain: &DomainConfig) -> bool {
    match name {
        "passthrough" => matches!(
            domain.platform.passthrough,
            Some(Passthrough::Default | Passthrough::Disabled)
        ),
        "acpi" => true,
        "oos" => domain.memory.out_of_sync == Some(true),
        "altp2m" => *value == Value::Atom("disabled".to_owned()),
        _ => false,
    }
}

fn spec(
    domain: &DomainConfig,
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
    Ok(VmSpec {
        name: domain.name.clone(),
        uuid: domain.uuid.unwrap_or_else(Uuid::new_v4),
        kind: match domain.domain_type {
            DomainType::Pv => GuestKind::Pv,
            DomainType::Pvh => GuestKind::Pvh,
            DomainType::Hvm => GuestKind::Hvm,
        },
        target_kib: memory.target_mib * KIB_PER_MIB,
        max_kib: memory.max_mib * KIB_PER_MIB,
        vcpus: processors.vcpus,
        max_vcpus,
        hard_affinity: affinity(&processors.hard_affinity)?,
        soft_affinity: affinity(&processors.soft_affinity)?,
        cpu_weight: percent(processors.scheduling.weight),
        cpu_cap: percent(processors.scheduling.cap_percent),
        pool: domain.platform.pool.clone(),
        kernel: whole_path(domain.boot.kernel.as_deref().unwrap_or("")),
        ramdisk: domain
            .boot
            .ramdisk
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(whole_path),
        cmdline: domain.boot.cmdline.clone(),
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
    })
}

fn shim(domain: &DomainConfig) -> Option<Shim> {
    let shim = &domain.boot.shim;
    shim.enabled.then(|| Shim {
        path: shim.path.as_deref().map(whole_path),
        cmdline: shim.cmdline.clone(),
        extra: shim.extra.clone(),
    })
}

/// The CPUs of each vCPU, up to the last that has any of its own.
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

/// Xen's numbers (`XEN_CPUID_TSC_MODE_*`).
fn tsc_mode(mode: Option<TscMode>) -> u32 {
    match mode {
        None | Some(TscMode::Default | TscMode::NativeParavirt) => 0,
        Some(TscMode::AlwaysEmulate) => 1,
        Some(TscMode::Native) => 2,
    }
}

/// Xen's numbers (`HVMPTM_*`).
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

/// Every setting as it was given, and what was decided since: a restart does the same again.
fn config_text(domain: &DomainConfig, spec: &VmSpec) -> String {
    let mut settings = domain.raw.clone();
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
    let mut text = String::new();
    for (name, value) in &settings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// The settings whose values may be others than the configuration's own.
fn decided(spec: &VmSpec) -> Vec<(&'static str, String)> {
    let mib = |kib: u64| kib.div_ceil(KIB_PER_MIB).to_string();
    let path = |path: &PathBuf| path.to_str().map(str::to_owned);
    let small = |value: Option<u16>| value.map(|value| value.to_string());
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let shim_path = spec.shim.as_ref().and_then(|shim| shim.path.as_ref());
    let settings = [
        ("name", Some(spec.name.clone())),
        ("uuid", Some(spec.uuid_text())),
        ("memory", Some(mib(spec.target_kib))),
        ("maxmem", Some(mib(spec.max_kib))),
        ("vcpus", Some(spec.vcpus.to_string())),
        ("maxvcpus", Some(spec.max_vcpus.to_string())),
        ("kernel", path(&spec.kernel)),
        ("ramdisk", spec.ramdisk.as_ref().and_then(path)),
        ("pvshim_path", shim_path.and_then(path)),
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

/// The VM as its record describes it.
pub(crate) fn of_record(host: &Host, uuid: Uuid) -> Result<Planned, EngineError> {
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

    fn try_plan(text: &str) -> Result<Planned, EngineError> {
        plan_record("guest.cfg", text, &mut || {
            Ok(vec![(0, 0), (1, 0), (2, 1), (3, 1)])
        })
    }

    fn planned(text: &str) -> Planned {
        try_plan(&format!("name = \"g\"\nkernel = \"/k\"\n{text}\n")).unwrap()
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
        let text = refused("disk = [ \"/dev/vg/x,raw,xvda,rw\" ]");
        assert!(
            text.contains("guest.cfg:3:1") && text.contains("`disk`"),
            "{text}"
        );
        for line in [
            "vif = [ \"bridge=br0\" ]",
            "type = \"hvm\"",
            "pci = [ \"01:00.0\" ]",
            "type = \"pvh\"\nacpi = 0",
            "vnc = 1",
            "passthrough = \"enabled\"",
        ] {
            assert!(refused(line).contains("not supported by Xyl yet"), "{line}");
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
    fn an_hvm_guest_is_refused_once() {
        let text =
            refused("type = \"hvm\"\nvnc = 1\ndisk = [ \"/x,raw,xvda,rw\" ]\nvif = [ \"\" ]");
        assert_eq!(text.matches("not supported").count(), 1, "{text}");
    }

    #[test]
    fn a_pvh_guest_has_no_more_vcpus_than_xen_gives() {
        planned("type = \"pvh\"\nvcpus = 128");
        for (line, place) in [("vcpus = 512", "4:9"), ("maxvcpus = 129", "4:12")] {
            let text = refused(&format!("type = \"pvh\"\n{line}"));
            assert!(
                text.contains(place) && text.contains("at most 128"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_wrong_value_does_not_hide_a_refusal() {
        let text = b"name = \"g\"\nkernel = \"/k\"\nmemory = 64\ndisk = [ \"/x,bad,xvda\" ]\nbootloader = \"pygrub\"\n";
        let error = parse::<&str>(
            Source::from_bytes("guest.cfg", text).unwrap(),
            &[],
            NameRule::Strict,
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("4:1: error: `disk` is not supported"),
            "{text}"
        );
        assert!(
            text.contains("cannot be `bad`") || text.contains("`bad`"),
            "{text}"
        );
        assert!(text.contains("copy the guest's kernel out"), "{text}");
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
        };
        let mut first = plan(config, &defaults, &mut || Ok(vec![(0, 0), (1, 0), (2, 1)])).unwrap();
        // The masks of xl.conf, laid over the plan.
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
    fn a_shim_is_planned_as_xl_would_and_its_record_keeps_it() {
        assert_eq!(planned("type = \"pvh\"").spec.shim, None);
        // Without `pvshim` the others have no effect, and a PV guest has no shim.
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
