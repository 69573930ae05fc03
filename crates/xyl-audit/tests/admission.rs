//! Decisions about guests: what no combination may lead to, and the cases that people meet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use proptest::prelude::*;
use xyl_audit::admit::refused_settings;
use xyl_audit::audit::{Against, Audit, CoreSharing, Row};
use xyl_audit::{
    Decision, DeviceModel, Family, GuestType, ImageKind, Operation, Outcome, Policy, Request, Shim,
    Standing, Sure, Target, UnsupportedSetting, admit,
};

fn request(image: ImageKind, pvshim: Option<bool>) -> Request {
    Request {
        image,
        operation: Operation::Create,
        pvshim,
        device_model: DeviceModel::None,
        shim: Shim::Ready,
        unsupported: Vec::new(),
        hidden_mitigations: Vec::new(),
    }
}

#[test]
fn a_setting_outside_xens_security_support_is_refused_unless_the_policy_names_it() {
    let nested = Request {
        unsupported: vec![UnsupportedSetting::NestedHvm],
        ..request(ImageKind::Pvh, None)
    };
    let refused = admit(&policy(""), None, &nested);
    assert_eq!(refused.outcome, Outcome::Refuse);
    let line = "`nestedhvm = \"allow\"` under [unsupported]";
    assert!(refused.remedies.iter().any(|one| one.contains(line)));
    assert_eq!(
        refused_settings(&policy(""), &nested),
        [UnsupportedSetting::NestedHvm]
    );
    let warned = admit(
        &policy("[unsupported]\nnestedhvm = \"warn\"\n"),
        None,
        &nested,
    );
    assert_eq!((warned.outcome, warned.warnings.len()), (Outcome::Allow, 1));
    let allowed = policy("[unsupported]\nnestedhvm = \"allow\"\n");
    let allowed = admit(&allowed, None, &nested);
    assert_eq!(
        (allowed.outcome, allowed.warnings.len()),
        (Outcome::Allow, 0)
    );
    // It makes nothing laxer.
    let other = policy("[guests]\npvh = \"refuse\"\n[unsupported]\nnestedhvm = \"allow\"\n");
    assert_eq!(admit(&other, None, &nested).outcome, Outcome::Refuse);
}

#[test]
fn a_guest_whose_cpuid_hides_a_mitigation_is_warned_of() {
    let hiding = Request {
        hidden_mitigations: vec!["ssbd".to_owned()],
        ..request(ImageKind::Pvh, None)
    };
    let decision = admit(&policy(""), None, &hiding);
    assert_eq!(decision.outcome, Outcome::Allow);
    let named = decision.warnings.iter().filter(|one| one.contains("ssbd"));
    assert_eq!(named.count(), 1);
}

#[test]
fn a_restart_is_warned_of_such_a_setting_and_all_else_is_as_for_a_create() {
    let nested = Request {
        operation: Operation::Restart,
        unsupported: vec![UnsupportedSetting::NestedHvm],
        ..request(ImageKind::Pvh, None)
    };
    let decision = admit(&policy(""), None, &nested);
    assert_eq!(
        (decision.outcome, decision.warnings.len()),
        (Outcome::Allow, 1)
    );
    assert!(refused_settings(&policy(""), &nested).is_empty());
    let refuses = policy("[guests]\npvh = \"refuse\"\n");
    assert_eq!(admit(&refuses, None, &nested).outcome, Outcome::Refuse);
    let narrow = Request {
        operation: Operation::Restart,
        ..request(ImageKind::Pv32, None)
    };
    let decision = admit(&policy(""), None, &narrow);
    assert_eq!(decision.outcome, Outcome::ConvertToShim);
}

fn policy(text: &str) -> Policy {
    Policy::parse(&format!("version = 1\n{text}"), "policy.toml").unwrap()
}

fn audit(guest: GuestType, family: Family, standing: Standing) -> Audit {
    let against = Target::ALL.iter().map(|target| Against {
        target: *target,
        standing,
        by: Vec::new(),
    });
    Audit {
        rows: vec![Row {
            guest,
            family,
            standing,
            sure: Sure::Stated,
            against: against.collect(),
            reasons: Vec::new(),
            remedies: Vec::new(),
        }],
        ..Audit::of_nothing()
    }
}

fn images() -> impl Strategy<Value = ImageKind> {
    prop_oneof![
        Just(ImageKind::Pv64),
        Just(ImageKind::Pv32),
        Just(ImageKind::Pvh),
        Just(ImageKind::Hvm)
    ]
}

fn shims() -> impl Strategy<Value = Shim> {
    let path = || "/usr/lib/xen/boot/xen-shim".to_owned();
    prop_oneof![
        Just(Shim::NotLooked),
        Just(Shim::Ready),
        Just(Shim::NoHvm),
        Just(Shim::NoBinary { path: path() }),
        Just(Shim::No32BitPv { path: path() }),
        Just(Shim::Unfit {
            path: path(),
            what: "it is no ELF file".to_owned()
        }),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let operations = prop_oneof![
        Just(Operation::Create),
        Just(Operation::Restart),
        Just(Operation::Restore),
        Just(Operation::MigrateIn),
        Just(Operation::Adopt)
    ];
    let models = prop_oneof![
        Just(DeviceModel::None),
        Just(DeviceModel::Confined),
        Just(DeviceModel::Open)
    ];
    (images(), operations, any::<Option<bool>>(), models, shims()).prop_map(
        |(image, operation, pvshim, device_model, shim)| Request {
            image,
            operation,
            pvshim,
            device_model,
            shim,
            unsupported: Vec::new(),
            hidden_mitigations: Vec::new(),
        },
    )
}

fn rules() -> impl Strategy<Value = String> {
    let guest = prop_oneof![
        Just("\"pv64\""),
        Just("\"pv32\""),
        Just("\"pv64\", \"pv32\"")
    ];
    let action = prop_oneof![Just("allow"), Just("warn"), Just("convert"), Just("refuse")];
    let verdict = prop_oneof![Just("unknown"), Just("unprotected"), Just("protected")];
    let rule = (guest, action, verdict).prop_map(|(guest, action, verdict)| {
        format!("[[rules]]\nguests = [{guest}]\nfamilies = \"all\"\nverdicts = [\"{verdict}\"]\naction = \"{action}\"\n")
    });
    prop::collection::vec(rule, 0..4).prop_map(|rules| rules.concat())
}

fn audits() -> impl Strategy<Value = Option<Audit>> {
    let standings = prop::sample::select(Standing::ALL);
    let guests = prop::sample::select(GuestType::ALL);
    let families = prop::sample::select(Family::ALL);
    prop::option::of(
        (guests, families, standings)
            .prop_map(|(guest, family, standing)| audit(guest, family, standing)),
    )
}

fn is_bare_pv32(request: &Request, decision: &Decision) -> bool {
    request.image == ImageKind::Pv32
        && decision.outcome == Outcome::Allow
        && request.pvshim != Some(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bare_32_bit_pv_unless_policy_and_configuration_both_say_so(
        request in requests(),
        audit in audits(),
        rules in rules(),
        base in prop_oneof![Just("allow"), Just("warn"), Just("convert"), Just("refuse")],
    ) {
        let policy = policy(&format!("[guests]\npv32 = \"{base}\"\n{rules}"));
        let decision = admit(&policy, audit.as_ref(), &request);
        if is_bare_pv32(&request, &decision) {
            prop_assert!(matches!(base, "allow" | "warn"), "the policy has {}", base);
            prop_assert_eq!(request.pvshim, Some(false));
            prop_assert!(decision.is_bare_pv32());
            prop_assert!(!decision.warnings.is_empty());
        } else {
            prop_assert!(!decision.is_bare_pv32());
        }
    }

    #[test]
    fn a_rule_never_makes_a_policy_laxer(
        request in requests(), audit in audits(), rules in rules(),
    ) {
        let strength = |outcome| match outcome {
            Outcome::Allow => 0,
            Outcome::ConvertToShim => 1,
            Outcome::Refuse => 2,
        };
        let base = "[guests]\npv32 = \"allow\"\n";
        let without = admit(&policy(base), audit.as_ref(), &request);
        let with = admit(&policy(&format!("{base}{rules}")), audit.as_ref(), &request);
        prop_assert!(strength(with.outcome) >= strength(without.outcome));
    }

    #[test]
    fn a_refusal_has_a_cause_and_a_remedy_and_only_a_fit_shim_is_used(
        request in requests(), audit in audits(), rules in rules(),
    ) {
        let decision = admit(&policy(&rules), audit.as_ref(), &request);
        if decision.outcome == Outcome::Refuse {
            prop_assert!(!decision.reasons.is_empty() && !decision.remedies.is_empty());
            prop_assert!(!decision.line().contains('\n'));
        }
        if decision.outcome == Outcome::ConvertToShim {
            prop_assert!(matches!(request.image, ImageKind::Pv32 | ImageKind::Pv64));
            let begins = [Operation::Create, Operation::Restart];
            prop_assert!(begins.contains(&request.operation));
            prop_assert!(request.pvshim != Some(false));
            let fit = match request.shim {
                Shim::Ready | Shim::NotLooked => true,
                Shim::No32BitPv { .. } => request.image == ImageKind::Pv64,
                _ => false,
            };
            prop_assert!(fit);
        }
    }

    #[test]
    fn the_host_matters_only_where_the_policy_needs_it(
        request in requests(), audit in audits(), rules in rules(),
    ) {
        let policy = policy(&rules);
        if !xyl_audit::admit::needs_host(&policy, &request) {
            prop_assert_eq!(
                admit(&policy, audit.as_ref(), &request),
                admit(&policy, None, &request)
            );
        }
    }
}

#[test]
fn the_default_puts_a_32_bit_pv_kernel_into_the_shim() {
    let policy = Policy::default();
    let decision = admit(&policy, None, &request(ImageKind::Pv32, None));
    assert_eq!(decision.outcome, Outcome::ConvertToShim);
    assert_eq!(decision.guest, GuestType::PvShim);
    assert!(decision.line().contains("ring 1"), "{}", decision.line());

    let asked = admit(&policy, None, &request(ImageKind::Pv32, Some(true)));
    assert_eq!(asked.outcome, Outcome::Allow);
    assert_eq!(asked.guest, GuestType::PvShim);

    let bare = admit(&policy, None, &request(ImageKind::Pv32, Some(false)));
    assert_eq!(bare.outcome, Outcome::Refuse);
    assert!(bare.line().contains("pvshim = 0"), "{}", bare.line());

    let old_shim = Request {
        shim: Shim::No32BitPv {
            path: "/boot/xen-shim".to_owned(),
        },
        ..request(ImageKind::Pv32, None)
    };
    let refused = admit(&policy, None, &old_shim);
    assert_eq!(refused.outcome, Outcome::Refuse);
    assert!(refused.line().contains("CONFIG_PV32"), "{}", refused.line());
    let wide = Request {
        image: ImageKind::Pv64,
        pvshim: Some(true),
        ..old_shim
    };
    assert_eq!(admit(&policy, None, &wide).outcome, Outcome::Allow);
}

#[test]
fn bare_32_bit_pv_takes_two_to_say_so_and_is_marked() {
    let lax = policy("[guests]\npv32 = \"allow\"\n");
    let one = admit(&lax, None, &request(ImageKind::Pv32, None));
    assert_eq!(one.outcome, Outcome::ConvertToShim);
    let both = admit(&lax, None, &request(ImageKind::Pv32, Some(false)));
    assert!(both.is_bare_pv32());
    assert!(both.warnings[0].contains("ring 1"));
}

#[test]
fn a_64_bit_pv_guest_starts_as_the_hosts_state_says() {
    let policy = Policy::default();
    let asked = request(ImageKind::Pv64, None);
    let with = |standing| {
        let mut host = audit(GuestType::Pv64, Family::V3, standing);
        host.rows
            .extend(audit(GuestType::Pv64, Family::L1tf, Standing::Protected).rows);
        admit(&policy, Some(&host), &asked)
    };
    assert_eq!(with(Standing::Protected).outcome, Outcome::Allow);
    assert!(with(Standing::NotAffected).warnings.is_empty());
    let converted = with(Standing::Unprotected);
    assert_eq!(converted.outcome, Outcome::ConvertToShim);
    assert!(
        converted.line().contains("Meltdown"),
        "{}",
        converted.line()
    );
    let unknown = with(Standing::Unknown);
    assert_eq!(unknown.outcome, Outcome::Allow);
    assert!(unknown.warnings[0].contains("unknown"), "{unknown:?}");
    let restored = Request {
        operation: Operation::Restore,
        ..asked.clone()
    };
    let host = audit(GuestType::Pv64, Family::V3, Standing::Unprotected);
    assert_eq!(
        admit(&policy, Some(&host), &restored).outcome,
        Outcome::Refuse
    );
}

#[test]
fn rules_name_verdicts_core_scheduling_and_device_models() {
    let strict = policy(
        "[guests]\nhvm-open-dm = \"refuse\"\n\
         [[rules]]\nname = \"v2\"\nguests = [\"pvh\", \"hvm\"]\nfamilies = [\"v2\"]\nverdicts = [\"unprotected\", \"unknown\"]\naction = \"refuse\"\nwhy = \"ask the security team\"\n\
         [[rules]]\nguests = [\"pv-shim\"]\nshared-cores = \"yes\"\naction = \"refuse\"\n",
    );
    let open = Request {
        device_model: DeviceModel::Open,
        ..request(ImageKind::Hvm, None)
    };
    assert_eq!(admit(&strict, None, &open).outcome, Outcome::Refuse);
    let pvh = request(ImageKind::Pvh, None);
    let unprotected = audit(GuestType::Pvh, Family::V2, Standing::Unprotected);
    let refused = admit(&strict, Some(&unprotected), &pvh);
    assert_eq!(refused.outcome, Outcome::Refuse);
    assert!(refused.line().contains("ask the security team"));
    let protected = audit(GuestType::Pvh, Family::V2, Standing::Protected);
    assert_eq!(
        admit(&strict, Some(&protected), &pvh).outcome,
        Outcome::Allow
    );
    // A conversion obeys what is said of guests in the shim.
    let shared = Audit {
        core_sharing: CoreSharing::Yes,
        ..Audit::of_nothing()
    };
    let pv32 = request(ImageKind::Pv32, None);
    assert_eq!(
        admit(&strict, Some(&shared), &pv32).outcome,
        Outcome::Refuse
    );
}
