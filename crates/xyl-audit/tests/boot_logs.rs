//! The parser against logs of real hosts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use xyl_audit::boot_log::{BootLog, Switch};
use xyl_audit::cpu::Vendor;

fn sample(name: &str) -> BootLog {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    parse(&path.join(format!("{name}.txt")))
}

/// The samples are parts of logs, and the first line of a ring counts for nothing.
fn parse(path: &Path) -> BootLog {
    let part = fs::read(path).unwrap();
    BootLog::parse(&[b"(XEN) what was before\n", part.as_slice()].concat())
}

#[test]
fn every_recorded_log_is_understood_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let mut logs = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "txt") {
            let found = parse(&path);
            assert!(found.has_block, "{path:?}");
            assert_eq!(found.unrecognised, Vec::<String>::new(), "{path:?}");
            assert!(
                found.settings.is_some() && found.features.is_some(),
                "{path:?}"
            );
            assert!(found.hvm.is_some() && found.pv.is_some(), "{path:?}");
            assert!(found.xpti.is_some() && found.pv_l1tf.is_some(), "{path:?}");
            logs += 1;
        }
    }
    assert!(logs >= 7, "only {logs} logs");
}

#[test]
fn kaby_lake_with_4_17_5() {
    let found = sample("4.17.5-intel-kaby-lake-r-qubes");
    assert_eq!(found.version.as_deref(), Some("4.17.5"));
    let cpu = found.cpu.unwrap();
    assert_eq!(
        (cpu.vendor, cpu.family, cpu.model, cpu.stepping),
        (Vendor::Intel, 6, 142, 10)
    );
    assert_eq!(found.microcode, Some(0xf6));
    assert_eq!(found.hints.unwrap(), ["RSBA", "RFDS_NO"]);
    let settings = found.settings.unwrap();
    assert_eq!(settings.thunk.as_deref(), Some("JMP"));
    assert_eq!(settings.bit("IBRS"), Some(true));
    assert_eq!(settings.bit("SSBD"), Some(false));
    assert_eq!(settings.bit("SRB_LOCK"), Some(true));
    assert_eq!(settings.bit("PSFD"), None);
    assert!(settings.has("L1D_FLUSH") && !settings.has("DIV"));
    assert_eq!(
        found.xpti,
        Some(Switch {
            dom0: true,
            domu: true
        })
    );
    assert_eq!(
        found.pv_l1tf,
        Some(Switch {
            dom0: false,
            domu: true
        })
    );
    assert_eq!(found.l1tf_vulnerable, Some(true));
    assert_eq!(found.granularity.as_deref(), Some("cpu"));
    assert_eq!(found.warnings.len(), 1);
}

#[test]
fn zen_3_with_4_21_1() {
    let found = sample("4.21.1-amd-zen3");
    assert_eq!(found.cpu.unwrap().family, 25);
    assert_eq!(found.l1tf_vulnerable, None);
    assert!(found.pv.unwrap().contains(&"IBPB-entry".to_owned()));
    assert!(found.warnings[0].contains("PV32"));
}

#[test]
fn old_wording() {
    let found = sample("4.12.1-intel-broadwell");
    assert_eq!(found.hints, None);
    assert_eq!(found.settings.unwrap().thunk.as_deref(), Some("RETPOLINE"));
    let none = sample("4.14.0-intel-bay-trail").settings.unwrap();
    assert_eq!((none.thunk, none.bits.len()), (None, 0));
    let stamped = sample("4.16-amd-fam10h");
    assert_eq!(stamped.microcode, Some(0x0100_00dc));
    assert_eq!(stamped.settings.unwrap().thunk.as_deref(), Some("LFENCE"));
    assert!(sample("4.17.2-amd-zen3-qubes").pv.unwrap().is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = BootLog::parse(&bytes);
    }

    #[test]
    fn any_cut_of_a_log_says_no_more_than_the_whole(from in 0_usize..1500, to in 0_usize..1500) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/4.21.1-amd-zen3.txt");
        let log = fs::read(path).unwrap();
        let whole = BootLog::parse(&log);
        // The ring keeps the end: what is cut off is the head, in the middle of a line perhaps.
        let cut = BootLog::parse(&log[from.min(to).min(log.len())..]);
        for (part, all) in [(cut.xpti, whole.xpti), (cut.pv_l1tf, whole.pv_l1tf)] {
            prop_assert!(part.is_none() || part == all);
        }
        prop_assert!(cut.settings.is_none() || cut.settings == whole.settings);
        prop_assert!(cut.cpu.is_none() || cut.cpu == whole.cpu);
    }
}
