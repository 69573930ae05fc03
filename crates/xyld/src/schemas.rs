//! The schemas of requests and answers. The tests compare them with the answers of a simulated host.

use serde_json::{Map, Value, json};

/// Members of an object with their schemas.
type Members = Vec<(&'static str, Value)>;

fn object(description: &str, required: Members, optional: Members) -> Value {
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    let all = required.into_iter().chain(optional);
    let members: Map<String, Value> = all
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({
        "type": "object",
        "description": description,
        "required": names,
        "properties": members,
    })
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn truth() -> Value {
    json!({"type": "boolean"})
}

fn words(all: &[&str]) -> Value {
    json!({"type": "string", "enum": all})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn named(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Sets a member of a JSON object.
pub(crate) fn put(object: &mut Value, name: &str, member: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), member);
    }
}

/// The same, or null.
fn or_null(mut schema: Value) -> Value {
    match schema.get("type").cloned() {
        Some(kind) => {
            put(&mut schema, "type", json!([kind, "null"]));
            schema
        }
        None => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// A value of any type.
fn any() -> Value {
    json!({})
}

/// All schemas by their names.
pub fn all() -> Value {
    json!({
        "Any": any(),
        "Text": text(),
        "Problem": problem(),
        "Missing": object("A part of an answer that could not be read", vec![("what", text()), ("why", text())], vec![]),
        "Health": health(),
        "Host": host(),
        "Vm": vm(),
        "VmList": object("All VMs", vec![("vms", list(named("Vm"))), ("missing", list(named("Missing")))], vec![]),
        "Decision": decision(),
        "Explained": explained(),
        "Diagnostic": diagnostic(),
        "Checked": checked(),
        "Operation": operation(),
        "OperationList": object("Operations and requests", vec![("operations", list(named("Operation")))], vec![]),
        "Posture": posture(),
        "Leftover": leftover(),
        "Leftovers": object("Leftovers of dead domains", vec![("leftovers", list(named("Leftover")))], vec![]),
        "Power": power(),
        "Action": json!({"type": "object", "description": "The members of the request, as docs/requests.md lists them, without `type`"}),
    })
}

fn problem() -> Value {
    object(
        "An error (RFC 9457)",
        vec![
            ("type", text()),
            ("title", text()),
            ("status", number()),
            ("code", text()),
            ("detail", text()),
            ("step", or_null(text())),
            ("domain", or_null(number())),
            ("causes", list(text())),
            ("remedy", or_null(text())),
        ],
        vec![],
    )
}

fn health() -> Value {
    let part = object(
        "A part that the daemon needs",
        vec![
            ("name", text()),
            ("ready", truth()),
            ("why", or_null(text())),
        ],
        vec![],
    );
    object(
        "Health of the daemon",
        vec![("ready", truth()), ("parts", list(part))],
        vec![],
    )
}

fn host() -> Value {
    let texts = [
        "host",
        "release",
        "version",
        "machine",
        "hw_caps",
        "virt_caps",
        "xen_extra",
        "xen_version",
        "xen_caps",
        "xen_scheduler",
        "platform_params",
        "xen_changeset",
        "xen_commandline",
        "cc_compiler",
        "cc_compile_by",
        "cc_compile_domain",
        "cc_compile_date",
        "build_id",
        "xyl_version",
    ];
    let numbers = [
        "nr_cpus",
        "max_cpu_id",
        "nr_nodes",
        "cores_per_socket",
        "threads_per_core",
        "cpu_mhz",
        "total_memory",
        "free_memory",
        "sharing_freed_memory",
        "sharing_used_memory",
        "outstanding_claims",
        "free_cpus",
        "xen_major",
        "xen_minor",
        "xen_pagesize",
        "xend_config_format",
    ];
    let mut members: Members = texts.map(|name| (name, text())).into();
    members.extend(numbers.map(|name| (name, number())));
    members.push(("is_simulated", truth()));
    members.push(("cpu_topology", list(any())));
    members.push(("numa_info", list(any())));
    object(
        "Facts about Xen and the host, by xl's names. Memory is in MiB",
        members,
        vec![],
    )
}

fn vm() -> Value {
    let state = object(
        "Xen's flags of the domain",
        vec![
            ("running", truth()),
            ("blocked", truth()),
            ("paused", truth()),
            ("shutdown", truth()),
            ("dying", truth()),
        ],
        vec![],
    );
    let given_up = object(
        "Why its restart was given up",
        vec![
            ("why", text()),
            ("since_ms", number()),
            ("configuration", text()),
        ],
        vec![],
    );
    object(
        "A VM, or a domain of another toolstack. The number of a domain is a state of the VM and no name for it",
        vec![
            ("domid", or_null(number())),
            ("name", or_null(text())),
            ("uuid", text()),
            ("kind", or_null(words(&["pv", "pvh", "hvm"]))),
            ("memory_kib", number()),
            ("vcpus_online", number()),
            ("vm_state", text()),
            ("restart_waits_s", or_null(number())),
            ("given_up", or_null(given_up)),
        ],
        vec![
            ("last_domid", or_null(number())),
            ("max_memory_kib", number()),
            ("claimed_kib", number()),
            ("max_vcpus", number()),
            ("state", state),
            ("shutdown_reason", or_null(text())),
            ("cpu_time_ns", number()),
            ("cpupool_id", number()),
            ("ssidref", number()),
            ("bare_pv32", truth()),
        ],
    )
}

fn decision() -> Value {
    object(
        "A decision of the policy",
        vec![
            ("outcome", words(&["allow", "convert-to-shim", "refuse"])),
            ("guest", or_null(text())),
            ("reasons", list(text())),
            ("warnings", list(text())),
            ("remedies", list(text())),
        ],
        vec![],
    )
}

fn explained() -> Value {
    object(
        "The policy's decision about a VM, at its start and now",
        vec![
            ("domid", number()),
            ("name", text()),
            ("uuid", text()),
            ("kernel", text()),
            ("image", text()),
            ("pvshim", or_null(truth())),
            ("shim", or_null(text())),
            ("is_boot_loader", truth()),
            ("decided_s", number()),
            ("decision", named("Decision")),
            ("now", named("Decision")),
            ("changed", truth()),
            ("unseen", or_null(text())),
        ],
        vec![],
    )
}

fn diagnostic() -> Value {
    object(
        "An error or warning about a configuration. Lines and columns count from 1; columns and lengths are in characters",
        vec![
            ("severity", words(&["error", "warning"])),
            ("code", or_null(text())),
            ("file", text()),
            ("message", text()),
            ("remedy", or_null(text())),
        ],
        vec![
            ("line", or_null(number())),
            ("column", or_null(number())),
            ("length", or_null(number())),
            ("key", text()),
            ("domain", text()),
            ("notes", list(any())),
            ("suggestion", any()),
        ],
    )
}

fn checked() -> Value {
    let vm = object(
        "The VM that the configuration describes",
        vec![
            ("name", text()),
            ("kind", text()),
            ("memory_kib", number()),
            ("vcpus", number()),
        ],
        vec![],
    );
    object(
        "Result of a check",
        vec![
            ("valid", truth()),
            ("diagnostics", list(named("Diagnostic"))),
            ("vm", or_null(vm)),
            ("policy", or_null(named("Decision"))),
        ],
        vec![],
    )
}

fn operation() -> Value {
    object(
        "An operation of a journal, or a request to a VM. Its state is under way, interrupted, stuck, done, undone, cancelled, failed, requested or begun",
        vec![
            ("id", or_null(text())),
            ("uuid", text()),
            ("state", or_null(text())),
        ],
        vec![
            ("vm", or_null(text())),
            ("operation", or_null(text())),
            ("step", or_null(text())),
            ("pid", or_null(number())),
            ("begun_ms", or_null(number())),
            ("last_ms", or_null(number())),
            ("failure", any()),
            ("vm_state", or_null(text())),
            ("given_up", any()),
            ("restart_waits_s", or_null(number())),
            ("restart_waits_why", or_null(text())),
            ("request", any()),
            ("asker", any()),
            ("entries", list(any())),
            ("has_process", truth()),
            ("result", any()),
            ("problem", or_null(named("Problem"))),
        ],
    )
}

fn posture() -> Value {
    object(
        "The report of the audit, as `xyl audit --json` prints it",
        vec![
            ("facts", any()),
            ("runs_here", list(text())),
            ("core_sharing", text()),
            ("rows", list(any())),
            ("advisories", list(any())),
            ("running", list(any())),
            ("missing", list(named("Missing"))),
        ],
        vec![],
    )
}

fn leftover() -> Value {
    object(
        "An object that a dead domain has left",
        vec![
            ("kind", text()),
            ("object", text()),
            ("cause", list(text())),
            ("remedy", text()),
            ("verdict", words(&["found", "removed", "left"])),
            ("why", or_null(text())),
        ],
        vec![],
    )
}

fn power() -> Value {
    object(
        "A power state that a VM is to have",
        vec![("state", words(&["running", "paused", "stopped"]))],
        vec![("how", words(&["clean", "force"]))],
    )
}
