//! Saves a domain to a file that `xl restore` takes, and fills a domain from a file of `xl save`.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use xen_build::{Channel, RestoreRequest, Restored, SaveRequest, SaveSummary};
use xen_port::{DomId, GuestKind, HvmParam, Hypervisor, ShutdownReason};
use xen_stream::{Config, Event, FileHeader, LibxlHeader, Limits, Reader, StreamKind, Writer};
use xen_sys::Xen;
use xenstore::{Client, Tree};

use crate::{Options, Outcome};

/// Time limit for the guest to suspend itself.
const SUSPEND_LIMIT: Duration = Duration::from_secs(60);

/// Saves a domain, with the configuration that libxl keeps of it. The domain stays, suspended.
pub fn save(domid: DomId, path: &Path, live: bool) -> Outcome<bool> {
    let xen = Xen::open()?;
    let info = xen.domain_info(domid)?.ok_or("there is no such domain")?;
    let mut to = Writer::new(File::create(path)?, StreamKind::XlFile, Limits::default());
    to.file_header(&FileHeader {
        optional_flags: 0,
        config: Config::Json(fs::read(json_path(domid, info.handle))?),
        tail: Vec::new(),
    })?;
    to.libxl_header(&LibxlHeader {
        is_converted: false,
    })?;
    to.libxc_context()?;
    let request = SaveRequest {
        domid,
        kind: info.kind(),
        live,
    };
    let before = xen.stats();
    let started = Instant::now();
    let summary = write(&xen, &request, &mut to)?;
    let (took, after) = (started.elapsed(), xen.stats());
    to.end()?;
    println!(
        "saved domain {domid} in {took:?}: {} hypercalls, {} mappings of {} frames; {summary:?}",
        after.hypercalls - before.hypercalls,
        after.map_calls - before.map_calls,
        after.mapped_frames - before.mapped_frames,
    );
    if live {
        // Xen refuses this if it notes writes still.
        xen.track_writes(domid)?;
        xen.stop_tracking_writes(domid)?;
    }
    Ok(true)
}

fn write<W: Write>(xen: &Xen, request: &SaveRequest, to: &mut Writer<W>) -> Outcome<SaveSummary> {
    let mut suspended = None;
    let mut suspend = || {
        suspend(xen, request.domid)?;
        suspended = Some(Instant::now());
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let mut report = |_| ControlFlow::Continue(());
    let saved = xen_build::save(xen, request, to, &mut suspend, &mut report);
    let summary = saved.map_err(|failure| match failure {
        xen_build::SaveFailure::Suspend(error) => error,
        xen_build::SaveFailure::Save(error) => error.into(),
    })?;
    println!("suspended for {:?}", suspended.map(|since| since.elapsed()));
    Ok(summary)
}

fn suspend(xen: &Xen, domid: DomId) -> Outcome<()> {
    let node = xenstore::Path::domain(domid.0).join("control/shutdown")?;
    Client::connect()?.write(&node, b"suspend")?;
    let deadline = Instant::now() + SUSPEND_LIMIT;
    while Instant::now() < deadline {
        let info = xen.domain_info(domid)?.ok_or("the domain is gone")?;
        if info.shutdown_reason == Some(ShutdownReason::Suspend) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the guest does not suspend itself".into())
}

/// libxl's file with the configuration of a domain.
fn json_path(domid: DomId, handle: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let [a, b, c, d, e] =
        [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex(handle.get(part).unwrap_or_default()));
    format!("/var/lib/xen/userdata-d.{domid}.{a}-{b}-{c}-{d}-{e}.libxl-json")
}

/// Fills a new domain from a file of `xl save`.
pub fn restore(
    xen: &Xen,
    domid: DomId,
    options: &Options,
    (store, console): (Channel, Channel),
) -> Outcome<Restored> {
    let request = RestoreRequest {
        domid,
        kind: options.kind,
        max_kib: options.memory_mib.max(options.maxmem_mib) << 10,
        max_vcpus: options.vcpus,
        store,
        console,
        hvm_params: match options.kind {
            GuestKind::Pv => &[],
            GuestKind::Pvh | GuestKind::Hvm => &[(HvmParam::TimerMode, 1)],
        },
    };
    let file = BufReader::new(File::open(&options.kernel)?);
    let mut from = Reader::new(file, StreamKind::XlFile, request.limits());
    while !matches!(from.next_event()?, Some(Event::LibxcContext)) {}
    let before = xen.stats();
    let started = Instant::now();
    let restored =
        xen_build::restore(xen, &request, &mut from, &mut |_| ControlFlow::Continue(()))?;
    let (took, after) = (started.elapsed(), xen.stats());
    if from.next_event()? != Some(Event::End) {
        return Err("the image goes on behind its end".into());
    }
    println!(
        "restored domain {domid} in {took:?}: {} hypercalls, {} mappings of {} frames; {restored:?}",
        after.hypercalls - before.hypercalls,
        after.map_calls - before.map_calls,
        after.mapped_frames - before.mapped_frames,
    );
    Ok(restored)
}
