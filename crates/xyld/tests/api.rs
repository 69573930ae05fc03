//! The daemon on a simulated host, through its real socket: answers, roles, limits, hostile requests, and its death.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod client;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use client::{Daemon, Reply, key};
use serde_json::{Value, json};
use xyld::endpoints::ENDPOINTS;

/// The state of a VM, by the API.
fn state_of(daemon: &Daemon, vm: &str) -> Value {
    daemon.get(&format!("/v1/vms/{vm}")).json()["state"].clone()
}

#[test]
fn the_answers_are_those_of_the_command_and_fit_their_schemas() {
    let daemon = Daemon::with_guest();
    let document = daemon.get("/openapi.json").json();
    for endpoint in ENDPOINTS
        .iter()
        .filter(|one| one.method == "GET" && one.answer.0 == "application/json")
    {
        let path = endpoint
            .path
            .replace("{vm}", "guest")
            .replace("{operation}", &daemon.last_operation());
        let reply = daemon.get(&path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        let schema = &document["components"]["schemas"][endpoint.answer.1];
        client::fits(&document, schema, &reply.json(), &path);
    }
    // The same rows as the command prints, but for CPU times.
    let calm = |mut rows: Value| {
        for row in rows.as_array_mut().unwrap() {
            row.as_object_mut()
                .unwrap()
                .retain(|name, _| name != "cpu_time_ns" && name != "state");
        }
        rows
    };
    let of_command =
        |words: &[&str]| -> Value { serde_json::from_str(&daemon.xyl(words)).unwrap() };
    let (vms, list) = (
        daemon.get("/v1/vms").json(),
        of_command(&["list", "--json"]),
    );
    assert_eq!(calm(vms["vms"].clone()), calm(list));
    assert_eq!(vms["missing"], json!([]));
    let (ops, of_ops) = (
        daemon.get("/v1/operations").json(),
        of_command(&["ops", "--json"]),
    );
    assert_eq!(ops["operations"], of_ops);
    let explained = daemon.get("/v1/vms/guest/explain").json();
    assert_eq!(
        json!([explained]),
        of_command(&["explain", "--json", "guest"])
    );
    let leftovers = daemon.get("/v1/leftovers").json();
    assert_eq!(leftovers["leftovers"], of_command(&["fsck", "--json"]));
    let posture = daemon.get("/v1/posture").json();
    assert_eq!(posture["rows"], of_command(&["audit", "--json"])["rows"]);
    let host = daemon.get("/v1/host").json();
    assert_eq!(
        host["xen_version"],
        of_command(&["info", "--json"])["xen_version"]
    );
    let metrics = daemon.get("/metrics");
    assert!(
        metrics.body.contains("xen_domain_info{uuid="),
        "{}",
        metrics.body
    );
}

#[test]
fn a_configuration_is_checked_with_lines_and_the_decision() {
    let daemon = Daemon::with_guest();
    let check = |text: &str| {
        daemon.send(
            "POST",
            "/v1/vms:check",
            &[("Content-Type", "text/x-xl-cfg")],
            text.as_bytes(),
        )
    };
    let text = std::fs::read_to_string(daemon.folder().join("guest.cfg")).unwrap();
    let document = daemon.get("/openapi.json").json();
    let schema = &document["components"]["schemas"]["Checked"];
    let right = check(&text.replace("name = \"guest\"", "name = \"other\"")).json();
    client::fits(&document, schema, &right, "a right one");
    assert_eq!(right["valid"], true, "{right}");
    assert_eq!(right["policy"]["outcome"], "allow");
    let wrong = check(&format!("{text}\nmemroy = 5\nvcpus = \"many\"\n")).json();
    client::fits(&document, schema, &wrong, "a wrong one");
    assert_eq!(wrong["valid"], false);
    let found = wrong["diagnostics"].as_array().unwrap();
    let line = text.lines().count() + 2;
    assert!(
        found.iter().any(|one| one["line"] == line
            && one["severity"] == "warning"
            && one["code"] == "unknown-name"),
        "{wrong}"
    );
    assert!(
        found
            .iter()
            .any(|one| one["line"] == line + 1 && one["severity"] == "error"),
        "{wrong}"
    );
    let missing =
        check("name = \"x\"\nkernel = \"/no/such/kernel\"\nmemory = 64\ntype = \"pvh\"\n").json();
    client::fits(&document, schema, &missing, "no kernel");
    assert_eq!(missing["diagnostics"][0]["code"], "boot-file", "{missing}");
    let strange = check("\u{0}\u{ff}").json();
    assert_eq!(strange["valid"], false);
    let untyped = daemon.send("POST", "/v1/vms:check", &[], b"name = 1");
    assert_eq!(
        (untyped.status, untyped.code().as_str()),
        (415, "unsupported-media-type")
    );
    assert_eq!(
        daemon.get("/v1/vms").json()["vms"]
            .as_array()
            .unwrap()
            .len(),
        2,
        "nothing was started"
    );
}

#[test]
fn power_is_a_level_and_a_key_is_good_for_one_effect() {
    let daemon = Daemon::with_guest();
    let power = |vm: &str, body: &str| {
        daemon.send(
            "PUT",
            &format!("/v1/vms/{vm}/power"),
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )
    };
    let put = |body: &str| power("guest", body);
    let act = |action: &str, key: &str, body: &str| {
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        daemon.send(
            "POST",
            &format!("/v1/vms/guest/actions/{action}"),
            &headers,
            body.as_bytes(),
        )
    };
    assert_eq!(
        put(r#"{"state": "paused"}"#).json()["result"]["type"],
        "plain"
    );
    assert_eq!(state_of(&daemon, "guest")["paused"], true);
    assert_eq!(
        put(r#"{"state": "paused"}"#).json()["result"]["type"],
        "unchanged"
    );
    let first = key();
    assert_eq!(act("unpause", &first, "").json()["state"], "done");
    assert_eq!(state_of(&daemon, "guest")["paused"], false);
    assert_eq!(put(r#"{"state": "paused"}"#).status, 200);
    let again = act("unpause", &first, "");
    assert_eq!((again.status, &again.json()["id"]), (200, &json!(first)));
    assert_eq!(
        state_of(&daemon, "guest")["paused"],
        true,
        "a repeated key has no second effect"
    );
    assert_eq!(
        daemon.get(&format!("/v1/operations/{first}")).json()["state"],
        "done"
    );
    // Errors have the codes of the engine, and those of the HTTP layer.
    for (reply, status, code) in [
        (
            act("rename", &key(), r#"{"name": "Domain-0"}"#),
            409,
            "name-taken",
        ),
        (act("rename", &key(), r#"{"name": "a/b"}"#), 400, "bad-name"),
        (act("rename", &key(), r#"{"nam": "a"}"#), 400, "bad-request"),
        (act("rename", &key(), r#"["a"]"#), 400, "bad-request"),
        (
            act("pause", &key(), r#"{"type": "destroy"}"#),
            400,
            "bad-request",
        ),
        (act("pause", "no UUID", ""), 400, "bad-request"),
        (act("explode", &key(), ""), 404, "not-found"),
        (put(r#"{"state": "asleep"}"#), 400, "bad-request"),
        (put("{"), 400, "bad-request"),
        (
            power("nothing", r#"{"state": "running"}"#),
            404,
            "no-such-domain",
        ),
        (
            power("Domain-0", r#"{"state": "paused"}"#),
            409,
            "control-domain",
        ),
        (power("1", r#"{"state": "paused"}"#), 404, "no-such-domain"),
        (
            daemon.send("POST", "/v1/vms/guest/actions/pause", &[], b""),
            400,
            "bad-request",
        ),
        (
            daemon.send("DELETE", &format!("/v1/operations/{first}"), &[], b""),
            409,
            "not-cancellable",
        ),
        (
            daemon.get("/v1/operations/nothing"),
            404,
            "no-such-operation",
        ),
        (
            daemon.send("PATCH", "/v1/vms/guest", &[], b""),
            405,
            "method-not-allowed",
        ),
    ] {
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{}",
            reply.body
        );
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    // A stop is done by the VM's own process; its reply is there when the VM is no more.
    let last = key();
    assert_eq!(act("destroy", &last, "").json()["state"], "done");
    daemon.wait_for("/v1/vms/guest", |reply| reply.status == 404);
    assert_eq!(
        act("destroy", &last, "").json()["state"],
        "done",
        "the first answer"
    );
}

#[test]
fn each_role_may_call_what_the_table_says() {
    let daemon = Daemon::with_guest();
    let document = daemon.get("/openapi.json").json();
    for endpoint in ENDPOINTS {
        let operation = &document["paths"][endpoint.path][endpoint.method.to_lowercase()];
        assert_eq!(operation["x-role"], endpoint.role.word());
    }
    if !client::is_root() || !std::path::Path::new(client::PYTHON).exists() {
        eprintln!(
            "skipped: only root can be another user, by {}",
            client::PYTHON
        );
        return;
    }
    // `nobody` gets each role in turn, and calls all. Bodies are wrong, so nothing is done.
    let access = daemon.folder().join("etc/xyl/access.toml");
    std::fs::create_dir_all(access.parent().unwrap()).unwrap();
    for role in xyld::access::Role::ALL {
        std::fs::write(
            &access,
            format!("[[grant]]\nuser = \"nobody\"\nrole = \"{role}\"\n"),
        )
        .unwrap();
        for endpoint in ENDPOINTS.iter().filter(|one| one.path != "/v1/events") {
            let path = endpoint
                .path
                .replace("{vm}", "no-such-vm")
                .replace("{operation}", "none");
            let reply = daemon.as_nobody(endpoint.method, &path);
            let is_refused = reply.status == 403;
            assert_eq!(
                is_refused,
                role < endpoint.role,
                "{role}: {} {path}: {}",
                endpoint.method,
                reply.body
            );
            assert!(!is_refused || reply.code() == "forbidden");
        }
    }
    std::fs::write(&access, "[[grant]]\nuser = \"nobody\"\n").unwrap();
    assert_eq!(
        daemon.as_nobody("GET", "/v1/vms").status,
        500,
        "no role without its file"
    );
    assert_eq!(daemon.get("/v1/vms").status, 200, "root is not locked out");
    std::fs::remove_file(&access).unwrap();
    assert_eq!(daemon.as_nobody("GET", "/v1/vms").status, 200, "a viewer");
    assert_eq!(daemon.as_nobody("POST", "/v1/vms:check").status, 403);
}

#[test]
fn hostile_requests_end_themselves_alone() {
    let daemon = Daemon::with_guest();
    let long = "a".repeat(20 << 10);
    let large = vec![b'x'; (1 << 20) + 1];
    let cases: Vec<(Vec<u8>, &[u16])> = vec![
        (b"\x00\xff\xfe\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
            &[414, 431, 400],
        ),
        (
            format!("GET /v1/vms HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n").into_bytes(),
            &[431, 400],
        ),
        (
            format!("GET /v1/vms HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100)).into_bytes(),
            &[431, 400],
        ),
        (
            b"POST /v1/vms:check HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            b"POST /v1/vms:check HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
                .to_vec(),
            &[400],
        ),
        (
            b"POST /v1/vms:check HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
            &[413],
        ),
        (
            b"POST /v1/vms:check HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            &[400],
        ),
        (
            [
                b"POST /v1/vms:check HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n"
                    .to_vec(),
                large,
            ]
            .concat(),
            &[413],
        ),
        (
            b"GET /v1/vms/%00%2e%2e%2f HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[404],
        ),
        (
            b"GET /v1/vms/%ff HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[404],
        ),
        (
            b"GET /v1/operations?vm=%zz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            b"GET /v1/operations/..%2f..%2f HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[404],
        ),
        (
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[404, 400],
        ),
        (
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            &[404, 405, 400],
        ),
    ];
    for (bytes, statuses) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let status = daemon.raw(&bytes);
        assert!(
            status.is_none_or(|status| statuses.contains(&status)),
            "{shown}: {status:?}"
        );
        assert_eq!(daemon.get("/livez").status, 200, "after {shown}");
    }
    // Clients that send nothing, or a half of it, hold up nobody.
    let silent: Vec<_> = (0..50).map(|_| daemon.connect()).collect();
    let mut half = daemon.connect();
    half.write_all(b"POST /v1/vms:check HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        .unwrap();
    assert_eq!(daemon.get("/v1/vms").status, 200);
    drop(silent);
    assert!(daemon.is_alive());
}

#[test]
fn events_carry_the_whole_object_and_a_late_client_gets_a_reset() {
    let daemon = Daemon::with_guest();
    let mut events = daemon.events(None);
    let hello = events.next_of("hello");
    assert!(hello.id.contains(':'));
    daemon.xyl(&["pause", "guest"]);
    let event =
        events.next_where(|event| event.kind == "vm" && event.data["state"]["paused"] == true);
    assert_eq!(event.data["name"], "guest");
    let id = event.id.clone();
    daemon.rename_behind("<img src=x onerror=alert(1)>");
    let renamed = events.next_where(|event| event.kind == "vm" && event.data["name"] != "guest");
    assert_eq!(renamed.data["name"], "<img src=x onerror=alert(1)>");
    // A client that comes back gets what it has missed.
    let mut back = daemon.events(Some(&id));
    let missed = back.next_where(|event| event.kind == "vm");
    assert_eq!(missed.data["name"], renamed.data["name"]);
    for late in ["other:1", "x", ""] {
        assert_eq!(daemon.events(Some(late)).next().kind, "reset", "{late}");
    }
    daemon.xyl(&["destroy", &renamed.data["domid"].to_string()]);
    events.next_where(|event| event.kind == "vm-gone");
}

#[test]
fn a_killed_daemon_loses_no_request() {
    let mut daemon = Daemon::with_guest();
    let mut keys = Vec::new();
    for at in 0..10 {
        let key = key();
        let action = if at % 2 == 0 { "pause" } else { "unpause" };
        let request = format!(
            "POST /v1/vms/guest/actions/{action} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: 0\r\n\r\n"
        );
        let mut stream = daemon.connect();
        stream.write_all(request.as_bytes()).unwrap();
        // It dies somewhere in the request; the client repeats it with its key.
        std::thread::sleep(Duration::from_millis(at * 3));
        daemon.kill();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        daemon.start();
        let headers = [("Idempotency-Key", key.as_str())];
        let repeated = daemon.send(
            "POST",
            &format!("/v1/vms/guest/actions/{action}"),
            &headers,
            b"",
        );
        assert_eq!(
            (repeated.status, &repeated.json()["state"]),
            (200, &json!("done")),
            "{}",
            repeated.body
        );
        assert_eq!(state_of(&daemon, "guest")["paused"], at % 2 == 0);
        keys.push(key);
    }
    for key in keys {
        assert_eq!(
            daemon.get(&format!("/v1/operations/{key}")).json()["state"],
            "done"
        );
    }
    assert_eq!(daemon.xyl(&["fsck", "--json"]).trim(), "[]");
}

#[test]
fn a_request_stands_when_nothing_waits_for_it() {
    let daemon = Daemon::with_guest();
    let monitor = daemon.stop_monitor();
    let id = key();
    let headers = [("Idempotency-Key", id.as_str()), ("Prefer", "wait=0")];
    let reply = daemon.send("POST", "/v1/vms/guest/actions/pause", &headers, b"");
    assert_eq!(reply.status, 202, "{}", reply.body);
    let location = reply.header("location");
    assert_eq!(location, format!("/v1/operations/{id}"));
    assert_eq!(daemon.get(&location).json()["state"], "requested");
    let other = key();
    let headers = [("Idempotency-Key", other.as_str()), ("Prefer", "wait=0")];
    assert_eq!(
        daemon
            .send(
                "POST",
                "/v1/vms/guest/actions/sysrq",
                &[headers[0], headers[1], ("Content-Type", "application/json")],
                br#"{"key": "s"}"#
            )
            .status,
        202
    );
    let cancelled = daemon.send("DELETE", &format!("/v1/operations/{other}"), &[], b"");
    assert_eq!(cancelled.json()["state"], "cancelled", "{}", cancelled.body);
    drop(monitor);
    daemon.wait_for(&location, |reply| reply.json()["state"] == "done");
    assert_eq!(state_of(&daemon, "guest")["paused"], true);
}

#[test]
fn the_page_is_served_or_its_absence_is_explained() {
    let daemon = Daemon::new();
    let page = daemon.get("/");
    match page.status {
        200 => {
            assert!(
                page.header("content-security-policy")
                    .starts_with("default-src 'self'")
            );
            for file in ["/app.js", "/style.css", "/preact.js"] {
                assert_eq!(daemon.get(file).status, 200, "{file}");
            }
        }
        _ => assert_eq!((page.status, page.code().as_str()), (404, "page-not-built")),
    }
    let mut web = daemon.web();
    let Reply { status, .. } = web.get("/v1/vms", &[]);
    assert_eq!(status, 403, "no cookie");
    let cookie = web.admit();
    let vms = web.get("/v1/vms", &[("Cookie", &cookie)]);
    assert_eq!(vms.status, 200, "{}", vms.body);
    assert_eq!(vms.json()["vms"][0]["name"], "Domain-0");
    assert_eq!(web.again().status, 403, "the token works once");
    let foreign = web.get("/v1/vms", &[("Cookie", &cookie), ("Host", "evil.example")]);
    assert_eq!(foreign.status, 403);
}

#[test]
fn the_document_is_the_committed_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/v1.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(
        committed,
        xyld::openapi::document(),
        "docs/api/v1.json: write it anew by `xyld openapi >docs/api/v1.json`; a member that is there may not go"
    );
}

#[test]
fn a_list_is_quick_and_the_daemon_rests() {
    let daemon = Daemon::with_guest();
    daemon.get("/v1/vms");
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(daemon.get("/v1/vms").status, 200);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let before = daemon.cpu_ticks();
    std::thread::sleep(Duration::from_millis(500));
    // A thread of the last calls may end meanwhile.
    assert!(
        daemon.cpu_ticks() <= before + 1,
        "an idle daemon does nothing"
    );
}

#[test]
fn the_unit_starts_the_program_that_readme_installs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let unit = read("dist/systemd/xyld.service");
    assert!(
        unit.lines()
            .any(|line| line == "ExecStart=/usr/local/sbin/xyld"),
        "{unit}"
    );
    let readme = read("README.md");
    assert!(readme.contains("/xyld /usr/local/sbin/"));
    assert!(readme.contains("install -m644 dist/systemd/xyld.service"));
}
