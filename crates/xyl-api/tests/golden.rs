//! The JSON of every request, reply, error and event, byte for byte. A difference is a change of the format.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::os::unix::ffi::OsStringExt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{CpuMap, SchedulerId, Trigger, VcpuId};
use xyl_api::{
    AfterSave, Asker, Done, Dumped, Envelope, Error, ErrorCode, Event, EventKind, Header, Outcome,
    ParseError, PowerDelivery, PowerRequest, Reply, Request, RequestId, Saved, ShareChange,
};

const VM: Uuid = Uuid::from_u128(0x6a1d0c4e_0000_4000_8000_000000000001);
const ID: RequestId = RequestId(Uuid::from_u128(0x0190163d_8694_739b_aea5_966c26f8ad91));
const TIME_MS: u64 = 1_767_225_600_010;

/// Writes a value and compares it, and reads it back.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), text);
    assert_eq!(&serde_json::from_str::<T>(text).unwrap(), value);
}

fn requests() -> Vec<(Request, &'static str)> {
    let power = |request| Request::Power {
        request,
        fallback: false,
    };
    let pin = |hard, soft| Request::Pin {
        vcpus: vec![VcpuId(0), VcpuId(2)],
        hard,
        soft,
        force: true,
    };
    let share = |scheduler, weight, cap| Request::Share {
        scheduler,
        change: ShareChange { weight, cap },
    };
    let dump = |file: &[u8]| Request::DumpCore {
        file: OsString::from_vec(file.to_vec()).into(),
        is_live: true,
    };
    let save = |config: Option<&str>, then| Request::Save {
        file: "/srv/web".into(),
        config: config.map(str::to_owned),
        then,
    };
    let trigger = |trigger| Request::Trigger {
        vcpu: VcpuId(1),
        trigger,
    };
    vec![
        (Request::Pause, r#"{"type":"pause"}"#),
        (Request::Unpause, r#"{"type":"unpause"}"#),
        (Request::Suspend, r#"{"type":"suspend"}"#),
        (Request::Resume, r#"{"type":"resume"}"#),
        (
            power(PowerRequest::Poweroff),
            r#"{"type":"power","request":"poweroff","fallback":false}"#,
        ),
        (
            power(PowerRequest::Reboot),
            r#"{"type":"power","request":"reboot","fallback":false}"#,
        ),
        (Request::Sysrq { key: 's' }, r#"{"type":"sysrq","key":"s"}"#),
        (
            trigger(Trigger::Nmi),
            r#"{"type":"trigger","vcpu":1,"trigger":"nmi"}"#,
        ),
        (
            trigger(Trigger::Sleep),
            r#"{"type":"trigger","vcpu":1,"trigger":"sleep"}"#,
        ),
        (
            Request::Rename {
                name: "web".to_owned(),
            },
            r#"{"type":"rename","name":"web"}"#,
        ),
        (
            Request::MemoryTarget { target_kib: 4096 },
            r#"{"type":"memory_target","target_kib":4096}"#,
        ),
        (
            Request::MemoryMaximum { max_kib: 8192 },
            r#"{"type":"memory_maximum","max_kib":8192}"#,
        ),
        (
            Request::Vcpus { nr_vcpus: 2 },
            r#"{"type":"vcpus","nr_vcpus":2}"#,
        ),
        (
            pin(Some(CpuMap::all(3)), None),
            r#"{"type":"pin","vcpus":[0,2],"hard":[0,1,2],"force":true}"#,
        ),
        (
            pin(None, Some(CpuMap::new())),
            r#"{"type":"pin","vcpus":[0,2],"soft":[],"force":true}"#,
        ),
        (
            share(SchedulerId::Credit2, Some(300), None),
            r#"{"type":"share","scheduler":"credit2","change":{"weight":300}}"#,
        ),
        (
            share(SchedulerId::Unknown(9), None, Some(50)),
            r#"{"type":"share","scheduler":{"unknown":9},"change":{"cap":50}}"#,
        ),
        (
            save(None, AfterSave::Destroy),
            r#"{"type":"save","file":"/srv/web","then":"destroy"}"#,
        ),
        (
            save(Some("{}"), AfterSave::Pause),
            r#"{"type":"save","file":"/srv/web","config":"{}","then":"pause"}"#,
        ),
        (
            dump(b"/var/lib/xen/core"),
            r#"{"type":"dump_core","file":"/var/lib/xen/core","is_live":true}"#,
        ),
        (
            dump(b"/\xff"),
            r#"{"type":"dump_core","file":[47,255],"is_live":true}"#,
        ),
        (
            Request::AttachDevice {
                kind: "vbd".to_owned(),
                device: "vdev=xvdb,target=/x".to_owned(),
            },
            r#"{"type":"attach_device","kind":"vbd","device":"vdev=xvdb,target=/x"}"#,
        ),
        (
            Request::DetachDevice {
                kind: "vbd".to_owned(),
                device: "xvdb".to_owned(),
                force: true,
            },
            r#"{"type":"detach_device","kind":"vbd","device":"xvdb","force":true}"#,
        ),
        (
            Request::CpuPool { pool: 2 },
            r#"{"type":"cpu_pool","pool":2}"#,
        ),
        (
            Request::Destroy { force: false },
            r#"{"type":"destroy","force":false}"#,
        ),
    ]
}

#[test]
fn requests_are_written_so() {
    let mut types = BTreeSet::new();
    for (request, text) in requests() {
        golden(&request, text);
        let value: Value = serde_json::from_str(text).unwrap();
        types.insert(value["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(types, Request::TYPES.map(str::to_owned).into());
}

#[test]
fn what_may_be_left_out_has_a_default() {
    let of = |value| serde_json::from_value::<Request>(value).unwrap();
    assert_eq!(
        of(json!({"type": "destroy"})),
        Request::Destroy { force: false }
    );
    let pin = of(json!({"type": "pin", "vcpus": [0]}));
    let Request::Pin {
        hard, soft, force, ..
    } = pin
    else {
        panic!("{pin:?}")
    };
    assert_eq!((hard, soft, force), (None, None, false));
}

#[test]
fn what_a_guest_is_sent_its_devices_and_its_save_are_not_repeatable() {
    let once: BTreeSet<_> = requests()
        .iter()
        .filter(|(request, _)| !request.is_repeatable())
        .map(|(request, _)| request.word())
        .collect();
    let devices = ["block-attach", "block-detach", "save"];
    let wanted = BTreeSet::from(["sysrq", "trigger"])
        .into_iter()
        .chain(devices);
    assert_eq!(once, wanted.collect());
}

#[test]
fn an_envelope_is_written_so() {
    let asker = Asker::Process {
        pid: 4711,
        started_ticks: None,
    };
    let envelope = Envelope::new(ID, VM, TIME_MS, asker, Request::Pause);
    golden(
        &envelope,
        r#"{"version":1,"id":"0190163d-8694-739b-aea5-966c26f8ad91","vm":"6a1d0c4e-0000-4000-8000-000000000001","time_ms":1767225600010,"asker":{"type":"process","pid":4711},"request":{"type":"pause"}}"#,
    );
    let name = "alice".to_owned();
    let asker = Asker::Remote { name };
    let envelope = Envelope::new(ID, VM, TIME_MS, asker, Request::Pause).for_domain(7);
    golden(
        &envelope,
        r#"{"version":1,"id":"0190163d-8694-739b-aea5-966c26f8ad91","vm":"6a1d0c4e-0000-4000-8000-000000000001","domain":7,"time_ms":1767225600010,"asker":{"type":"remote","name":"alice"},"request":{"type":"pause"}}"#,
    );
}

fn reply(outcome: Result<Done, Error>) -> Reply {
    Reply::new(ID, VM, TIME_MS, outcome)
}

fn outcome_text(outcome: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{ID}","vm":"{VM}","time_ms":1767225600010,"outcome":{outcome}}}"#
    )
}

#[test]
fn replies_are_written_so() {
    let delivered = |how| Done::Delivered { how };
    let dumped = Done::Dumped(Dumped {
        size_bytes: 8192,
        nr_pages: 2,
        nr_missing: 1,
    });
    for (done, text) in [
        (Done::Plain, r#"{"type":"plain"}"#),
        (
            delivered(PowerDelivery::ByXenstore),
            r#"{"type":"delivered","how":"by_xenstore"}"#,
        ),
        (
            delivered(PowerDelivery::ByButton),
            r#"{"type":"delivered","how":"by_button"}"#,
        ),
        (
            delivered(PowerDelivery::HasShutDown),
            r#"{"type":"delivered","how":"has_shut_down"}"#,
        ),
        (
            dumped,
            r#"{"type":"dumped","size_bytes":8192,"nr_pages":2,"nr_missing":1}"#,
        ),
        (
            Done::Saved(Saved { size_bytes: 8192 }),
            r#"{"type":"saved","size_bytes":8192}"#,
        ),
    ] {
        golden(
            &reply(Ok(done)),
            &outcome_text(&format!(r#"{{"done":{text}}}"#)),
        );
    }
}

#[test]
fn a_reply_says_whom_it_is_for() {
    let asker = Asker::Remote {
        name: "alice".to_owned(),
    };
    golden(
        &reply(Ok(Done::Plain)).to(asker),
        &format!(
            r#"{{"version":1,"id":"{ID}","vm":"{VM}","time_ms":1767225600010,"asker":{{"type":"remote","name":"alice"}},"outcome":{{"done":{{"type":"plain"}}}}}}"#
        ),
    );
}

#[test]
fn errors_are_written_so() {
    let short = Error::new(ErrorCode::NameTaken, "taken");
    golden(
        &reply(Err(short)),
        &outcome_text(r#"{"failed":{"code":"name-taken","message":"taken"}}"#),
    );
    let long = Error {
        step: Some("end it".to_owned()),
        causes: vec!["EIO".to_owned()],
        ..Error::new(ErrorCode::Hypervisor, "failed")
            .about(7)
            .with_remedy("try again")
    };
    golden(
        &reply(Err(long)),
        &outcome_text(
            r#"{"failed":{"code":"hypervisor","message":"failed","step":"end it","domain":7,"causes":["EIO"],"remedy":"try again"}}"#,
        ),
    );
    for code in ErrorCode::ALL {
        golden(code, &format!("{:?}", code.word()));
    }
}

#[test]
fn events_are_written_so() {
    let request = || "pause".to_owned();
    let asker = Asker::Process {
        pid: 4711,
        started_ticks: None,
    };
    let error = Error::new(ErrorCode::Deadline, "too late");
    let failed = |request| EventKind::Failed {
        request,
        error: error.clone(),
    };
    for (kind, text, line) in [
        (
            EventKind::Started {
                request: request(),
                asker,
            },
            r#""event":"started","request":"pause","asker":{"type":"process","pid":4711}"#,
            "pause, for process 4711".to_owned(),
        ),
        (
            EventKind::Done { request: request() },
            r#""event":"done","request":"pause""#,
            "pause: done".to_owned(),
        ),
        (
            failed(Some(request())),
            r#""event":"failed","request":"pause","error":{"code":"deadline","message":"too late"}"#,
            "pause: too late".to_owned(),
        ),
        (
            failed(None),
            r#""event":"failed","request":null,"error":{"code":"deadline","message":"too late"}"#,
            format!("the request {ID}: too late"),
        ),
        (
            EventKind::Dropped,
            r#""event":"dropped""#,
            format!("the request {ID} is too old, and its asker has died: not done"),
        ),
    ] {
        let event = Event::new(ID, VM, TIME_MS, kind);
        let head = format!(r#""version":1,"time_ms":1767225600010,"vm":"{VM}","id":"{ID}""#);
        golden(&event, &format!("{{{head},{text}}}"));
        assert_eq!(event.to_string(), line);
    }
}

fn envelope_with(request: Value) -> Value {
    json!({
        "version": 1, "id": ID, "vm": VM, "time_ms": 5, "asker": {"type": "process", "pid": 1},
        "request": request,
    })
}

fn parsed(value: &Value) -> Result<Envelope, ParseError> {
    Header::parse(&serde_json::to_vec(value).unwrap())?.into_typed()
}

/// A member that is not known may ask for what would not be done.
#[test]
fn unknown_fields_of_a_request_are_refused() {
    let mut of_envelope = envelope_with(json!({"type": "pause"}));
    of_envelope["priority"] = json!(3);
    for wrong in [
        of_envelope,
        envelope_with(json!({"type": "rename", "name": "web", "why": "because"})),
        envelope_with(json!({"type": "pause", "limit_s": 5})),
    ] {
        let refused = parsed(&wrong).unwrap_err();
        assert!(matches!(refused, ParseError::Malformed(_)), "{wrong}");
    }
}

#[test]
fn unknown_fields_of_a_reply_are_ignored() {
    let mut reply = serde_json::to_value(reply(Ok(Done::Plain))).unwrap();
    reply["outcome"]["done"]["more"] = json!([]);
    reply["more"] = json!({});
    let bytes = serde_json::to_vec(&reply).unwrap();
    let read = Reply::parse(&bytes).unwrap();
    assert_eq!(read.outcome, Outcome::Done(Done::Plain));
}

#[test]
fn what_is_not_known_is_named() {
    let unknown = parsed(&envelope_with(json!({"type": "levitate", "height_m": 2}))).unwrap_err();
    assert!(matches!(unknown, ParseError::UnknownRequest(word) if word == "levitate"));
    for wrong in [
        json!({}),
        json!("pause"),
        json!({"type": "rename"}),
        json!({"type": "pin", "vcpus": [0], "hard": [4_000_000_000_u32]}),
    ] {
        let error = parsed(&envelope_with(wrong.clone())).unwrap_err();
        assert!(
            matches!(error, ParseError::Malformed(_)),
            "{wrong}: {error}"
        );
    }
    let mut later = envelope_with(json!({"type": "pause"}));
    later["version"] = json!(2);
    assert!(matches!(parsed(&later), Err(ParseError::Version(2))));
    for torn in [&b""[..], b"{", b"\xff", b"[]"] {
        assert!(matches!(Header::parse(torn), Err(ParseError::Malformed(_))));
    }
    let long = vec![b' '; (1 << 20) + 1];
    assert!(matches!(
        Header::parse(&long),
        Err(ParseError::TooLong { .. })
    ));
}

#[test]
fn a_code_of_a_later_version_is_a_refusal() {
    let code: ErrorCode = serde_json::from_str("\"no-such-word\"").unwrap();
    assert_eq!(code, ErrorCode::Refused);
}

#[test]
fn ids_follow_the_time() {
    let random = Uuid::from_u128(u128::MAX).into_bytes();
    let (early, late) = (RequestId::new(7, random), RequestId::new(8, [0; 16]));
    assert!(early < late);
    assert_eq!(early.to_string().parse::<RequestId>().unwrap(), early);
    assert_eq!(early.0.get_version_num(), 7);
}
