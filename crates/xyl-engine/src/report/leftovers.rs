//! The leftovers of dead domains, as `xyl fsck --json` and `/v1/leftovers` show it.

use serde_json::{Value, json};

use crate::recover::fsck::{Finding, Verdict};

/// One finding as JSON.
pub fn to_json(finding: &Finding) -> Value {
    let (verdict, why) = match &finding.verdict {
        Verdict::Found => ("found", None),
        Verdict::Removed => ("removed", None),
        Verdict::Left(why) => ("left", Some(why)),
    };
    json!({
        "kind": finding.leak.kind(),
        "object": finding.object,
        "cause": finding.cause,
        "remedy": finding.remedy,
        "verdict": verdict,
        "why": why,
    })
}
