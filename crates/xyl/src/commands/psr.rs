//! The commands `psr-*`: monitoring and shares of the CPU's caches and memory bandwidth (Intel RDT).
//!
//! On a host without the hardware they say so, as xl does. On a host with it they are not there yet.

use xen_port::{Errno, HostFeatureset};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Word of the CPU's features with leaf 7, EBX (`X86_FEATURESET` order of Xen's `cpufeatureset.h`).
const WORD_7B0: usize = 5;

/// An ability of the CPU.
#[derive(Clone, Copy)]
enum Ability {
    /// Monitoring (CMT, MBM): bit 12.
    Monitoring,
    /// Shares of caches and of memory bandwidth (CAT, MBA): bit 15.
    Allocation,
}

impl Ability {
    fn bit(self) -> u32 {
        match self {
            Ability::Monitoring => 1 << 12,
            Ability::Allocation => 1 << 15,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Ability::Monitoring => "Cache Monitoring Technology (CMT)",
            Ability::Allocation => {
                "Cache Allocation Technology and memory bandwidth shares (CAT, MBA)"
            }
        }
    }
}

fn has(context: &Context, ability: Ability) -> Result<bool, Failure> {
    match context.hv()?.cpu_featureset(HostFeatureset::Raw) {
        Ok(words) => Ok(words
            .get(WORD_7B0)
            .is_some_and(|word| word & ability.bit() != 0)),
        Err(error) if error.is(Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The end of a command that needs the ability.
fn needs(context: &Context, ability: Ability) -> Outcome {
    match has(context, ability)? {
        false => Err(Failure::refused(format!(
            "the CPUs of this host have no {}",
            ability.name()
        ))),
        true => Err(Failure::not_there_yet(
            "this is not there yet: use the command of the same name of `xl`",
        )),
    }
}

/// Show what the CPUs can monitor and share out
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-hwinfo
  xyl psr-hwinfo -m            monitoring alone")]
pub struct HwinfoArgs {
    /// Monitoring (CMT)
    #[arg(short = 'm', long)]
    cmt: bool,
    /// Shares of caches (CAT)
    #[arg(short = 'a', long)]
    cat: bool,
    /// Shares of memory bandwidth (MBA)
    #[arg(short = 'b', long)]
    mba: bool,
}

/// Runs `xyl psr-hwinfo`.
pub fn run_hwinfo(args: &HwinfoArgs, context: &Context) -> Outcome {
    let all = !(args.cmt || args.cat || args.mba);
    if all || args.cmt {
        if has(context, Ability::Monitoring)? {
            return needs(context, Ability::Monitoring);
        }
        if !context.json() {
            context.out.line("Cache Monitoring Technology (CMT):")?;
            context.out.line(format!("{:<16}: 0", "Enabled"))?;
        }
    }
    match all || args.cat || args.mba {
        true => needs(context, Ability::Allocation),
        false => Ok(()),
    }
}

/// Begin to monitor a domain's use of the caches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-cmt-attach web")]
pub struct CmtAttachArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl psr-cmt-attach`.
pub fn run_cmt_attach(args: &CmtAttachArgs, context: &Context) -> Outcome {
    context.find(&args.domain)?;
    needs(context, Ability::Monitoring)
}

/// End the monitoring of a domain's use of the caches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-cmt-detach web")]
pub struct CmtDetachArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl psr-cmt-detach`.
pub fn run_cmt_detach(args: &CmtDetachArgs, context: &Context) -> Outcome {
    context.find(&args.domain)?;
    needs(context, Ability::Monitoring)
}

/// Show what the monitored domains use
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-cmt-show cache-occupancy
  xyl psr-cmt-show total-mem-bandwidth web")]
pub struct CmtShowArgs {
    /// The number to show
    #[arg(value_enum)]
    kind: Kind,
    /// Only this domain
    #[arg(add = domain_names())]
    domain: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    CacheOccupancy,
    TotalMemBandwidth,
    LocalMemBandwidth,
}

/// Runs `xyl psr-cmt-show`.
pub fn run_cmt_show(args: &CmtShowArgs, context: &Context) -> Outcome {
    find_if_given(context, args.domain.as_deref())?;
    needs(context, Ability::Monitoring)
}

/// Show the shares of the caches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-cat-show
  xyl psr-cat-show -l 2 web")]
pub struct CatShowArgs {
    /// Level of the cache, 2 or 3
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    level: u8,
    /// Only this domain
    #[arg(add = domain_names())]
    domain: Option<String>,
}

/// Runs `xyl psr-cat-show`.
pub fn run_cat_show(args: &CatShowArgs, context: &Context) -> Outcome {
    find_if_given(context, args.domain.as_deref())?;
    needs(context, Ability::Allocation)
}

/// Set a domain's share of the caches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-cat-set web 0xff
  xyl psr-cat-set -l 2 web 0xf")]
pub struct CatSetArgs {
    /// Sockets, such as 0-1
    #[arg(short, long)]
    socket: Option<String>,
    /// Level of the cache, 2 or 3
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    level: u8,
    /// For data
    #[arg(short, long, conflicts_with = "code")]
    data: bool,
    /// For code
    #[arg(short, long)]
    code: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The share, a bit for each part of the cache
    cbm: String,
}

/// Runs `xyl psr-cat-set`.
pub fn run_cat_set(args: &CatSetArgs, context: &Context) -> Outcome {
    context.find(&args.domain)?;
    needs(context, Ability::Allocation)
}

/// Show the shares of memory bandwidth
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-mba-show")]
pub struct MbaShowArgs {
    /// Only this domain
    #[arg(add = domain_names())]
    domain: Option<String>,
}

/// Runs `xyl psr-mba-show`.
pub fn run_mba_show(args: &MbaShowArgs, context: &Context) -> Outcome {
    find_if_given(context, args.domain.as_deref())?;
    needs(context, Ability::Allocation)
}

/// Set a domain's share of memory bandwidth
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl psr-mba-set web 50")]
pub struct MbaSetArgs {
    /// Sockets, such as 0-1
    #[arg(short, long)]
    socket: Option<String>,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The throttling value
    thrtl: String,
}

/// Runs `xyl psr-mba-set`.
pub fn run_mba_set(args: &MbaSetArgs, context: &Context) -> Outcome {
    context.find(&args.domain)?;
    needs(context, Ability::Allocation)
}

fn find_if_given(context: &Context, domain: Option<&str>) -> Outcome {
    domain.map_or(Ok(()), |asked| context.find(asked).map(drop))
}
