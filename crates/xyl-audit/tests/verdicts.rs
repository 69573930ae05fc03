//! Verdicts for hosts whose logs are recorded.
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
use xyl_audit::facts::{Abilities, Facts};
use xyl_audit::verdicts::audit;
use xyl_audit::{Audit, Family, GuestType, Row, Standing, Sure, Target};

fn log(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    fs::read(path.join(format!("{name}.txt"))).unwrap()
}

fn host(name: &str, threads_per_core: u32) -> Facts {
    let mut facts = Facts::of_log(&log(name));
    facts.abilities = Some(Abilities {
        hvm: true,
        pv: true,
        hap: true,
        shadow: true,
        threads_per_core,
        nr_cpus: 4,
    });
    facts.has_siblings = Some(threads_per_core > 1);
    facts
}

fn standing(audit: &Audit, guest: GuestType, family: Family) -> Standing {
    audit.standing(guest, family, None)
}

fn texts(row: &Row) -> String {
    let reasons = row.reasons.iter().map(|reason| reason.text.clone());
    let remedies = row.remedies.iter().map(|remedy| remedy.text().to_owned());
    reasons.chain(remedies).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_old_intel_cpu_with_all_mitigations() {
    use Family::*;
    use GuestType::*;
    let audit = audit(&host("4.17.5-intel-kaby-lake-r-qubes", 1));
    for guest in GuestType::ALL {
        assert_eq!(
            audit.standing(*guest, V3, Some(Target::Hypervisor)),
            Standing::Protected,
            "{guest}"
        );
        assert_eq!(
            audit.standing(*guest, L1tf, Some(Target::Hypervisor)),
            Standing::Protected,
            "{guest}"
        );
        assert_eq!(
            standing(&audit, *guest, Rfds),
            Standing::NotAffected,
            "{guest}"
        );
        assert_eq!(
            standing(&audit, *guest, Srso),
            Standing::NotAffected,
            "{guest}"
        );
        assert_eq!(standing(&audit, *guest, V1), Standing::Partly, "{guest}");
    }
    assert_eq!(standing(&audit, Pv64, V2), Standing::Protected);
    assert_eq!(
        standing(&audit, Pv32, V2),
        Standing::Unprotected,
        "IBRS does not hold in ring 1"
    );
    assert_eq!(
        standing(&audit, Pvh, Mds),
        Standing::Protected,
        "the L1 flush clears the buffers"
    );
    assert_eq!(standing(&audit, Pv64, Mds), Standing::Protected);
    assert_eq!(standing(&audit, Pvh, Srbds), Standing::Protected);
    assert_eq!(standing(&audit, Pvh, Its), Standing::Protected);
    // Neither log nor register tell whether this model has a history that can be abused.
    assert_eq!(standing(&audit, Pvh, Bhi), Standing::Unknown);
    let row = audit.row(Pv32, V2).unwrap();
    assert!(
        texts(row).contains("ring 1") && texts(row).contains("PV shim"),
        "{row:?}"
    );
    assert_eq!(
        audit.standing(HvmOpenDm, Mds, Some(Target::Dom0)),
        Standing::Partly
    );
    assert_eq!(
        audit.standing(Hvm, Mds, Some(Target::Dom0)),
        Standing::Protected
    );
}

#[test]
fn threads_of_one_core_weaken_what_they_share() {
    use Family::*;
    let with = |threads| audit(&host("4.17.5-intel-kaby-lake-r-qubes", threads));
    for family in [L1tf, Mds] {
        assert_eq!(
            standing(&with(1), GuestType::Pvh, family),
            Standing::Protected
        );
        assert_eq!(standing(&with(2), GuestType::Pvh, family), Standing::Partly);
    }
    assert_eq!(
        standing(&with(2), GuestType::Pv64, L1tf),
        Standing::Protected,
        "shadowing does not mind"
    );
    let mut nothing = host("4.17.5-intel-kaby-lake-r-qubes", 2);
    nothing.has_siblings = None;
    assert_eq!(
        standing(&audit(&nothing), GuestType::Pvh, Mds),
        Standing::Unknown
    );
}

#[test]
fn amd_cpus() {
    use Family::*;
    use GuestType::*;
    let new = audit(&host("4.21.1-amd-zen3", 1));
    for family in [
        V3, L1tf, Mds, Taa, Srbds, Mmio, Gds, Rfds, Bhi, Its, Retbleed,
    ] {
        assert_eq!(
            standing(&new, Pv64, family),
            Standing::NotAffected,
            "{family}"
        );
    }
    assert_eq!(standing(&new, Pvh, Srso), Standing::Protected);
    assert_eq!(standing(&new, Pvh, Tsa), Standing::Protected);
    assert_eq!(
        new.row(Pvh, Tsa).unwrap().sure,
        Sure::Inferred,
        "the log does not tell of VERW_CLEAR"
    );
    assert_eq!(standing(&new, Pvh, V2), Standing::Protected);

    // The log of this one has no line about the CPU; the policy of Xen would name it.
    let mut old = host("4.17.2-amd-zen3-qubes", 1);
    assert_eq!(
        standing(&audit(&old), Pv64, V3),
        Standing::Unknown,
        "XPTI is off, but of which CPU?"
    );
    old.cpu = host("4.21.1-amd-zen3", 1).cpu;
    let old = audit(&old);
    assert_eq!(
        standing(&old, Pvh, Srso),
        Standing::Unprotected,
        "Xen says so"
    );
    assert!(texts(old.row(Pvh, Srso).unwrap()).contains("microcode"));
    assert_eq!(standing(&old, Pvh, Tsa), Standing::Unprotected);
    assert_eq!(standing(&old, Pv64, V3), Standing::NotAffected);
}

#[test]
fn nothing_known_is_unknown_and_says_what_to_do() {
    let audit = audit(&Facts::of_log(b""));
    for row in &audit.rows {
        let known_by_type = row.family == Family::V3 && row.guest != GuestType::Pv64;
        if !known_by_type {
            assert_eq!(row.standing, Standing::Unknown, "{row:?}");
            assert_eq!(row.sure, Sure::Unsure, "{row:?}");
            assert!(!row.reasons.is_empty(), "{row:?}");
        }
    }
}

#[test]
fn without_a_log_the_command_line_and_the_defaults_tell_of_xpti() {
    let mut facts = Facts::of_log(&log("4.17.5-intel-kaby-lake-r-qubes"));
    facts.log.xpti = None;
    facts.xen.version = Some((4, 17));
    let v3 = |facts: &Facts| {
        let row = audit(facts)
            .row(GuestType::Pv64, Family::V3)
            .unwrap()
            .clone();
        (row.standing, row.sure)
    };
    assert_eq!(v3(&facts), (Standing::Protected, Sure::Inferred));
    for (line, standing) in [
        ("xpti=no", Standing::Unprotected),
        ("xpti=no-domu", Standing::Unprotected),
        ("xpti=dom0", Standing::Protected),
        ("spec-ctrl=no", Standing::Unprotected),
        ("spec-ctrl=no xpti=domu", Standing::Protected),
        ("spec-ctrl=rsb", Standing::Protected),
    ] {
        facts.xen.command_line = line.to_owned();
        assert_eq!(v3(&facts), (standing, Sure::Inferred), "{line}");
    }
}

#[test]
fn every_row_says_why_and_every_weakness_what_to_do() {
    for name in [
        "4.17.5-intel-kaby-lake-r-qubes",
        "4.21.1-amd-zen3",
        "4.18-intel-alder-lake",
        "4.14.0-intel-bay-trail",
    ] {
        let audit = audit(&host(name, 2));
        assert_eq!(audit.rows.len(), GuestType::ALL.len() * Family::ALL.len());
        for row in &audit.rows {
            assert!(!row.reasons.is_empty(), "{name} {row:?}");
            assert!(row.reasons.iter().all(|reason| !reason.source.is_empty()));
            let weak = matches!(row.standing, Standing::Unprotected | Standing::Partly);
            assert!(!weak || !row.remedies.is_empty(), "{name} {row:?}");
            let worst = row.against.iter().map(|against| against.standing).max();
            assert_eq!(worst, Some(row.standing), "{name} {row:?}");
        }
    }
}

proptest! {
    /// A fact less never makes a verdict better than unknown where it was bad.
    #[test]
    fn a_log_that_is_cut_never_turns_a_weakness_into_protection(from in 0_usize..3000) {
        for name in ["4.17.5-intel-kaby-lake-r-qubes", "4.17.2-amd-zen3-qubes", "4.14.0-intel-bay-trail"] {
            let log = log(name);
            let whole = host(name, 2);
            let mut cut = whole.clone();
            cut.log = Facts::of_log(&log[from.min(log.len())..]).log;
            let (whole, cut) = (audit(&whole), audit(&cut));
            for (all, part) in whole.rows.iter().zip(&cut.rows) {
                if all.standing == Standing::Unprotected {
                    prop_assert!(
                        matches!(part.standing, Standing::Unprotected | Standing::Unknown),
                        "{} from {}: {:?} became {:?}", name, from, all, part
                    );
                }
            }
        }
    }
}
