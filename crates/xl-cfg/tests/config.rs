//! What configurations amount to: defaults, overrides, places of settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use xl_cfg::types::{Action, Affinity, DiskFormat, NameRule};
use xl_cfg::{Config, DomainType, Error, KeyClass, Source, SourceError, parse, read_file};

fn config(text: &str, overrides: &[&str]) -> Config {
    let source = Source::from_bytes("guest.cfg", text.as_bytes()).unwrap();
    parse(source, overrides).unwrap_or_else(|error| panic!("{error}"))
}

/// A PV guest with `text` besides what has to be there.
fn pv(text: &str) -> Config {
    config(&format!("name='g'; kernel='/k'; memory=64\n{text}"), &[])
}

#[test]
fn defaults_are_xls() {
    let domain = config("name='g'; kernel='/k'", &[]).domain;
    assert_eq!(domain.domain_type, DomainType::Pv);
    assert_eq!((domain.memory.target_mib, domain.memory.max_mib), (32, 32));
    assert_eq!(
        (domain.processors.vcpus, domain.processors.max_vcpus),
        (1, 1)
    );
    assert_eq!(domain.uuid, None);
    assert_eq!(domain.actions.on_poweroff, Action::Destroy);
    assert_eq!(domain.actions.on_reboot, Action::Restart);
    assert_eq!(domain.actions.on_watchdog, Action::Destroy);
    assert_eq!(domain.actions.on_crash, Action::Destroy);
    assert_eq!(domain.actions.on_soft_reset, Action::SoftReset);
    assert_eq!(domain.limits.max_event_channels, 1023);
    assert!(domain.hvm.is_none());
}

#[test]
fn memory_and_processors_fill_each_other_in() {
    let sizes = |text: &str| {
        let memory = config(&format!("name='g'; kernel='/k'; {text}"), &[])
            .domain
            .memory;
        (memory.target_mib, memory.max_mib)
    };
    assert_eq!(sizes("memory=64"), (64, 64));
    assert_eq!(sizes("maxmem=64"), (64, 64));
    assert_eq!(sizes("memory=64; maxmem=128"), (64, 128));
    let vcpus = |text: &str| {
        let processors = pv(text).domain.processors;
        (processors.vcpus, processors.max_vcpus)
    };
    assert_eq!(vcpus("vcpus=2"), (2, 2));
    assert_eq!(vcpus("maxvcpus=4"), (1, 4));
    assert_eq!(vcpus("vcpus=2; maxvcpus=4"), (2, 4));
}

#[test]
fn quoted_numbers_are_numbers() {
    let domain = config(
        "name='g'; kernel='/k'; memory='0x40'; vcpus=' 2'; rtc_timeoffset='-3600'; hap='7'",
        &[],
    )
    .domain;
    assert_eq!((domain.memory.target_mib, domain.processors.vcpus), (64, 2));
    assert_eq!(domain.time.rtc_offset_s, Some(-3600));
    assert_eq!(domain.memory.hap, Some(true));
}

#[test]
fn bare_numbers_are_texts_where_texts_belong() {
    let domain = pv("cmdline=1; cpus=0; pool=7f").domain;
    assert_eq!(domain.boot.cmdline.as_deref(), Some("1"));
    assert_eq!(domain.platform.pool.as_deref(), Some("7f"));
    assert_eq!(
        domain
            .processors
            .hard_affinity
            .unwrap()
            .of_vcpu(0)
            .unwrap()
            .to_string(),
        "0"
    );
}

#[test]
fn overrides_come_last_and_append() {
    let text = "name='g'\nkernel='/k'\nmemory=64\nvif=['bridge=a']\ncmdline='quiet'";
    let config = config(
        text,
        &[
            "memory=128; vcpus=2",
            "vif+=['bridge=b']",
            "cmdline+=' single'",
        ],
    );
    assert!(config.report().is_empty(), "{}", config.report());
    let domain = &config.domain;
    assert_eq!(
        (domain.memory.target_mib, domain.processors.vcpus),
        (128, 2)
    );
    let bridges: Vec<_> = domain
        .vifs
        .iter()
        .map(|vif| vif.bridge.as_deref().unwrap())
        .collect();
    assert_eq!(bridges, ["a", "b"]);
    assert_eq!(domain.boot.cmdline.as_deref(), Some("quiet single"));
    assert_eq!(
        config.location_of("memory").unwrap().to_string(),
        "<command line>:1:1"
    );
    assert_eq!(
        config.location_of("vcpus").unwrap().to_string(),
        "<command line>:1:13"
    );
    assert_eq!(
        config.location_of("vif").unwrap().to_string(),
        "<command line>:2:1"
    );
    assert_eq!(
        config.location_of("name").unwrap().to_string(),
        "guest.cfg:1:1"
    );
}

#[test]
fn the_last_of_two_settings_counts() {
    let config = pv("vcpus=2\nvcpus=3\n");
    assert_eq!(config.domain.processors.vcpus, 3);
    assert_eq!(config.location_of("vcpus").unwrap().line, 3);
    assert_eq!(config.report().iter().count(), 1);
}

#[test]
fn set_keys_are_listed_in_order_with_their_classes() {
    let config = config(
        "zzz=1\nname='g'; vsnd=[]\nkernel='/k'\nmemory=64\nvnc=0",
        &["name='h'"],
    );
    let keys: Vec<_> = config.set_keys().map(|key| (key.name, key.class)).collect();
    let expected = [
        ("zzz", KeyClass::Unknown),
        ("vsnd", KeyClass::Niche),
        ("kernel", KeyClass::Core),
        ("memory", KeyClass::Core),
        ("vnc", KeyClass::Common),
        ("name", KeyClass::Core),
    ];
    assert_eq!(keys, expected);
    assert_eq!(config.span_of("disk"), None);
    assert!(config.is_set("vnc") && !config.is_set("vncdisplay"));
}

#[test]
fn callers_refuse_settings_by_name_and_line() {
    let text = "vif = [ '' ]\ndisk = [ ]\nvcpuz = 2\n";
    let why = |key: &xl_cfg::SetKey<'_>, domain: &xl_cfg::DomainConfig| match key.name {
        "vif" if !domain.vifs.is_empty() => {
            Some("network interfaces are not supported yet".to_owned())
        }
        "disk" if !domain.disks.is_empty() => Some("disks are not supported yet".to_owned()),
        _ => None,
    };
    let rejected = pv(text).refuse_keys(why).unwrap_err();
    let expected = "\
guest.cfg:2:1: error: network interfaces are not supported yet
  2 | vif = [ '' ]
    | ^^^
guest.cfg:4:1: warning: unknown setting `vcpuz`, ignored
  4 | vcpuz = 2
    | ^^^^^
    = help: did you mean `vcpus`?";
    assert_eq!(rejected.to_string(), expected);
    assert!(pv("disk = [ ]").refuse_keys(why).is_ok());
}

#[test]
fn affinity_is_for_all_vcpus_or_for_each() {
    let of = |text: &str, vcpu| {
        let affinity: Affinity = pv(text).domain.processors.hard_affinity.unwrap();
        affinity.of_vcpu(vcpu).map(ToString::to_string)
    };
    assert_eq!(of("vcpus=2; cpus='0-3,^1'", 1).as_deref(), Some("0-3,^1"));
    assert_eq!(of("vcpus=2; cpus=['1', 2]", 1).as_deref(), Some("2"));
    assert_eq!(of("vcpus=2; cpus=['1']", 1), None);
}

#[test]
fn command_lines_are_put_together() {
    let cmdline = |text: &str| pv(text).domain.boot.cmdline;
    assert_eq!(
        cmdline("root='/dev/xvda'; extra='quiet'").as_deref(),
        Some("root=/dev/xvda quiet")
    );
    assert_eq!(
        cmdline("root='/dev/xvda'").as_deref(),
        Some("root=/dev/xvda")
    );
    assert_eq!(cmdline("extra='quiet'").as_deref(), Some("quiet"));
    assert_eq!(cmdline("cmdline=''; extra='quiet'").as_deref(), Some(""));
    assert_eq!(cmdline(""), None);
}

#[test]
fn pv_guests_get_what_xl_makes_for_them() {
    let domain = pv("vnc=1; vncdisplay=2").domain;
    assert_eq!(domain.framebuffers.len(), 1);
    assert_eq!(domain.framebuffers[0].vnc.display, Some(2));
    assert_eq!(
        pv("vnc=1; vfb=['vnc=0']").domain.framebuffers[0]
            .vnc
            .enabled,
        Some(false)
    );
    assert_eq!(pv("pci=['03:00.0']").domain.platform.e820_host, Some(true));
}

#[test]
fn disks_in_all_notations_are_the_same() {
    let disks = |specs: &[&str]| -> Vec<_> {
        specs
            .iter()
            .flat_map(|spec| pv(&format!("disk=['{spec}']")).domain.disks)
            .collect()
    };
    let plain = disks(&[
        "/dev/vg/guest,,hda",
        "/dev/vg/guest,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest",
        "raw:/dev/vg/guest,hda,w",
        "phy:/dev/vg/guest,hda,w",
        "tap:aio:raw:/dev/vg/guest,hda",
    ]);
    assert_eq!(plain.len(), 6);
    assert!(plain.iter().all(|disk| *disk == plain[0]), "{plain:#?}");
    let cdroms = disks(&[
        "/srv/image.iso,,hdc,cdrom",
        "/srv/image.iso,,hdc,,cdrom",
        "/srv/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/srv/image.iso",
        "raw:/srv/image.iso,hdc:cdrom,ro",
    ]);
    assert!(cdroms.iter().all(|disk| *disk == cdroms[0]), "{cdroms:#?}");
    let empty = disks(&[
        ",hdc:cdrom,r",
        "vdev=hdc,cdrom",
        ",,hdc,,cdrom",
        "devtype=cdrom,,,hdc",
    ]);
    assert!(
        empty
            .iter()
            .all(|disk| *disk == empty[0] && disk.format == DiskFormat::Empty),
        "{empty:#?}"
    );
    let odd = disks(&["vdev=xvda,target=/a,b=c:d,"]);
    assert_eq!(odd[0].target.as_deref(), Some("/a,b=c:d"));
}

#[test]
fn files_that_are_none() {
    let folder = std::env::temp_dir();
    assert!(matches!(
        read_file::<&str>(&folder, &[]),
        Err(Error::Source(SourceError::NotAFile { .. }))
    ));
    let missing = folder.join("xl-cfg-no-such-file.cfg");
    assert!(matches!(
        read_file::<&str>(Path::new("/proc/self/status"), &[]),
        Err(Error::Source(SourceError::NotAFile { .. }))
    ));
    assert!(matches!(
        read_file::<&str>(&missing, &[]),
        Err(Error::Source(SourceError::Read { .. }))
    ));
    let config = read_file(
        Path::new("/dev/null"),
        &["name='g'", "kernel='/k'; memory=64"],
    )
    .unwrap();
    assert_eq!(config.domain.name, "g");
}

#[test]
fn texts_of_more_than_a_mebibyte_are_refused() {
    let fits = "#".repeat(Source::MAX_BYTES);
    assert!(Source::from_bytes("x", fits.as_bytes()).is_ok());
    let error = Source::from_bytes("x", format!("{fits}#").as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`x` is larger than 1024 KiB, the most that a configuration may have; is it the right file?"
    );
}

#[test]
fn other_errors_do_not_hide_refusals() {
    let why = |key: &xl_cfg::SetKey<'_>, _: &xl_cfg::DomainConfig| {
        (key.name == "disk").then(|| "no disks yet".to_owned())
    };
    let text = b"name = 'g'\nkernel = '/k'\nmemory = 64\nvcpuz = 1\ndisk = [ 'x,bad,xvda' ]\n";
    let source = Source::from_bytes("guest.cfg", text).unwrap();
    let error = xl_cfg::parse_refusing::<&str>(source, &[], NameRule::Strict, why).unwrap_err();
    let report = error.report().unwrap();
    let text = report.render(false);
    assert!(text.contains("5:1: error: no disks yet"), "{text}");
    assert!(text.contains("5:13: error: "), "{text}");
    let first_warning = text.find("warning:").unwrap();
    assert!(
        !text[first_warning..].contains("error:"),
        "errors come first: {text}"
    );
    assert_eq!(
        report.summary(),
        "guest.cfg cannot be used: 2 errors, 1 warning"
    );
}

#[test]
fn callers_warn_and_refuse_values() {
    let config =
        pv("vcpus = 2").warn_of_keys(|key, _| (key.name == "vcpus").then(|| "hm".to_owned()));
    assert_eq!(config.report().iter().count(), 1);
    assert!(!config.report().has_errors());
    let rejected = config.refuse_value("vcpus", "too many");
    assert!(
        rejected
            .to_string()
            .contains("guest.cfg:2:9: error: too many"),
        "{rejected}"
    );
    assert_eq!(
        rejected.0.summary(),
        "guest.cfg cannot be used: 1 error, 1 warning"
    );
}

#[test]
fn what_asks_for_nothing_is_taken() {
    assert_eq!(pv("ramdisk = ''").domain.boot.ramdisk, None);
    assert_eq!(pv("shadow_memory = 0").domain.memory.shadow_mib, None);
}
