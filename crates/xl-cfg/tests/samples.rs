//! Configurations as people write them, and what becomes of them: `tests/samples/*.cfg`, with the report and the JSON
//! form beside each. `UPDATE_EXPECT=1 cargo test` writes those anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use expect_test::expect_file;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use xl_cfg::{DomainConfig, Source, parse};

fn check(name: &str) {
    let folder = format!("{}/tests/samples", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(format!("{folder}/{name}.cfg")).unwrap();
    let config = parse::<&str>(
        Source::from_bytes(format!("{name}.cfg"), &text).unwrap(),
        &[],
    )
    .unwrap();
    let json = serde_json::to_value(&config.domain).unwrap();
    let shown = serde_json::to_string_pretty(&without_empty(json.clone())).unwrap();
    expect_file![format!("{folder}/{name}.txt")]
        .assert_eq(&format!("{}\n{shown}\n", config.report().render(false)));

    let back: DomainConfig = serde_json::from_value(json).unwrap();
    assert_eq!(
        back, config.domain,
        "JSON gives the same configuration again"
    );
}

/// The settings as given are in the `.cfg`, and what is empty says nothing.
fn without_empty(json: Value) -> Value {
    match json {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| name != "raw");
            let kept = kept.map(|(name, value)| (name, without_empty(value)));
            // In order of their names, whether or not serde_json keeps them in that of the fields.
            let sorted: BTreeMap<_, _> = kept.filter(|(_, value)| !is_empty(value)).collect();
            sorted.into_iter().collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

fn is_empty(json: &Value) -> bool {
    match json {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[test]
fn pv_minimal() {
    check("pv-minimal");
}

#[test]
fn pv_linux() {
    check("pv-linux");
}

#[test]
fn pv_installer() {
    check("pv-installer");
}

#[test]
fn pvh_shim() {
    check("pvh-shim");
}

#[test]
fn hvm_windows() {
    check("hvm-windows");
}

#[test]
fn hvm_xend() {
    check("hvm-xend");
}
