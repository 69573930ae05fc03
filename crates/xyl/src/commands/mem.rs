//! `xyl mem-set` and `xyl mem-max`: change a domain's memory target and its maximum.

use xyl_engine::supervise::requests::Request;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Set how much memory a domain is to have
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The domain's balloon driver frees or takes memory when it can. Xen enforces the new limit at once.

Examples:
  xyl mem-set web 512          512 MiB
  xyl mem-set web 1g"
)]
pub struct SetArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// MiB, or with a unit: b, k, m, g, t
    size: String,
}

/// Set how much memory a domain may ever have
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It may be more than the configuration's maxmem, and not less than what mem-set asked for.

Examples:
  xyl mem-max web 2g
  xyl mem-set web 2g"
)]
pub struct MaxArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// MiB, or with a unit: b, k, m, g, t
    size: String,
}

/// Runs `xyl mem-set`.
pub fn run_set(args: &SetArgs, context: &Context) -> Outcome {
    let target_kib = parse_size_kib(&args.size)?;
    context.change(
        &args.domain,
        &Request::MemoryTarget { target_kib },
        |domid| format!("set the memory of domain {domid} to {target_kib} KiB"),
    )
}

/// Runs `xyl mem-max`.
pub fn run_max(args: &MaxArgs, context: &Context) -> Outcome {
    let max_kib = parse_size_kib(&args.size)?;
    context.change(&args.domain, &Request::MemoryMaximum { max_kib }, |domid| {
        format!("set the greatest memory of domain {domid} to {max_kib} KiB")
    })
}

/// Parses a size as xl does: decimal digits and at most one letter. Without a letter it is in MiB. Returns KiB.
fn parse_size_kib(text: &str) -> Result<u64, Failure> {
    let bad = || {
        Failure::usage(format!(
            "invalid memory size `{text}`: give a number of MiB, or a number and one of b, k, m, g, t"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let kib = match text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "b" => Some(number >> 10),
        "k" => Some(number),
        "" | "m" => number.checked_mul(1 << 10),
        "g" => number.checked_mul(1 << 20),
        "t" => number.checked_mul(1 << 30),
        _ => None,
    };
    kib.filter(|kib| *kib <= MAX_KIB).ok_or_else(bad)
}

/// 2^52 bytes in KiB, the largest address space of x86.
const MAX_KIB: u64 = 1 << 42;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_of_xl() {
        let kib = |text| parse_size_kib(text).ok();
        assert_eq!(kib("64"), Some(65_536));
        assert_eq!(kib("64m"), Some(65_536));
        assert_eq!(kib("4096b"), Some(4));
        assert_eq!(kib("8K"), Some(8));
        assert_eq!(kib("1G"), Some(1 << 20));
        assert_eq!(kib("1t"), Some(1 << 30));
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for text in [
            "",
            "m",
            "-5",
            "1.5g",
            "64mb",
            "1x",
            "99999999999999999999",
            "18446744073709551615g",
        ] {
            assert!(parse_size_kib(text).is_err(), "{text}");
        }
    }
}
