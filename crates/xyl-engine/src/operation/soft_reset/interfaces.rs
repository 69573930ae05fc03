//! The interfaces between a guest and Xen, xenstored and xenconsoled that a soft reset makes anew: event channels, grants, the
//! introduction.

use std::time::Duration;

use xen_port::{DomId, Errno, EvtchnPort, Gfn, HvmParam};
use xenstore::Tree;

use crate::device::console::Ring;
use crate::operation::create::Daemons;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Time limit for Xen to answer that it is busy.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// The first pause while Xen is busy; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause while Xen is busy.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Whether xenstored is the one in C of Xen 4.17.0. It may use a connection after it has freed it when a domain is released
/// (XSA-425; xen.git 2f8851c37f mends it in 4.17.1). The one in OCaml writes its program's path to `/tool/xenstored`, and the one in C
/// nothing (`tools/ocaml/xenstored/xenstored.ml`, `tools/xenstore/xenstored_core.c`).
pub(super) fn has_faulty_xenstored(host: &mut Host) -> Result<bool, EngineError> {
    let version = match host.hv.version() {
        Err(error) if error.is(Errno::ENOSYS) => return Ok(false),
        other => other?,
    };
    let is_first = version.extra == ".0" || version.extra.starts_with(".0-");
    if (version.major, version.minor) != (4, 17) || !is_first {
        return Ok(false);
    }
    let program = host.store.read_opt(&node("/tool/xenstored")?)?;
    Ok(program.unwrap_or_default().is_empty())
}

/// Resets a domain that is shut down and paused. Xen may be busy for a while.
pub(super) fn reset(host: &Host, domid: DomId) -> Result<(), EngineError> {
    let (hv, clock) = (&host.hv, &host.clock);
    let deadline = clock.now() + BUSY_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match hv.soft_reset(domid) {
            Err(error) if error.is(Errno::EBUSY) || error.is(Errno::EAGAIN) => {
                if clock.now() >= deadline {
                    return Err(error.into());
                }
            }
            other => return Ok(other?),
        }
        clock.wait_until(clock.now() + pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The guest reads the ports from its parameters, which it can also write: so they are set, even
/// where the numbers are those of before. Its interrupt for event channels belonged to the old kernel,
/// and must not hit the new one before that asks for its own.
pub(super) fn open_channels(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let daemons = Daemons::find(host)?;
    let hv = &host.hv;
    // A process that has died may have opened one of them.
    hv.close_event_channels(domid)?;
    let store = hv.alloc_unbound(domid, daemons.store)?;
    let console = hv.alloc_unbound(domid, daemons.console)?;
    Ok(hv.set_hvm_params(
        domid,
        &[
            (HvmParam::CallbackIrq, 0),
            (HvmParam::StoreEvtchn, store.0.into()),
            (HvmParam::ConsoleEvtchn, console.0.into()),
        ],
    )?)
}

/// The ring of the domain's console.
pub(super) fn console(host: &Host, domid: DomId) -> Result<Ring, EngineError> {
    Ok(Ring {
        gfn: Gfn(param(host, domid, HvmParam::ConsolePfn)?),
        port: port(host, domid, HvmParam::ConsoleEvtchn)?,
    })
}

/// Has xenstored serve the domain again.
pub(super) fn introduce(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    if host.store.is_introduced(domid.0)? {
        return Ok(());
    }
    let gfn = param(host, domid, HvmParam::StorePfn)?;
    let port = port(host, domid, HvmParam::StoreEvtchn)?;
    match host.store.introduce(domid.0, gfn, port.0) {
        Err(error) if !error.is_connection_lost() => {
            // xenstored maps the ring by the grant that the build made; the old kernel may have spoilt it.
            grant_rings(host, domid, Gfn(gfn))?;
            Ok(host.store.introduce(domid.0, gfn, port.0)?)
        }
        other => Ok(other?),
    }
}

fn grant_rings(host: &mut Host, domid: DomId, store: Gfn) -> Result<(), EngineError> {
    let daemons = Daemons::find(host)?;
    let console = Gfn(param(host, domid, HvmParam::ConsolePfn)?);
    xen_build::seed_grants(
        &*host.hv,
        domid,
        (daemons.console, console),
        (daemons.store, store),
    )?;
    Ok(())
}

fn param(host: &Host, domid: DomId, param: HvmParam) -> Result<u64, EngineError> {
    Ok(host.hv.hvm_param(domid, param)?)
}

fn port(host: &Host, domid: DomId, param_of_port: HvmParam) -> Result<EvtchnPort, EngineError> {
    let port = u32::try_from(param(host, domid, param_of_port)?).unwrap_or_default();
    Ok(EvtchnPort(port))
}
