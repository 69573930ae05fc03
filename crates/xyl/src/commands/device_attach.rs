//! The attach of one device to a running domain: `xyl block-attach`, `xyl network-attach`.

use uuid::Uuid;
use xyl_engine::supervise::requests::{self, Asking, Request};

use super::recover;
use crate::context::Context;
use crate::error::Outcome;
use crate::interrupts::Interrupts;

/// A device that is to be attached.
pub struct Attach {
    /// libxl's name of the kind.
    pub kind: &'static str,
    /// Its description, with the host's defaults.
    pub device: String,
    /// Whether the command itself has an option for a dry run, which was given.
    pub is_dry_run: bool,
}

impl Attach {
    /// Attaches it to the domain that a user has named. Ctrl-C takes the attach back.
    ///
    /// # Errors
    /// The reason for which it is not attached.
    pub fn run(self, context: &Context, domain: &str) -> Outcome {
        let mut host = context.open_host()?;
        let info = context.find_on(&mut host, domain)?.info;
        let what = format!("attach `{}` to domain {}", self.device, info.domid);
        let request = Request::AttachDevice {
            kind: self.kind.to_owned(),
            device: self.device,
        };
        if self.is_dry_run {
            requests::check(&mut host, &info, &request)?;
            return context.would_with(what);
        }
        if context.would_change(&mut host, &info, &request, || what)? {
            return Ok(());
        }
        let interrupts = Interrupts::catch()?;
        let mut asking = Asking {
            cancel: &interrupts.cancel,
            progress: &mut |_, _| (),
        };
        let outcome = requests::ask(&mut host, &info, &request, &mut asking);
        context.count(&host);
        // A monitor without the right to what is asked for ends.
        recover::replace_ended_monitor(context, Uuid::from_bytes(info.handle));
        outcome?;
        Ok(())
    }
}
