//! The table of settings and the code that reads them belong together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::collections::BTreeSet;

use xl_cfg::{DomainType, Source, all_keys, parse};

/// Settings that are known, but kept as they are given.
const RAW: [&str; 9] = [
    "vsnd",
    "gic_version",
    "tee",
    "sve",
    "nr_spis",
    "vuart",
    "arm_sci",
    "llc_colors",
    "trap_unmapped_accesses",
];

fn errors(domain_type: DomainType, setting: &str) -> Vec<String> {
    let text =
        format!("type = '{domain_type}'\nname = 'g'\nkernel = '/k'\nmemory = 64\n{setting}\n");
    match parse::<&str>(
        Source::from_bytes("guest.cfg", text.as_bytes()).unwrap(),
        &[],
    ) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .report()
            .unwrap()
            .iter()
            .map(|diagnostic| diagnostic.message.clone())
            .collect(),
    }
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = all_keys().map(|info| info.name).collect();
    assert_eq!(names.len(), all_keys().count());
}

#[test]
fn every_setting_with_a_meaning_is_read_and_checked() {
    for info in all_keys().filter(|info| !RAW.contains(&info.name)) {
        let types = [DomainType::Pv, DomainType::Pvh, DomainType::Hvm];
        for domain_type in types
            .into_iter()
            .filter(|domain_type| info.applies_to(*domain_type))
        {
            // No setting takes a list of lists of lists.
            let found = errors(domain_type, &format!("{} = [ [ [ ] ] ]", info.name));
            assert_eq!(
                found.is_empty(),
                info.is_ignored(),
                "{} in a guest of type {domain_type}: {found:?}",
                info.name
            );
        }
    }
}

#[test]
fn settings_for_other_guests_are_warned_of() {
    let text = "type = 'pvh'; name = 'g'; kernel = '/k'; memory = 64; pae = 1; e820_host = 1; tee = 'none'; hap = 1";
    let config = parse::<&str>(
        Source::from_bytes("guest.cfg", text.as_bytes()).unwrap(),
        &[],
    )
    .unwrap();
    let messages: Vec<_> = config
        .report()
        .iter()
        .map(|diagnostic| diagnostic.message.as_str())
        .collect();
    let expected = [
        "`pae` has no effect: it is for HVM guests",
        "`e820_host` has no effect: it is for PV guests",
        "`tee` has no effect: it is for guests of Arm hosts",
    ];
    assert_eq!(messages, expected);
}
