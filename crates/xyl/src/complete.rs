//! What a shell offers to complete an argument, asked for while somebody types.

use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use xen_port::Hypervisor;
use xenstore::{Client, Settings};
use xyl_engine::vm::domains::DomainRef;
use xyl_engine::vm::names;

/// How long somebody who pressed Tab waits for each answer of xenstored.
const PATIENCE: Duration = Duration::from_secs(1);

/// The names of the domains there are. Where they cannot be had, as without Xen, nothing is offered and
/// nothing is said.
pub fn domain_names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names = all_names().unwrap_or_default().into_iter();
        names
            .filter(|name| can_be_typed(name))
            .map(CompletionCandidate::new)
            .collect()
    })
}

fn all_names() -> Option<Vec<String>> {
    let infos = xen_sys::Xen::open().ok()?.domain_list().ok()?;
    let settings = Settings {
        request_timeout: PATIENCE,
        ..Settings::default()
    };
    let mut store = Client::connect_with(settings).ok()?;
    let names = names::read(&mut store, &infos).ok()?;
    Some(names.into_iter().flatten().collect())
}

/// Whether the name, once it is on the command line, means that domain: digits alone would mean another
/// one's number.
fn can_be_typed(name: &str) -> bool {
    matches!(DomainRef::parse(name), DomainRef::Name(_))
        && !name.is_empty()
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::can_be_typed;

    #[test]
    fn offers_what_means_the_domain_it_names() {
        for good in ["web", "Domain-0", "two words", "7seas"] {
            assert!(can_be_typed(good), "{good}");
        }
        for bad in ["", "7", "a\nb", "uuid=3f6f3ea2-8f1f-4a6c-9d8e-5b1f0c2d7e11"] {
            assert!(!can_be_typed(bad), "{bad:?}");
        }
    }
}
