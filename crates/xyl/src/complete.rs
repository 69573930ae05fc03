//! What a shell offers to complete an argument, asked for while somebody types.
//!
//! Whatever is offered is put on the command line as it is, so only what needs no quotes there is. Where something cannot be
//! had, as without Xen, nothing is offered and nothing is said.

use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use os_port::{SystemFiles, SystemProcess};
use xyl_engine::supervise::status::{self, Status, VmOps};
use xyl_engine::vm::domains::{self, DomainRef};

use crate::context::Context;
use crate::error::Failure;
use crate::shown::is_plain_name;

/// The variable by which a shell's script asks. clap's own name for it, `COMPLETE`, is a common word, and others set it.
pub const VARIABLE: &str = "XYL_COMPLETE";

/// How long somebody who pressed Tab waits for each answer of xenstored.
const PATIENCE: Duration = Duration::from_secs(1);

/// The names of the domains there are.
pub fn domain_names() -> ArgValueCandidates {
    candidates(|context| {
        let infos = domains::list(context.hv()?)?;
        let mut names: Vec<String> = context.names(&infos)?.into_iter().flatten().collect();
        names.retain(|name| means_a_name(name));
        Ok(names)
    })
}

/// The names of the CPU pools.
pub fn pool_names() -> ArgValueCandidates {
    candidates(|context| Ok(context.pools()?.names()))
}

/// What `xyl ops show` takes: names of VMs, and IDs of operations.
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

/// What `xyl ops cancel` takes: IDs of operations that are under way.
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

/// Words that are always the same.
pub fn words(words: impl Fn() -> Vec<String> + Send + Sync + 'static) -> ArgValueCandidates {
    ArgValueCandidates::new(move || offered(words()))
}

fn all_operations(context: &Context) -> Result<Vec<VmOps>, Failure> {
    Ok(status::all(&SystemFiles, &context.dirs)?)
}

/// Candidates of the host that the commands would work on: the one of `XYL_HOST`, where that is set.
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

/// Whether the name, once it is on the command line, means that domain: digits alone would mean another
/// one's number, and `uuid:...` another one's UUID.
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
