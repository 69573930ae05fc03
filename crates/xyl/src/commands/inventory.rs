//! `xyl inventory`: prints the domains as a dynamic inventory of Ansible.
//!
//! Facts: Ansible's documentation, "Developing dynamic inventory": `--list` prints groups and, in `_meta`, the variables of all hosts;
//! `--host NAME` those of one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use xen_port::{DomId, DomainInfo};
use xl_cfg::types::{NameRule, VmName};
use xyl_engine::device::hotplug;
use xyl_engine::supervise::states;
use xyl_engine::vm::domains;
use xyl_engine::vm::spec::kind_text;

use crate::commands::network_list::NIC;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::uuid;
use crate::shown::Shown;

/// Print the guests as an inventory of Ansible
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ansible runs a program that says which hosts there are. A file with these lines, which is executable, is such a program:

  #!/bin/sh
  exec xyl inventory \"$@\"

Groups: xen_guests has all guests, xen_running and xen_paused those in that state, xen_pv, xen_pvh and xen_hvm those of a type, xen_xyl those of \
Xyl, and xen_other those of other toolstacks. The variables of a guest are xen_uuid, xen_domid, xen_type, xen_memory_mib, xen_vcpus and xen_toolstack. \
ansible_host is the address in `ip` of its first network interface that has one; without it Ansible uses the name. A guest whose name means \
another host to Ansible (localhost, root@host) or is that of two guests is left out, with a warning.

Examples:
  xyl inventory --list
  xyl inventory --host web
  ansible -i ./xen-guests xen_running -m ping"
)]
pub struct Args {
    /// Print all guests; this is what happens without an option, too
    #[arg(long, conflicts_with = "host")]
    list: bool,
    /// Print the variables of this guest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// A guest in the inventory.
struct Guest {
    name: String,
    info: DomainInfo,
    is_own: bool,
    address: Option<String>,
}

/// Runs `xyl inventory`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let guests = guests(context)?;
    let Some(asked) = &args.host else {
        return Ok(context.out.json(&inventory(&guests))?);
    };
    // Ansible asks about hosts of other inventories too, and wants an empty object then.
    let found = guests.iter().find(|guest| guest.name == *asked);
    let variables = found.map_or_else(Map::new, variables);
    Ok(context.out.json(&Value::Object(variables))?)
}

fn guests(context: &Context) -> Result<Vec<Guest>, Failure> {
    let mut infos = domains::list(context.hv()?)?;
    infos.retain(|info| info.domid != DomId::ZERO && !info.flags.dying);
    let own = states::own_domains(&context.records(), &infos);
    let stub = domains::stub_domains(&mut *context.store()?, &infos)?;
    infos.retain(|info| !stub.contains(&info.domid));
    let names = context.names(&infos)?;
    let mut guests = Vec::new();
    for (info, name) in infos.into_iter().zip(names) {
        let Some(name) = name else {
            continue;
        };
        let is_double = guests.iter().any(|guest: &Guest| guest.name == name);
        if is_double || !is_host(&name) {
            let shown = Shown::name(&name);
            context.warning(format!(
                "{shown} ({}) is left out: Ansible would take its name for another host",
                info.domid
            ));
            continue;
        }
        guests.push(Guest {
            name,
            is_own: own.iter().any(|own| own.domid == info.domid),
            address: address(context, info.domid)?,
            info,
        });
    }
    Ok(guests)
}

/// Whether Ansible takes a name for a host of this name and nothing else. `localhost` is the machine on which it runs; `root@host` and
/// `host:port` name other hosts.
fn is_host(name: &str) -> bool {
    let is_this_machine = ["localhost", "127.0.0.1", "::1"].contains(&name);
    VmName::parse(name, NameRule::Strict).is_ok() && !name.contains(['@', ':']) && !is_this_machine
}

/// The first address in `ip` of a domain's network interfaces, which may have a prefix length.
fn address(context: &Context, domid: DomId) -> Result<Option<String>, Failure> {
    let nics = hotplug::list(&mut *context.store()?, domid, NIC)?;
    let addresses = nics.iter().filter_map(|nic| nic.copy("ip"));
    let mut addresses = addresses.flat_map(str::split_ascii_whitespace);
    let parsed = addresses.find_map(|text| {
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        address.parse::<std::net::IpAddr>().ok()
    });
    Ok(parsed.map(|address| address.to_string()))
}

fn kind(guest: &Guest) -> &'static str {
    kind_text(guest.info.kind())
}

fn toolstack(guest: &Guest) -> &'static str {
    if guest.is_own { "xyl" } else { "other" }
}

fn variables(guest: &Guest) -> Map<String, Value> {
    let info = &guest.info;
    let mut variables = Map::new();
    let mut set = |name: &str, value: Value| variables.insert(name.to_owned(), value);
    set("xen_uuid", json!(uuid(&info.handle)));
    set("xen_domid", json!(info.domid.0));
    set("xen_type", json!(kind(guest)));
    set("xen_memory_mib", json!(info.tot_pages / 256));
    set("xen_vcpus", json!(info.nr_online_vcpus));
    set("xen_toolstack", json!(toolstack(guest)));
    if let Some(address) = &guest.address {
        set("ansible_host", json!(address));
    }
    variables
}

fn inventory(guests: &[Guest]) -> Value {
    let mut groups: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut hosts = Map::new();
    for guest in guests {
        let state = match (guest.info.flags.shutdown, guest.info.flags.paused) {
            (true, _) => "shutdown",
            (false, true) => "paused",
            (false, false) => "running",
        };
        for group in ["guests", state, kind(guest), toolstack(guest)] {
            let group = groups.entry(format!("xen_{group}")).or_default();
            group.insert(&guest.name);
        }
        hosts.insert(guest.name.clone(), Value::Object(variables(guest)));
    }
    let groups = groups.into_iter();
    let groups = groups.map(|(name, hosts)| (name, json!({"hosts": hosts})));
    let mut all: Map<String, Value> = groups.collect();
    all.insert("_meta".to_owned(), json!({"hostvars": hosts}));
    Value::Object(all)
}
