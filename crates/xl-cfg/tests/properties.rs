//! What holds for every text.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use proptest::collection::vec;
use proptest::prelude::*;
use xl_cfg::types::{CpuList, CpuRange, CpuStep, Mac, PciAddress, Vdev};
use xl_cfg::{Report, Source, Value, all_keys, parse, parse_value, parse_xl_conf};

/// Everything that can be asked of a text, none of which may panic.
fn exercise(text: &[u8], overrides: &[String]) {
    let source = Source::from_bytes("fuzz.cfg", text).unwrap();
    let (_, conf_report) = parse_xl_conf(source.clone());
    check_report(&conf_report);
    match parse(source, overrides) {
        Ok(config) => {
            check_report(config.report());
            assert!(!config.report().has_errors());
            let json = serde_json::to_string(&config.domain).unwrap();
            assert_eq!(
                serde_json::from_str::<xl_cfg::DomainConfig>(&json).unwrap(),
                config.domain
            );
            assert!(
                config
                    .set_keys()
                    .all(|key| config.sources().text(key.span) == key.name)
            );
        }
        Err(error) => {
            let report = error.report().unwrap();
            check_report(report);
            assert!(report.has_errors());
        }
    }
}

/// Every place lies in its text, and nothing that is shown can drive a terminal.
fn check_report(report: &Report) {
    let rendered = report.render(false);
    assert!(
        !rendered.chars().any(|c| c.is_control() && c != '\n'),
        "{rendered:?}"
    );
    assert!(report.render(true).len() >= rendered.len());
    serde_json::to_string(report).unwrap();
    for edit in report.iter().filter_map(|one| one.suggestion.as_ref()) {
        let range = edit.span.start as usize..edit.span.end as usize;
        let sources: Vec<_> = report.sources().iter().collect();
        assert!(
            sources[edit.span.source as usize]
                .text()
                .get(range)
                .is_some()
        );
    }
    for located in report.located() {
        let source = report
            .sources()
            .iter()
            .find(|source| source.name() == located.file)
            .unwrap();
        if let (Some(line), Some(column)) = (located.line, located.column) {
            let text = source.text().split('\n').nth(line - 1).unwrap();
            assert!(
                column <= text.chars().count() + 2,
                "column {column} of line {line}"
            );
        }
    }
}

/// A piece of a configuration: names, values, punctuation, in no order.
fn piece() -> impl Strategy<Value = String> {
    let names: Vec<&str> = all_keys().map(|info| info.name).collect();
    let words = vec![
        "=",
        "+=",
        "[",
        "]",
        ",",
        ";",
        "\n",
        " ",
        "#",
        "'",
        "\"",
        "\\",
        "0",
        "1",
        "0x",
        "-1",
        "64",
        "'g'",
        "'/k'",
        "'hvm'",
        "'pvh'",
        "''",
        "True",
        "\r\n",
        "\t",
        "'\\x41'",
        "'mac=00:16:3e:00:00:01,rate=1MB/s@20ms'",
        "'/x,raw,xvda,w'",
        "'0-3,^1,node:0'",
        "'03:00.0@3,seize=1'",
        "'host,tm=0'",
        "'a=b,c,d='",
        "ä",
        "\u{0}",
        ".",
    ];
    prop_oneof![
        3 => proptest::sample::select(words).prop_map(str::to_owned),
        2 => proptest::sample::select(names.clone()).prop_map(str::to_owned),
        1 => (proptest::sample::select(names), value(2)).prop_map(|(name, value)| format!("\n{name} = {value}\n")),
        1 => "[a-z0-9_.,=:^!@/' -]{0,20}",
    ]
}

fn value(depth: u32) -> impl Strategy<Value = Value> {
    let atom = prop_oneof![
        "[0-9][0-9a-fx]{0,8}",
        "[^\u{0}]{0,20}",
        "[a-z=,:0-9/ -]{0,30}"
    ]
    .prop_map(Value::Atom);
    atom.prop_recursive(depth, 24, 4, |inner| vec(inner, 0..4).prop_map(Value::List))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_bytes_panic(text in vec(any::<u8>(), 0..2000)) {
        exercise(&text, &[]);
    }

    #[test]
    fn no_pieces_panic(pieces in vec(piece(), 0..60), overrides in vec("[a-z+=' \\[\\];0-9]{0,20}", 0..3)) {
        exercise(pieces.concat().as_bytes(), &overrides);
    }

    #[test]
    fn no_setting_panics(settings in vec((0..all_keys().count(), value(3)), 0..12)) {
        let names: Vec<&str> = all_keys().map(|info| info.name).collect();
        let text: String = settings.iter().map(|(index, value)| format!("{}={value}\n", names[*index])).collect();
        exercise(format!("name='g'; kernel='/k'; memory=64\n{text}").as_bytes(), &[]);
    }

    #[test]
    fn no_device_panics(key in "(disk|vif|pci|vfb|usbctrl|usbdev|channel|p9|vtpm|vkb|virtio|vdispl|cpuid|smbios|irqs|iomem|ioports)",
                        items in vec("(target|format|vdev|mac|rate|bdf|type|name|host|backend|cdrom|raw|phy|xvda|,|:|=|@|/|1|0| ){0,12}", 0..4)) {
        let list: Vec<String> = items.iter().map(|item| format!("'{item}'")).collect();
        exercise(format!("name='g'; type='hvm'; memory=64\n{key}=[{}]\n", list.join(",")).as_bytes(), &[]);
    }

    #[test]
    fn printed_values_parse_to_themselves(value in value(6)) {
        prop_assert_eq!(parse_value(&value.to_string()).unwrap(), value);
    }

    #[test]
    fn printed_configurations_parse_to_themselves(pieces in vec((0..all_keys().count(), value(3)), 0..8)) {
        let names: Vec<&str> = all_keys().map(|info| info.name).collect();
        let text: String = pieces.iter().map(|(index, value)| format!("{}={value}\n", names[*index])).collect();
        let text = format!("{text}name='g'\nkernel='/k'\nmemory=64\ntype='pv'\n");
        let Ok(first) = parse::<&str>(Source::from_bytes("a", text.as_bytes()).unwrap(), &[]) else { return Ok(()) };
        let again: String = first.domain.raw.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let second = parse::<&str>(Source::from_bytes("b", again.as_bytes()).unwrap(), &[]).unwrap();
        prop_assert_eq!(first.domain, second.domain);
    }

    #[test]
    fn cpu_lists_print_and_resolve(steps in vec((any::<bool>(), 0..3u8, 0..40u32, 0..8u32), 1..8)) {
        let steps = steps.into_iter().map(|(exclude, kind, first, length)| {
            let last = first + length;
            let range = match kind {
                0 if !exclude => CpuRange::All,
                1 => CpuRange::Nodes { first, last },
                _ => CpuRange::Cpus { first, last },
            };
            CpuStep { exclude, range }
        });
        let list = CpuList(steps.collect());
        let host: Vec<(u32, u32)> = (0..64).map(|cpu| (cpu, cpu / 2)).collect();
        match list.to_string().parse::<CpuList>() {
            Ok(parsed) => prop_assert_eq!(parsed, list),
            Err(_) => prop_assert!(list.resolve(&host).is_empty()),
        }
    }

    #[test]
    fn small_grammars_take_any_text(text in "\\PC{0,24}") {
        let _ = (Vdev::parse(&text), Mac::parse(&text), PciAddress::parse(&text), text.parse::<CpuList>());
    }

    #[test]
    fn addresses_print_and_parse(bytes in any::<[u8; 6]>()) {
        prop_assert_eq!(Mac::parse(&Mac(bytes).to_string()), Some(Mac(bytes)));
    }
}
