//! The table of all calls. Router, roles and the OpenAPI document come from it.

use hyper::StatusCode;

use crate::access::Role;
use crate::calls::{self, health, host, operations, power, vms};
use crate::http::{Answer, Call, decoded};
use crate::problem::{Problem, code};
use crate::world::World;

/// A call of the API.
pub struct Endpoint {
    /// HTTP method of the call.
    pub method: &'static str,
    /// Its path; a part in braces stands for any text.
    pub path: &'static str,
    /// The least role that may call it.
    pub role: Role,
    /// Its effect in one line.
    pub summary: &'static str,
    /// Names behind the `?`, with their meanings.
    pub query: &'static [(&'static str, &'static str)],
    /// Type and schema of the body.
    pub body: Option<(&'static str, &'static str)>,
    /// Type and schema of an answer that is no problem.
    pub answer: (&'static str, &'static str),
    /// The statuses of such answers.
    pub statuses: &'static [u16],
    /// The function that answers.
    pub run: Run,
}

/// The way in which an endpoint answers.
#[derive(Clone, Copy)]
pub enum Run {
    /// A function that may wait.
    Call(fn(&World, &Call) -> Result<Answer, Problem>),
    /// The stream of events.
    Events,
}

const JSON: &str = "application/json";
const NO_QUERY: &[(&str, &str)] = &[];

const fn get(
    path: &'static str,
    schema: &'static str,
    summary: &'static str,
    run: fn(&World, &Call) -> Result<Answer, Problem>,
) -> Endpoint {
    Endpoint {
        method: "GET",
        path,
        role: Role::Viewer,
        summary,
        query: NO_QUERY,
        body: None,
        answer: (JSON, schema),
        statuses: &[200],
        run: Run::Call(run),
    }
}

/// An action on a VM: a request of its queue.
const fn action(path: &'static str, role: Role, summary: &'static str) -> Endpoint {
    Endpoint {
        method: "POST",
        path,
        role,
        summary,
        query: NO_QUERY,
        body: Some((JSON, "Action")),
        answer: (JSON, "Operation"),
        statuses: &[200, 202],
        run: Run::Call(power::act),
    }
}

/// All calls of the API.
pub static ENDPOINTS: &[Endpoint] = &[
    get(
        "/v1/host",
        "Host",
        "Facts about Xen and the host",
        host::host,
    ),
    get(
        "/v1/vms",
        "VmList",
        "All VMs, and the domains of other toolstacks",
        vms::list,
    ),
    Endpoint {
        method: "POST",
        path: "/v1/vms:check",
        role: Role::Admin,
        summary: "Checks a configuration and asks the policy; nothing is started. It opens the files that the configuration names",
        query: NO_QUERY,
        body: Some(("text/x-xl-cfg", "Text")),
        answer: (JSON, "Checked"),
        statuses: &[200],
        run: Run::Call(vms::check),
    },
    get(
        "/v1/vms/{vm}",
        "Vm",
        "One VM, by its UUID or name",
        vms::one,
    ),
    get(
        "/v1/vms/{vm}/explain",
        "Explained",
        "The policy's decision about a VM, then and now",
        vms::explain,
    ),
    Endpoint {
        method: "PUT",
        path: "/v1/vms/{vm}/power",
        role: Role::Operator,
        summary: "Brings a VM to a power state; repeating it has no further effect",
        query: NO_QUERY,
        body: Some((JSON, "Power")),
        answer: (JSON, "Operation"),
        statuses: &[200, 202],
        run: Run::Call(power::set),
    },
    action(
        "/v1/vms/{vm}/actions/reboot",
        Role::Operator,
        "Asks the guest to reboot",
    ),
    action(
        "/v1/vms/{vm}/actions/shutdown",
        Role::Operator,
        "Asks the guest to shut down",
    ),
    action(
        "/v1/vms/{vm}/actions/pause",
        Role::Operator,
        "Stops its vCPUs",
    ),
    action(
        "/v1/vms/{vm}/actions/unpause",
        Role::Operator,
        "Lets it run on",
    ),
    action(
        "/v1/vms/{vm}/actions/sysrq",
        Role::Operator,
        "Leaves a SysRq key for its guest",
    ),
    action(
        "/v1/vms/{vm}/actions/trigger",
        Role::Operator,
        "Sends a trigger to a vCPU",
    ),
    action(
        "/v1/vms/{vm}/actions/destroy",
        Role::Operator,
        "Destroys its domain",
    ),
    action(
        "/v1/vms/{vm}/actions/rename",
        Role::Admin,
        "Gives it another name",
    ),
    action(
        "/v1/vms/{vm}/actions/memory-target",
        Role::Admin,
        "Sets the memory that it is to have",
    ),
    action(
        "/v1/vms/{vm}/actions/memory-maximum",
        Role::Admin,
        "Sets the memory that it may have",
    ),
    action(
        "/v1/vms/{vm}/actions/vcpus",
        Role::Admin,
        "Sets how many vCPUs it is to use",
    ),
    action(
        "/v1/vms/{vm}/actions/pin",
        Role::Admin,
        "Sets the CPUs of its vCPUs",
    ),
    action(
        "/v1/vms/{vm}/actions/share",
        Role::Admin,
        "Changes its share of the CPUs",
    ),
    action(
        "/v1/vms/{vm}/actions/cpu-pool",
        Role::Admin,
        "Moves it to another CPU pool",
    ),
    action(
        "/v1/vms/{vm}/actions/dump-core",
        Role::Admin,
        "Writes its core to a file of the host",
    ),
    action(
        "/v1/vms/{vm}/actions/attach-device",
        Role::Admin,
        "Attaches a device while it runs",
    ),
    action(
        "/v1/vms/{vm}/actions/detach-device",
        Role::Admin,
        "Detaches a device while it runs",
    ),
    Endpoint {
        query: &[(
            "vm",
            "UUID or name of a VM: all operations of its journal, the last one first",
        )],
        ..get(
            "/v1/operations",
            "OperationList",
            "The last operation of each VM, and all requests that wait",
            operations::list,
        )
    },
    get(
        "/v1/operations/{operation}",
        "Operation",
        "One operation with its steps, or one request with its result",
        operations::one,
    ),
    Endpoint {
        method: "DELETE",
        path: "/v1/operations/{operation}",
        role: Role::Operator,
        summary: "Cancels an operation, if that is still possible",
        query: NO_QUERY,
        body: None,
        answer: (JSON, "Operation"),
        statuses: &[200, 202],
        run: Run::Call(operations::cancel),
    },
    Endpoint {
        method: "GET",
        path: "/v1/events",
        role: Role::Viewer,
        summary: "Changes of VMs and operations, as server-sent events",
        query: NO_QUERY,
        body: None,
        answer: ("text/event-stream", "Text"),
        statuses: &[200],
        run: Run::Events,
    },
    get(
        "/v1/posture",
        "Posture",
        "The protection against speculative execution, for each type of guest",
        host::posture,
    ),
    get(
        "/v1/leftovers",
        "Leftovers",
        "Leftovers of dead domains; takes two seconds if there are any",
        host::leftovers,
    ),
    Endpoint {
        method: "GET",
        path: "/metrics",
        role: Role::Viewer,
        summary: "Metrics in Prometheus's text format",
        query: NO_QUERY,
        body: None,
        answer: (calls::METRICS, "Text"),
        statuses: &[200],
        run: Run::Call(host::metrics),
    },
    get(
        "/livez",
        "Health",
        "Whether the daemon answers",
        health::live,
    ),
    get(
        "/readyz",
        "Health",
        "Whether Xen and xenstored answer",
        health::ready,
    ),
    get("/openapi.json", "Any", "This document", health::document),
];

/// Values of the parts of a path in braces.
pub type Params = Vec<(&'static str, String)>;

/// The endpoint of a request.
///
/// # Errors
/// No endpoint has the path, or it does not take the method.
pub fn find(method: &str, path: &str) -> Result<(&'static Endpoint, Params), Problem> {
    let mut has_path = false;
    for endpoint in ENDPOINTS {
        if let Some(params) = matched(endpoint.path, path) {
            if endpoint.method == method {
                return Ok((endpoint, params));
            }
            has_path = true;
        }
    }
    Err(match has_path {
        true => Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            code::METHOD_NOT_ALLOWED,
            format!("{path} does not take this method"),
        ),
        false => Problem::new(
            StatusCode::NOT_FOUND,
            code::NOT_FOUND,
            "there is no such path",
        )
        .with_remedy("/openapi.json lists all paths"),
    })
}

/// The values of a path that fits a template.
fn matched(template: &'static str, path: &str) -> Option<Params> {
    let mut parts = path.split('/');
    let mut params = Params::new();
    for wanted in template.split('/') {
        let part = parts.next()?;
        let name = wanted
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some(name) => params.push((name, decoded(part).filter(|value| !value.is_empty())?)),
            None if wanted == part => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_whole() {
        let (endpoint, params) = find("GET", "/v1/vms/a%20b").unwrap();
        assert_eq!(endpoint.path, "/v1/vms/{vm}");
        assert_eq!(params, [("vm", "a b".to_owned())]);
        assert_eq!(find("POST", "/v1/vms:check").unwrap().0.role, Role::Admin);
        for path in [
            "",
            "/",
            "/v1",
            "/v1/vms/",
            "/v1/vms/a/b/c",
            "/v1/vms/%ff",
            "/v1/hosts",
        ] {
            let problem = find("GET", path).err().unwrap();
            assert_eq!(problem.code, code::NOT_FOUND, "{path}");
        }
        let problem = find("DELETE", "/v1/vms").err().unwrap();
        assert_eq!(problem.code, code::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn no_two_endpoints_answer_the_same_request() {
        for (at, one) in ENDPOINTS.iter().enumerate() {
            let same = |other: &&Endpoint| other.method == one.method && other.path == one.path;
            assert_eq!(ENDPOINTS.iter().position(|other| same(&other)), Some(at));
        }
    }

    #[test]
    fn a_viewer_changes_nothing() {
        for endpoint in ENDPOINTS {
            assert!(
                endpoint.role > Role::Viewer || endpoint.method == "GET",
                "{} {}",
                endpoint.method,
                endpoint.path
            );
        }
    }
}
