//! `xyl suspend` and `xyl resume`.

use xyl_engine::supervise::requests::{self, Request};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Have a guest suspend itself; its memory and devices stay
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest has 60 s to take the request, and 60 s more to suspend itself. If it does not, the request is withdrawn and the \
guest runs on; if it suspends itself later, its monitor resumes it. `xyl list` shows a suspended guest with the state `s`. It can be \
resumed, destroyed, and have its core dumped.

Examples:
  xyl suspend web
  xyl resume web"
)]
pub struct SuspendArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Have a suspended guest go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl suspend web
  xyl resume web")]
pub struct ResumeArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
}

/// Runs `xyl suspend`.
pub fn run_suspend(args: &SuspendArgs, context: &Context) -> Outcome {
    context.change(&args.domain, &Request::Suspend, |domid| {
        format!("suspend domain {domid}")
    })
}

/// Runs `xyl resume`. A domain that is not suspended is an error, as with xl.
pub fn run_resume(args: &ResumeArgs, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let info = context.find_on(&mut host, &args.domain)?.info;
    requests::check(&mut host, &info, &Request::Resume)?;
    context.change_on(&mut host, &info, &Request::Resume, |domid| {
        format!("resume domain {domid}")
    })
}
