//! Candidates for shell completion. clap calls these functions when the user presses Tab.
//!
//! The shell puts a candidate on the command line unquoted, so names that need quotes are left out. After an error,
//! for instance without Xen, there are no candidates and no message.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use os_port::{SystemFiles, SystemProcess};
use xen_port::PciSbdf;
use xyl_engine::config::autostart;
use xyl_engine::control::vcpus;
use xyl_engine::device::hotplug::{self, Listed};
use xyl_engine::host::topology;
use xyl_engine::supervise::status::{self, Status, VmOps};
use xyl_engine::vm::domains::{self, DomainRef};

use crate::commands::block_attach::DISK;
use crate::commands::device_lists::KEYBOARD;
use crate::commands::network_list::NIC;
use crate::context::Context;
use crate::error::Failure;
use crate::shown::is_plain_name;

/// Variable that the shell's script sets. clap's default, `COMPLETE`, is a common word that other programs set too.
pub const VARIABLE: &str = "XYL_COMPLETE";

/// Time limit for each answer of xenstored while the user waits after Tab.
const PATIENCE: Duration = Duration::from_secs(1);

/// Completes names of domains.
pub fn domain_names() -> ArgValueCandidates {
    candidates(|context| {
        let infos = domains::list(context.hv()?)?;
        let mut names: Vec<String> = context.names(&infos)?.into_iter().flatten().collect();
        names.retain(|name| means_a_name(name));
        Ok(names)
    })
}

/// Completes names of VMs that start with the host.
pub fn autostart_names() -> ArgValueCandidates {
    candidates(|context| {
        let (entries, _) = autostart::read(&SystemFiles, &context.dirs)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    })
}

/// Completes names of CPU pools.
pub fn pool_names() -> ArgValueCandidates {
    candidates(|context| Ok(context.pools()?.names()))
}

/// Completes the argument of `xyl ops show`: names of VMs and IDs of operations.
pub fn vms_and_operations() -> ArgValueCandidates {
    candidates(|context| {
        let mut words = Vec::new();
        for operation in all_operations(context)?
            .iter()
            .flat_map(|vm| vm.past().operations)
        {
            words.extend([operation.begin.name, operation.begin.id]);
        }
        words.sort_unstable();
        words.dedup();
        Ok(words)
    })
}

/// Completes the argument of `xyl ops cancel`: IDs of operations under way.
pub fn operations_under_way() -> ArgValueCandidates {
    candidates(|context| {
        let all = all_operations(context)?;
        let under_way = all.iter().filter_map(|vm| {
            let operation = vm.past().operations.pop()?;
            let status = vm.standing(&operation, &SystemProcess);
            (!matches!(status, Status::Ended(_))).then_some(operation.begin.id)
        });
        Ok(under_way.collect())
    })
}

/// Completes numbers of the named domain's vCPUs, and `all` if `with_all` is set.
pub fn vcpu_numbers(with_all: bool) -> ArgValueCandidates {
    candidates(move |context| {
        let nr_vcpus = nr_vcpus_of_typed(context)?;
        let all = with_all.then(|| "all".to_owned());
        let numbers = (0..nr_vcpus).map(|vcpu| vcpu.to_string());
        Ok(all.into_iter().chain(numbers).collect())
    })
}

/// Completes a number of vCPUs, up to those of the named domain.
pub fn vcpu_counts() -> ArgValueCandidates {
    candidates(|context| {
        let nr_vcpus = nr_vcpus_of_typed(context)?;
        Ok((1..=nr_vcpus).map(|count| count.to_string()).collect())
    })
}

/// Completes a list of the host's CPUs, after its last comma.
pub fn cpu_lists() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let Some(typed) = typed.to_str() else {
            return Vec::new();
        };
        let begun = typed.rfind(',').map_or(0, |comma| comma + 1);
        let (before, last) = typed.split_at_checked(begun).unwrap_or_default();
        let words = Context::for_completion(PATIENCE).and_then(|context| cpu_words(&context));
        let words = words.unwrap_or_default().into_iter();
        let fits = words.filter(|word| word.starts_with(last));
        fits.map(|word| CompletionCandidate::new(format!("{before}{word}")))
            .collect()
    })
}

/// Words for CPUs: `all`, each node, each number.
fn cpu_words(context: &Context) -> Result<Vec<String>, Failure> {
    let places = topology::of(context.hv()?)?;
    let mut nodes: Vec<u32> = places.iter().map(|(_, node)| *node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let nodes = nodes.into_iter().map(|node| format!("node:{node}"));
    let numbers = places.iter().map(|(cpu, _)| cpu.to_string());
    Ok(["all".to_owned()]
        .into_iter()
        .chain(nodes)
        .chain(numbers)
        .collect())
}

/// Number of vCPUs of the domain on the command line.
fn nr_vcpus_of_typed(context: &Context) -> Result<u32, Failure> {
    match typed_domain() {
        Some(domain) => Ok(vcpus::nr_vcpus(&context.find(&domain)?.info)),
        None => Ok(0),
    }
}

/// Completes names of the disks of the domain on the command line.
pub fn disk_names() -> ArgValueCandidates {
    candidates(|context| {
        let disks = devices_of_typed(context, DISK)?;
        let names = disks.iter().filter_map(|disk| disk.copy("dev"));
        Ok(names.map(str::to_owned).collect())
    })
}

/// Completes numbers and addresses of the network interfaces of the domain on the command line.
pub fn nic_names() -> ArgValueCandidates {
    candidates(|context| {
        let nics = devices_of_typed(context, NIC)?;
        let numbers = nics.iter().map(|nic| nic.number.to_string());
        let macs = nics.iter().filter_map(|nic| nic.copy("mac"));
        Ok(numbers.chain(macs.map(str::to_owned)).collect())
    })
}

/// Completes numbers of the keyboards of the domain on the command line.
pub fn keyboard_numbers() -> ArgValueCandidates {
    candidates(|context| {
        let keyboards = devices_of_typed(context, KEYBOARD)?;
        Ok(keyboards.iter().map(|one| one.number.to_string()).collect())
    })
}

/// Completes addresses of the host's PCI devices that are no bridges.
pub fn pci_devices() -> ArgValueCandidates {
    candidates(|context| {
        let kernel = context.kernel();
        let mut devices = kernel.pci_devices();
        devices.retain(|device| !kernel.is_pci_bridge(*device));
        Ok(devices.iter().map(PciSbdf::to_string).collect())
    })
}

/// Completes addresses of the PCI devices that domains can get.
pub fn assignable_devices() -> ArgValueCandidates {
    candidates(|context| {
        let devices = context.kernel().pci_devices_of_pciback();
        Ok(devices.iter().map(PciSbdf::to_string).collect())
    })
}

/// The devices of a kind of the domain on the command line.
fn devices_of_typed(context: &Context, kind: &str) -> Result<Vec<Listed>, Failure> {
    let Some(domain) = typed_domain() else {
        return Ok(Vec::new());
    };
    let domid = context.find(&domain)?.info.domid;
    Ok(hotplug::list(&mut *context.store()?, domid, kind)?)
}

/// The domain on the command line, behind the program and the command.
fn typed_domain() -> Option<String> {
    let words = typed().into_iter();
    let mut plain = words.filter(|word| !word.starts_with('-'));
    plain.nth(2)
}

/// Words of the command line, up to and including the one that is completed.
fn typed() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    match index.and_then(|index| index.parse().ok()) {
        Some(index) => words.take(usize::saturating_add(index, 1)).collect(),
        // fish passes only these words.
        None => words.collect(),
    }
}

/// The parser for completion. It offers options for a word that begins with `-`, or if there is no other candidate.
pub fn for_completion(command: clap::Command) -> clap::Command {
    match typed().last() {
        Some(word) if !word.starts_with('-') => without_options(command),
        _ => command,
    }
}

fn without_options(command: clap::Command) -> clap::Command {
    command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .mut_args(|arg| {
            let is_option = !arg.is_positional();
            arg.hide(is_option)
        })
        .mut_subcommands(without_options)
}

/// Completes words from a fixed list.
pub fn words(words: impl Fn() -> Vec<String> + Send + Sync + 'static) -> ArgValueCandidates {
    ArgValueCandidates::new(move || offered(words()))
}

fn all_operations(context: &Context) -> Result<Vec<VmOps>, Failure> {
    Ok(status::all(&SystemFiles, &context.dirs)?)
}

/// Completes with candidates from the host that the command would use. `XYL_HOST` may name it.
fn candidates(
    of: impl Fn(&Context) -> Result<Vec<String>, Failure> + Send + Sync + 'static,
) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        let words = Context::for_completion(PATIENCE).and_then(|context| of(&context));
        offered(words.unwrap_or_default())
    })
}

fn offered(words: Vec<String>) -> Vec<CompletionCandidate> {
    let plain = words.into_iter().filter(|word| is_plain_name(word));
    plain.map(CompletionCandidate::new).collect()
}

/// Whether the name on a command line would mean its domain. Digits would be a domid, and `uuid:...` a UUID.
fn means_a_name(name: &str) -> bool {
    matches!(DomainRef::parse(name), DomainRef::Name(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_means_the_domain_it_names() {
        for good in ["web", "Domain-0", "7seas"] {
            assert!(means_a_name(good), "{good}");
        }
        for bad in [
            "7",
            "uuid=3f6f3ea2-8f1f-4a6c-9d8e-5b1f0c2d7e11",
            "uuid:3f6f3ea2-8f1f-4a6c-9d8e-5b1f0c2d7e11",
        ] {
            assert!(!means_a_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn offers_nothing_that_a_shell_would_take_for_more_than_a_word() {
        let words = [
            "web",
            "a;touch x",
            "$(x)",
            "-x",
            "two words",
            "",
            "a\nb",
            "x\u{202e}y",
        ];
        let offered = offered(words.map(str::to_owned).to_vec());
        assert_eq!(offered, [CompletionCandidate::new("web")]);
    }
}
