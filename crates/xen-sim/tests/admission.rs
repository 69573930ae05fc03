//! Which guests start, and how: no configuration or change of files on the way leads to a bare 32-bit PV domain unless policy
//! and configuration both say so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[path = "../../xen-build/tests/common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use common::{Kernel, MIB, PAGE, narrow, pattern};
use os_port::SystemFiles;
use proptest::prelude::*;
use uuid::Uuid;
use xen_image::elfnote::types;
use xen_port::{DomId, Errno, GuestKind, PhysCaps, ShutdownReason, VersionInfo};
use xen_sim::{LastingFault, World};
use xl_cfg::Source;
use xyl_audit::{PolicyError, UnsupportedSetting};
use xyl_engine::Notice;
use xyl_engine::config::admission::{self, Decision, GuestType, Outcome, Record};
use xyl_engine::config::firmware;
use xyl_engine::config::plan::{self, HostDefaults, Planned};
use xyl_engine::config::policy_recheck::recheck;
use xyl_engine::config::shim::ShimError;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::restart;
use xyl_engine::{Cancel, Dirs, EngineError, ErrorCode, Host, Lacking};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000003";
const SAYS_PV32: &str = "xen-3.0-x86_32p ";
const SAYS_NO_PV32: &str = "Found 32-bit PV kernel, but CONFIG_PV32 missing";

/// Whether an error is about a line of the policy.
fn is_wrong_policy(error: &EngineError, at: usize) -> bool {
    matches!(error, EngineError::Policy(PolicyError::Wrong { line, .. }) if *line == at)
}

/// What a PV kernel says of itself, as ELF notes.
fn pv_notes() -> Kernel {
    Kernel::default()
        .text(types::XEN_VERSION, "xen-3.0")
        .text(types::LOADER, "generic")
        .text(types::GUEST_OS, "GRUB")
        .text(types::PAE_MODE, "yes")
        .number(types::VIRT_BASE, 0)
        .number(types::ENTRY, MIB)
        .number(types::HYPERCALL_PAGE, MIB)
        .part(MIB, pattern(PAGE, 1), PAGE)
}

fn pv64() -> Vec<u8> {
    pv_notes().elf()
}

fn pv32() -> Vec<u8> {
    narrow(&pv64())
}

fn shim(says: &str) -> Vec<u8> {
    Kernel::default()
        .part(MIB, says.as_bytes().to_vec(), PAGE)
        .note(types::PHYS32_ENTRY, &0x10_0010_u32.to_le_bytes())
        .elf()
}

struct Bench {
    world: World,
    host: Host,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(true)
    }

    /// On a host that runs bare 32-bit PV guests, or on one that does not.
    fn on(runs_pv32: bool) -> Bench {
        let capabilities = match runs_pv32 {
            true => "xen-3.0-x86_64 xen-3.0-x86_32p hvm-3.0-x86_64",
            false => "xen-3.0-x86_64 hvm-3.0-x86_32p hvm-3.0-x86_64",
        };
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(256);
        world.xen.set_version(VersionInfo {
            major: 4,
            minor: 17,
            extra: String::new(),
            compiler: String::new(),
            compile_by: String::new(),
            compile_domain: String::new(),
            compile_date: String::new(),
            capabilities: capabilities.to_owned(),
            changeset: String::new(),
            command_line: String::new(),
            build_id: String::new(),
            page_size_bytes: 4096,
            virt_start: 0,
        });
        let handles = world.handles(&world.fate(None)).unwrap();
        let mut dirs = Dirs::below(Path::new("/"));
        dirs.kernel_cache = folder.path().join("cache");
        dirs.usr = folder.path().join("usr");
        let host = Host {
            hv: handles.hv,
            store: handles.store,
            dirs,
            files: handles.files,
            clock: handles.clock,
            process: handles.process,
            spawn: handles.spawn,
            doorbells: handles.doorbells,
            sources: Default::default(),
            kernel: xyl_engine::host::dom0::Kernel::system(),
            devices: handles.devices,
            notice: std::rc::Rc::new(|_| ()),
        };
        Bench {
            world,
            host,
            folder,
        }
    }

    fn with_shim(self, says: Option<&str>) -> Bench {
        if let Some(says) = says {
            let folder = self.host.dirs.usr.join("lib/xen/boot");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("xen-shim"), shim(says)).unwrap();
        }
        self
    }

    fn with_policy(self, text: Option<&str>) -> Bench {
        self.set_policy(text);
        self
    }

    fn set_policy(&self, text: Option<&str>) {
        let path = &self.host.dirs.policy;
        if let Some(text) = text {
            self.host
                .files
                .create_folder(path.parent().unwrap())
                .unwrap();
            self.host.files.write(path, text.as_bytes()).unwrap();
        }
    }

    /// Creates a VM; `meddle` is called at each word of the create, with the kernel's path.
    fn create_with(
        &mut self,
        kernel: &[u8],
        settings: &str,
        meddle: &mut dyn FnMut(&Path),
    ) -> Result<DomId, EngineError> {
        let path = self.folder.path().join("kernel");
        std::fs::write(&path, kernel).unwrap();
        let text = format!(
            "name = \"g\"\nuuid = \"{UUID}\"\nmemory = 32\nkernel = \"{}\"\n{settings}\n",
            path.display()
        );
        let planned = plan::plan_record("bench", &text, &mut || Ok(vec![(0, 0)]))?;
        self.create_planned(&planned, &mut || meddle(&path))
    }

    /// Creates a planned VM; `meddle` is called at each word of the create.
    fn create_planned(
        &mut self,
        planned: &Planned,
        meddle: &mut dyn FnMut(),
    ) -> Result<DomId, EngineError> {
        let mut request = CreateRequest {
            spec: &planned.spec,
            config_text: &planned.config_text(),
            paused: false,
            process_ends: false,
            watch: &mut |_, _| Ok(()),
            before_start: &mut |_, _| Ok(()),
            notice: &mut |_: Notice<'_>| meddle(),
        };
        create(&mut self.host, &mut request, &Cancel::new())
    }

    fn create(&mut self, kernel: &[u8], settings: &str) -> Result<DomId, EngineError> {
        self.create_with(kernel, settings, &mut |_| ())
    }

    /// Whether it is a bare 32-bit PV domain, by the hypervisor's word.
    fn is_bare_pv32(&self, domid: DomId) -> bool {
        self.kind(domid) == GuestKind::Pv && self.host.hv.address_size_bits(domid).unwrap() == 32
    }

    fn kind(&self, domid: DomId) -> GuestKind {
        self.host.hv.domain_info(domid).unwrap().unwrap().kind()
    }

    fn record(&self) -> Record {
        admission::read(&*self.host.files, &self.host.dirs, UUID)
            .unwrap()
            .unwrap()
    }

    fn decide_again(&self, record: &Record) -> Decision {
        let host = &self.host;
        record
            .decide_again(&*host.hv, &*host.files, &host.dirs)
            .unwrap()
    }

    fn nr_domains(&self) -> usize {
        self.host.hv.domain_list().unwrap().len()
    }
}

fn policy(pv32: &str, pv_shim: &str) -> String {
    format!("version = 1\n[guests]\npv32 = \"{pv32}\"\npv-shim = \"{pv_shim}\"\n")
}

#[test]
fn by_default_a_32_bit_pv_kernel_runs_in_the_shim() {
    let mut bench = Bench::new().with_shim(Some(SAYS_PV32));
    let domid = bench.create(&pv32(), "type = \"pv\"").unwrap();
    assert_eq!(bench.kind(domid), GuestKind::Pvh);
    let record = bench.record();
    assert_eq!(record.decision.outcome, Outcome::ConvertToShim);
    assert!(record.shim.as_ref().unwrap().ends_with("xen-shim"));
    assert!(record.unseen().unwrap().contains("boot loader"));
    assert_eq!(bench.decide_again(&record), record.decision);

    // The policy changes while it runs: that can be seen, and the guest is left alone.
    bench.set_policy(Some(&policy("refuse", "allow")));
    let now = bench.decide_again(&record);
    assert_eq!(now.outcome, Outcome::Refuse);
    assert_eq!(bench.kind(domid), GuestKind::Pvh);
}

#[test]
fn firmware_is_judged_by_the_image_that_it_names() {
    let plan_on = |bench: &Bench, settings: &str| {
        let text = format!("name = 'g'\nuuid = '{UUID}'\nmemory = 32\ntype = 'pv'\n{settings}\n");
        let source = Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        let mut firmware =
            |name: &str| firmware::find(&SystemFiles, &bench.host.dirs.usr, None, name);
        let mut cpus = || Ok(vec![(0, 0)]);
        plan::plan(config, &HostDefaults::default(), &mut cpus, &mut firmware)
    };
    let with_grub = |bench: Bench| {
        let folder = bench.host.dirs.usr.join("lib/grub-xen");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("grub-i386-xen.bin"), pv32()).unwrap();
        bench
    };

    let mut bench = with_grub(Bench::new()).with_shim(Some(SAYS_PV32));
    let planned = plan_on(&bench, "firmware = 'pvgrub32'").unwrap();
    let domid = bench.create_planned(&planned, &mut || ()).unwrap();
    assert_eq!(bench.kind(domid), GuestKind::Pvh);
    assert!(bench.record().kernel.ends_with("grub-i386-xen.bin"));
    assert!(bench.record().is_boot_loader);

    let mut bench = with_grub(Bench::new());
    let planned = plan_on(&bench, "firmware = 'pvgrub32'\npvshim = 0").unwrap();
    let error = bench.create_planned(&planned, &mut || ()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAdmitted);
    assert_eq!(bench.nr_domains(), 0);

    let error = plan_on(&bench, "firmware = 'pvgrub64'").unwrap_err();
    assert_eq!(error.code(), ErrorCode::BootFile);
}

#[test]
fn a_restart_asks_again_and_keeps_the_configuration() {
    let mut bench = Bench::new().with_shim(Some(SAYS_PV32));
    let first = bench.create(&pv32(), "type = \"pv\"").unwrap();
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.world.shut_down(first, ShutdownReason::Reboot);
    let second = restart::restart(&mut bench.host, uuid, first, false)
        .unwrap()
        .unwrap();
    assert_eq!(bench.kind(second), GuestKind::Pvh);
    assert_eq!(bench.record().decision.guest, GuestType::PvShim);
    // Another kernel under the same path is looked at for itself.
    std::fs::write(bench.folder.path().join("kernel"), pv64()).unwrap();
    bench.world.shut_down(second, ShutdownReason::Reboot);
    let third = restart::restart(&mut bench.host, uuid, second, false)
        .unwrap()
        .unwrap();
    assert_eq!(bench.kind(third), GuestKind::Pv);
    assert_eq!(bench.record().decision.guest, GuestType::Pv64);
}

#[test]
fn what_cannot_be_converted_is_refused_with_cause_and_remedy() {
    for (says, settings, cause) in [
        (None, "", "no PV shim"),
        (Some(SAYS_NO_PV32), "", "without 32-bit PV"),
        (Some(SAYS_PV32), "pvshim = 0", "pvshim = 0"),
    ] {
        let mut bench = Bench::new().with_shim(says);
        let error = bench.create(&pv32(), settings).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotAdmitted, "{error}");
        let error = error.to_string();
        assert!(
            error.contains(cause) && error.contains("remedy") && !error.contains('\n'),
            "{error}"
        );
        assert_eq!(bench.nr_domains(), 0);
    }
    let mut bench = Bench::new().with_policy(Some("pv32 = 7"));
    let error = bench.create(&pv64(), "").unwrap_err();
    assert!(is_wrong_policy(&error, 1), "{error}");
}

#[test]
fn a_changed_verdict_is_told_once_and_no_guest_is_touched() {
    let mut bench = Bench::new().with_shim(Some(SAYS_PV32));
    let domid = bench.create(&pv32(), "type = \"pv\"").unwrap();
    let told = |bench: &Bench| -> Vec<(DomId, Outcome)> {
        bench
            .host
            .clock
            .wait_until(bench.host.clock.now() + Duration::from_secs(300));
        let told = recheck(&bench.host).unwrap();
        told.iter()
            .map(|(info, now)| (info.domid, now.outcome))
            .collect()
    };
    assert_eq!(told(&bench), []);
    bench.set_policy(Some(&policy("refuse", "allow")));
    assert_eq!(recheck(&bench.host).unwrap(), [], "looked at a moment ago");
    assert_eq!(told(&bench), [(domid, Outcome::Refuse)]);
    assert_eq!(told(&bench), [], "told already");
    // As it was, and otherwise again: news again.
    bench.set_policy(Some(&policy("convert", "allow")));
    assert_eq!(told(&bench), []);
    bench.set_policy(Some(&policy("refuse", "allow")));
    assert_eq!(told(&bench), [(domid, Outcome::Refuse)]);
    assert_eq!(bench.kind(domid), GuestKind::Pvh);

    bench.set_policy(Some("nonsense"));
    let clock = &bench.host.clock;
    clock.wait_until(clock.now() + Duration::from_secs(300));
    let error = recheck(&bench.host).unwrap_err();
    assert!(is_wrong_policy(&error, 1), "{error}");
}

#[test]
fn the_policy_names_the_shim_of_converted_guests() {
    let mut bench = Bench::new();
    let path = bench.folder.path().join("house-shim");
    let policy = format!("version = 1\n[shim]\npath = \"{}\"\n", path.display());
    bench.set_policy(Some(&policy));
    let error = bench
        .create(&pv32(), "type = \"pv\"")
        .unwrap_err()
        .to_string();
    for part in ["house-shim cannot be used: ", "remedy", "[shim]"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(bench.nr_domains(), 0);

    std::fs::write(&path, shim(SAYS_PV32)).unwrap();
    let domid = bench.create(&pv32(), "type = \"pv\"").unwrap();
    assert_eq!(bench.kind(domid), GuestKind::Pvh);
    assert_eq!(bench.record().shim.as_deref(), Some(path.as_path()));
}

#[test]
fn an_image_that_a_configuration_calls_its_shim_is_a_pvh_guest() {
    let mut bench = Bench::new()
        .with_shim(Some(SAYS_PV32))
        .with_policy(Some("version = 1\n[guests]\npvh = \"refuse\"\n"));
    let own = bench.folder.path().join("own-shim");
    std::fs::write(&own, shim(SAYS_PV32)).unwrap();
    let named = |path: &Path| {
        let path = path.display();
        format!("type = \"pvh\"\npvshim = 1\npvshim_path = \"{path}\"")
    };
    let error = bench.create(&pv64(), &named(&own)).unwrap_err();
    assert!(matches!(error, EngineError::NotAdmitted { .. }), "{error}");
    assert_eq!(bench.nr_domains(), 0);

    // The host's own is one, whether it is named or not.
    let hosts = bench.host.dirs.usr.join("lib/xen/boot/xen-shim");
    bench.create(&pv64(), &named(&hosts)).unwrap();
    assert_eq!(bench.record().decision.guest, GuestType::PvShim);

    let mut bench = Bench::new();
    let own = bench.folder.path().join("own-shim");
    std::fs::write(&own, shim(SAYS_PV32)).unwrap();
    bench.create(&pv64(), &named(&own)).unwrap();
    let record = bench.record();
    assert_eq!(record.decision.guest, GuestType::Pvh);
    assert_eq!(bench.decide_again(&record), record.decision);
}

#[test]
fn a_setting_outside_xens_security_support_takes_the_policys_word() {
    let msr = "msr_relaxed = 1";
    let mut bench = Bench::new();
    let error = bench.create(&pv64(), msr).unwrap_err();
    let EngineError::NotAdmitted { settings, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(settings, [UnsupportedSetting::MsrRelaxed]);
    assert_eq!(bench.nr_domains(), 0);

    bench.set_policy(Some("version = 1\n[unsupported]\nmsr_relaxed = \"warn\"\n"));
    bench.create(&pv64(), msr).unwrap();
    let record = bench.record();
    assert_eq!(record.unsupported, [UnsupportedSetting::MsrRelaxed]);
    assert_eq!(record.decision.outcome, Outcome::Allow);
    assert_eq!(record.decision.warnings.len(), 1);
    bench.set_policy(Some("version = 1\n"));
    assert_eq!(bench.decide_again(&record).outcome, Outcome::Refuse);
}

/// Its operator has started it, and the default was another one then.
#[test]
fn a_restart_warns_of_a_setting_that_a_create_is_refused_for() {
    let names_it = "version = 1\n[unsupported]\nmsr_relaxed = \"allow\"\n";
    let mut bench = Bench::new().with_policy(Some(names_it));
    let lines = Rc::new(RefCell::new(Vec::new()));
    let said = Rc::clone(&lines);
    bench.host.notice = Rc::new(move |line| said.borrow_mut().push(line.to_owned()));
    let first = bench
        .create(&pv64(), "type = \"pv\"\nmsr_relaxed = 1")
        .unwrap();
    bench.set_policy(Some("version = 1\n"));
    bench.world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    restart::restart(&mut bench.host, uuid, first, false)
        .unwrap()
        .unwrap();
    let record = bench.record();
    assert_eq!(record.unsupported, [UnsupportedSetting::MsrRelaxed]);
    assert_eq!(record.decision.outcome, Outcome::Allow);
    let is_told = |warning: &String| lines.borrow().iter().any(|line| line.contains(warning));
    assert_eq!(record.decision.warnings.len(), 1);
    assert!(record.decision.warnings.iter().all(is_told), "{lines:?}");
}

#[test]
fn a_vm_that_lost_its_domain_to_a_failed_restart_is_warned_of_too() {
    let names_it = "version = 1\n[unsupported]\nmsr_relaxed = \"allow\"\n";
    let mut bench = Bench::new().with_policy(Some(names_it));
    let first = bench
        .create(&pv64(), "type = \"pv\"\nmsr_relaxed = 1")
        .unwrap();
    bench.world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.set_policy(Some("this is no policy"));
    let error = restart::restart(&mut bench.host, uuid, first, false).unwrap_err();
    assert!(matches!(error.cause(), EngineError::Policy(_)), "{error}");
    assert!(error.is_of_the_host(), "{error}");
    // The policy is asked while the old domain is there still.
    assert_eq!(bench.nr_domains(), 1);
    bench.set_policy(Some("version = 1\n"));
    bench.world.fail_always(LastingFault::Xen {
        op: "populate_physmap",
        errno: Errno::ENOMEM,
    });
    restart::restart(&mut bench.host, uuid, first, false).unwrap_err();
    assert_eq!(bench.nr_domains(), 0);
    bench.world.lift_faults();
    restart::again(&mut bench.host, uuid).unwrap();
    assert_eq!(bench.nr_domains(), 1);
}

#[test]
fn what_the_host_lacks_is_found_before_anything_is_made() {
    let pvh = shim("");
    let allow = "version = 1\n[unsupported]\nnestedhvm = \"allow\"\nvmtrace_buf_kb = \"allow\"\n";
    for (settings, lacking) in [
        ("hap = 1", Lacking::Hap),
        ("nestedhvm = 1", Lacking::HapForNested),
        ("vmtrace_buf_kb = 64", Lacking::Vmtrace),
    ] {
        let mut bench = Bench::new().with_policy(Some(allow));
        bench.world.xen.set_caps(PhysCaps {
            hvm: true,
            pv: true,
            shadow: true,
            ..PhysCaps::default()
        });
        let settings = format!("type = \"pvh\"\n{settings}");
        let error = bench.create(&pvh, &settings).unwrap_err();
        assert!(
            matches!(error, EngineError::HostLacks(found) if found == lacking),
            "{settings}: {error}"
        );
        assert_eq!(bench.nr_domains(), 0);
    }
}

#[test]
fn a_label_means_nothing_without_security_modules() {
    let mut bench = Bench::new();
    let label = "seclabel = \"system_u:system_r:domU_t\"";
    bench.create(&pv64(), label).unwrap();

    let mut bench = Bench::new();
    bench.world.xen.add_control_domain(1);
    bench.world.xen.set_label(DomId::ZERO, 2);
    let error = bench.create(&pv64(), label).unwrap_err();
    assert!(matches!(error, EngineError::LabelsUnsupported), "{error}");
    assert_eq!(bench.nr_domains(), 1);
}

#[test]
fn a_policy_whose_shim_has_32_bit_pv_switched_off_starts_none_bare() {
    let mut bench = Bench::new()
        .with_shim(Some(SAYS_PV32))
        .with_policy(Some("version = 1\n[shim]\nextra = \"pv=no-32\"\n"));
    let error = bench.create(&pv32(), "type = \"pv\"").unwrap_err();
    assert!(
        matches!(&error, EngineError::Shim(ShimError::Pv32SwitchedOff { word, .. }) if word == "pv=no-32"),
        "{error}"
    );
    assert_eq!(bench.nr_domains(), 0);
}

/// Refuses 64-bit PV guests for a verdict of the audit.
fn rule(verdict: &str) -> String {
    format!(
        "version = 1\n[[rules]]\nname = \"house rule\"\nguests = [\"pv64\"]\nfamilies = [\"v2\"]\nverdicts = [\"{verdict}\"]\naction = \"refuse\"\nwhy = \"ask Kim\"\n"
    )
}

/// A host whose boot log says that nothing stands in the way of Spectre v2.
fn says_no_protection(bench: &Bench) {
    for line in [
        "(XEN) CPU Vendor: Intel, Family 6 (0x6), Model 94 (0x5e), Stepping 3 (raw 000506e3)",
        "(XEN) Speculative mitigation facilities:",
        "(XEN)   Hardware hints:",
        "(XEN)   Hardware features:",
        "(XEN)   Xen settings: BTI-Thunk: JMP, SPEC_CTRL: No, Other:",
        "(XEN)   Support for HVM VMs: None",
        "(XEN)   Support for PV VMs: None",
        "(XEN)   XPTI (64-bit PV only): Dom0 disabled, DomU disabled (without PCID)",
    ] {
        bench.world.xen.log(line);
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn a_rule_about_the_hosts_audit_refuses_and_says_why() {
    let mut bench = Bench::new().with_policy(Some(&rule("unprotected")));
    says_no_protection(&bench);
    let error = bench.create(&pv64(), "type = \"pv\"").unwrap_err();
    let line = error.to_string();
    for part in [
        "house rule",
        "Spectre v2 (branch target injection) is unprotected",
        "ask Kim",
        "remedy",
    ] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    assert_eq!(bench.nr_domains(), 0);
    // A rule whose verdict is not the host's does not apply.
    bench.set_policy(Some(&rule("protected")));
    bench.create(&pv64(), "type = \"pv\"").unwrap();
    let record = bench.record();
    assert_eq!(record.decision.outcome, Outcome::Allow);
    // A rule of today against a guest that runs: seen, and the guest is left alone.
    bench.set_policy(Some(&rule("unprotected")));
    let now = bench.decide_again(&record);
    assert_eq!(now.outcome, Outcome::Refuse);
    assert_eq!(bench.nr_domains(), 1);
}

#[test]
fn a_restart_asks_the_audit_too() {
    let mut bench = Bench::new().with_policy(Some(&rule("unprotected")));
    let first = bench.create(&pv64(), "type = \"pv\"").unwrap();
    says_no_protection(&bench);
    bench.world.shut_down(first, ShutdownReason::Reboot);
    let uuid = Uuid::parse_str(UUID).unwrap();
    let error = restart::restart(&mut bench.host, uuid, first, false).unwrap_err();
    assert!(
        matches!(&error, EngineError::NotAdmitted { line, .. } if line.contains("house rule")),
        "{error}"
    );
}

#[test]
fn what_is_not_known_of_the_host_is_unknown_to_the_policy() {
    // No log, no CPU policy, no featureset.
    let mut bench = Bench::new().with_policy(Some(&rule("unknown")));
    let error = bench.create(&pv64(), "type = \"pv\"").unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAdmitted, "{error}");
    // What unknown means is the policy's word.
    bench.set_policy(Some(&rule("unknown").replace("refuse", "warn")));
    bench.create(&pv64(), "type = \"pv\"").unwrap();
    let decision = bench.record().decision;
    assert_eq!(decision.outcome, Outcome::Allow);
    let warnings = decision.warnings.join("\n");
    assert!(warnings.contains("house rule"), "{warnings}");
}

#[test]
fn facts_are_kept_and_asked_for_only_where_a_rule_needs_them() {
    let mut bench = Bench::new();
    says_no_protection(&bench);
    let (files, run) = (bench.host.files.clone(), bench.host.dirs.run.clone());
    let kept = || files.read(&run.join("host-facts.json"), 1 << 20).is_ok();
    files
        .create_folder(Path::new(BOOT_ID).parent().unwrap())
        .unwrap();
    files.write(Path::new(BOOT_ID), b"one\n").unwrap();
    bench.set_policy(Some("version = 1\n[guests]\npv64 = \"refuse\"\n"));
    bench.create(&pv64(), "type = \"pv\"").unwrap_err();
    assert!(!kept(), "this policy has no rule");
    bench.set_policy(Some(&rule("unprotected")));
    bench.create(&pv64(), "type = \"pv\"").unwrap_err();
    assert!(kept());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_bare_32_bit_pv_domain_takes_policy_and_configuration(
        pv32_is in prop::sample::select(vec!["", "allow", "warn", "convert", "refuse", "nonsense"]),
        shim_is in prop::sample::select(vec!["allow", "warn", "refuse"]),
        says in prop::sample::select(vec![None, Some(SAYS_PV32), Some(SAYS_NO_PV32), Some("neither")]),
        kind in prop::sample::select(vec!["pv", "pvh"]),
        pvshim in prop::sample::select(vec!["", "pvshim = 0", "pvshim = 1"]),
        runs_pv32 in any::<bool>(),
        starts_wide in any::<bool>(),
        swaps in 0..3_usize,
    ) {
        let mut bench = Bench::on(runs_pv32).with_shim(says);
        if !pv32_is.is_empty() {
            bench.set_policy(Some(&policy(pv32_is, shim_is)));
        }
        let both_say_so =
            ["allow", "warn"].contains(&pv32_is) && kind == "pv" && pvshim == "pvshim = 0";
        let first = if starts_wide { pv64() } else { pv32() };
        let other = if starts_wide { pv32() } else { pv64() };
        // Somebody puts another kernel in its place as soon as the create says a word, or writes over it.
        let mut meddle = |path: &Path| match swaps {
            1 => std::fs::write(path, &other).unwrap(),
            2 => {
                let new = path.with_extension("new");
                std::fs::write(&new, &other).unwrap();
                std::fs::rename(&new, path).unwrap();
            }
            _ => {}
        };
        let outcome = bench.create_with(&first, &format!("type = \"{kind}\"\n{pvshim}"), &mut meddle);
        let is_bare = matches!(outcome, Ok(domid) if bench.is_bare_pv32(domid));
        prop_assert_eq!(is_bare, !starts_wide && both_say_so && runs_pv32);
        match outcome {
            Ok(domid) if bench.kind(domid) == GuestKind::Pv => {
                let guest = if is_bare { GuestType::Pv32 } else { GuestType::Pv64 };
                prop_assert!(is_bare || starts_wide, "a bare 32-bit PV domain");
                prop_assert_eq!(bench.record().decision.guest, guest);
            }
            Ok(_) => {
                let record = bench.record();
                prop_assert_eq!(record.decision.guest, GuestType::PvShim);
                prop_assert!(record.shim.is_some());
                prop_assert!(pv32_is.is_empty() || shim_is != "refuse");
                prop_assert!(starts_wide || says != Some(SAYS_NO_PV32));
            }
            Err(_) => prop_assert_eq!(bench.nr_domains(), 0),
        }
        let recorded = admission::read(&*bench.host.files, &bench.host.dirs, UUID);
        let marked = matches!(recorded, Ok(Some(record)) if record.decision.is_bare_pv32());
        prop_assert_eq!(marked, is_bare);
    }
}

#[test]
fn a_bare_32_bit_pv_guest_stays_bare_over_a_reboot_only_while_the_policy_says_so() {
    let mut bench = Bench::new().with_policy(Some(&policy("allow", "allow")));
    let first = bench.create(&pv32(), "pvshim = 0").unwrap();
    assert!(bench.is_bare_pv32(first));
    let infos = bench.host.hv.domain_list().unwrap();
    assert_eq!(
        admission::bare_pv32(&*bench.host.hv, &infos).unwrap(),
        [first]
    );
    let uuid = Uuid::parse_str(UUID).unwrap();
    bench.world.shut_down(first, ShutdownReason::Reboot);
    let second = restart::restart(&mut bench.host, uuid, first, false)
        .unwrap()
        .unwrap();
    assert!(bench.is_bare_pv32(second));
    bench.set_policy(Some(&policy("convert", "allow")));
    bench.world.shut_down(second, ShutdownReason::Reboot);
    let error = restart::restart(&mut bench.host, uuid, second, false).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAdmitted, "{error}");
}

#[test]
fn a_host_that_runs_none_says_so_before_anything_is_built() {
    let mut bench = Bench::on(false).with_policy(Some(&policy("allow", "allow")));
    let error = bench.create(&pv32(), "pvshim = 0").unwrap_err();
    assert!(matches!(error, EngineError::NoPv32), "{error}");
    assert_eq!(bench.nr_domains(), 0);
}
