//! A check of a configuration, as `/v1/vms:check` shows it: each error and warning with its place, and the policy's decision.
//!
//! It checks what `xyl create -n` checks, and makes no domain.

use serde_json::{Value, json};
use xl_cfg::{Config, Report, Severity, Source};
use xyl_audit::admit::Decision;

use super::set;
use crate::config::plan::{self, HostDefaults, Planned};
use crate::config::plan_here::{self, Place};
use crate::operation::preview;
use crate::vm::names;
use crate::vm::spec::kind_text;
use crate::{EngineError, ErrorCode, SettingError};

/// Checks the text of a configuration. `name` stands for its file in the findings.
pub fn check(name: &str, text: &[u8], defaults: &HostDefaults, place: &Place<'_>) -> Value {
    let mut checked = Checked::default();
    if let Err(error) = checked.run(name, text, defaults, place) {
        checked.refuse(name, &error);
    }
    checked.into_json()
}

/// The findings of a check so far.
#[derive(Default)]
struct Checked {
    findings: Vec<Value>,
    has_errors: bool,
    vm: Option<Value>,
    decision: Option<Decision>,
    refusal: Option<String>,
}

impl Checked {
    fn run(
        &mut self,
        name: &str,
        text: &[u8],
        defaults: &HostDefaults,
        place: &Place<'_>,
    ) -> Result<(), EngineError> {
        let config = parse(name, text, place)?;
        let planned = plan_here::plan(config, defaults, place)?;
        self.add(planned.config.report());
        self.vm = Some(summary(&planned));
        let preview = preview::preview(place.files, place.dirs, &planned.spec);
        let preview = preview.map_err(|error| planned.locate(error))?;
        let warning = |text: &String| finding(Severity::Warning, name, text);
        self.findings.extend(preview.warnings.iter().map(warning));
        self.decision = preview.decision;
        Ok(())
    }

    /// Adds an error that ends the check.
    fn refuse(&mut self, name: &str, error: &EngineError) {
        self.has_errors = true;
        if error.cause().code() == ErrorCode::NotAdmitted {
            self.refusal = Some(error.cause().to_string());
        }
        match error {
            EngineError::Config(error) => match error.report() {
                Some(report) => self.add(report),
                None => self.add_error(name, ErrorCode::Configuration, error.to_string(), None),
            },
            EngineError::Setting(setting) => {
                let mut found = setting_to_json(setting);
                set(&mut found, "remedy", setting.source.remedy());
                self.findings.push(found);
            }
            other => self.add_error(name, other.code(), other.to_string(), other.remedy()),
        }
    }

    fn add_error(&mut self, name: &str, code: ErrorCode, text: String, remedy: Option<String>) {
        let mut found = finding(Severity::Error, name, &text);
        set(&mut found, "code", code.word());
        set(&mut found, "remedy", remedy);
        self.findings.push(found);
    }

    /// Adds the findings of the parser. In the API the help is called remedy, as in all other errors.
    fn add(&mut self, report: &Report) {
        self.has_errors |= report.has_errors();
        for located in report.located() {
            let mut found = serde_json::to_value(&located).unwrap_or_default();
            if let Some(members) = found.as_object_mut() {
                let help = members.remove("help");
                members.insert("remedy".to_owned(), help.unwrap_or_default());
            }
            self.findings.push(found);
        }
    }

    fn into_json(self) -> Value {
        let policy = match (self.decision, self.refusal) {
            (Some(decision), _) => json!(decision),
            (None, Some(text)) => json!({
                "outcome": "refuse", "guest": null, "reasons": [text], "warnings": [], "remedies": [],
            }),
            (None, None) => Value::Null,
        };
        json!({
            "valid": !self.has_errors,
            "diagnostics": self.findings,
            "vm": self.vm,
            "policy": policy,
        })
    }
}

fn parse(name: &str, text: &[u8], place: &Place<'_>) -> Result<Config, EngineError> {
    let source = Source::from_bytes(name, text).map_err(xl_cfg::Error::from)?;
    let rule = names::rule(place.files, place.dirs)?;
    Ok(plan::parse::<&str>(source, &[], rule)?)
}

/// The main facts of a VM that could be created.
fn summary(planned: &Planned) -> Value {
    let spec = &planned.spec;
    json!({
        "name": spec.name,
        "kind": kind_text(spec.kind),
        "memory_kib": spec.target_kib,
        "vcpus": spec.vcpus,
    })
}

fn finding(severity: Severity, name: &str, text: &str) -> Value {
    json!({"severity": severity, "code": null, "file": name, "message": text, "remedy": null})
}

/// An error about a setting, found after the file was read, in the form of a finding.
pub fn setting_to_json(error: &SettingError) -> Value {
    let place = error.place.as_ref();
    json!({
        "severity": Severity::Error,
        "code": error.source.code().word(),
        "file": place.map_or(&error.file, |place| &place.file),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "key": error.key,
        "domain": error.domain,
        "message": error.source.to_string(),
    })
}
