//! Hostile xenstore contents, to test programs that read them.

use testguest_logic::text::Text;

use crate::store::{Error, Store};

use core::fmt::Write as _;

/// Nodes that a guest may own, and some that it should not be able to write.
const NODES: &[&str] = &[
    "data/hostile",
    "data/hostile/deep/deeper/deepest",
    "data/updated",
    "control/shutdown",
    "control/sysrq",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/feature-s3",
    "control/feature-s4",
    "control/laptop-slate-mode",
    "control/platform-feature-xs_reset_watches",
    "device/suspend/event-channel",
    "device/vif/0/state",
    "device/vif/0/backend",
    "device/vbd/51712/state",
    "device/vbd/51712/backend",
    "device/console/1/state",
    "drivers/0",
    "feature/x",
    "attr/eth0/ip",
    "error/device/vif/0/error",
    "memory/target",
    "memory/static-max",
    "cpu/0/availability",
    "name",
    "domid",
    "vm",
    "console/ring-ref",
    "console/port",
    "console/limit",
    "console/type",
    "console/output",
    "console/tty",
    "store/port",
    "store/ring-ref",
    "/libxl/hostile",
    "/vm/hostile",
    "/local/domain/0/name",
    "/tool/hostile",
];

const LONG: [u8; 2000] = [b'A'; 2000];
const LONGEST: [u8; 4000] = [b'B'; 4000];
const BINARY: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        #[allow(
            clippy::indexing_slicing,
            reason = "const evaluation: a wrong index fails the build"
        )]
        {
            bytes[i] = i as u8;
        }
        i += 1;
    }
    bytes
};

const VALUES: &[&[u8]] = &[
    b"",
    &LONG,
    &LONGEST,
    &BINARY,
    b"\0",
    b"18446744073709551616",
    b"-1",
    b"99999999999999999999999999999999999999999",
    b"4294967296",
    b"0x7fffffffffffffff",
    b"1e309",
    b" 1 ",
    b"poweroff\0reboot",
    b"no-such-request",
    b"../../../local/domain/0/name",
    b"/local/domain/0/backend/vbd/1/1",
    b"%s%s%s%n%n%n",
    b"\x1b[2J\x1b]0;title\x07\r\n\"'`;|&",
    b"\xff\xfe\xc0\x80\xed\xa0\x80",
    b"{\"a\":[[[[[[[[",
];

/// Result of an attempt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Requests that xenstored carried out.
    pub done: u32,
    /// Requests that it refused.
    pub refused: u32,
}

/// Writes one value into each node, shifted by `offset` places in the list of values; then sets
/// odd permissions. Ends early only when xenstored does not answer.
pub fn write_values(store: &mut Store, offset: usize) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    for (node, value) in NODES
        .iter()
        .zip(VALUES.iter().cycle().skip(offset % VALUES.len()))
    {
        tally.count(store.write(node, value))?;
    }
    for permissions in [&["n0"][..], &["w65535"], &["n99999"], &["b1", "x2"], &[]] {
        tally.count(store.set_permissions("data/hostile", permissions))?;
    }
    Ok(tally)
}

/// Creates up to `nodes` nodes under `data/flood`, in place of those of an earlier flood. At the
/// first refusal it stops and removes the last node again, to leave room for the answer.
pub fn flood(store: &mut Store, nodes: u32) -> Result<Tally, Error> {
    match store.remove("data/flood") {
        Err(error) if !error.is("ENOENT") => return Err(error),
        _ => {}
    }
    let mut tally = Tally::default();
    let mut last = Text::<32>::new();
    for i in 0..nodes {
        let mut path = Text::<32>::new();
        let _ = write!(path, "data/flood/{i}");
        tally.count(store.write(path.as_str(), b"x"))?;
        if tally.refused > 0 {
            let _ = store.remove(last.as_str());
            break;
        }
        last = path;
    }
    Ok(tally)
}

impl Tally {
    fn count(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Ok(()) => self.done += 1,
            Err(Error::Refused(_)) | Err(Error::TooLong) => self.refused += 1,
            Err(other) => return Err(other),
        }
        Ok(())
    }
}
