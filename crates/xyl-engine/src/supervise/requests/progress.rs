//! The progress of a dump: two numbers in a file of the VM's run folder.
//!
//! The monitor that dumps writes it once a second, and the asker reads it.

use std::time::Duration;

use uuid::Uuid;

use crate::Host;
use crate::operation::dump_core::progress_file;
use crate::vm::store;

/// Time between two writes of the monitor.
const EVERY: Duration = Duration::from_secs(1);
/// Largest such file that is read, in bytes: two numbers.
const FILE_MAX_BYTES: u64 = 64;

/// Returns a function for the bytes of a core that are written, and its size.
pub(super) fn writer(host: &Host, uuid: Uuid) -> impl FnMut(u64, u64) + use<> {
    let (files, clock) = (host.files.clone(), host.clock.clone());
    let path = progress_file(host, uuid);
    let mut due = clock.now() + EVERY;
    move |written, size| {
        let now = clock.now();
        if now >= due {
            due = now + EVERY;
            // If that fails, the asker does not see the progress.
            let new = path.with_extension("new");
            let _ =
                store::write_whole(&*files, &new, &path, format!("{written} {size}").as_bytes());
        }
    }
}

/// Reads the bytes of a core that are written, and its size.
pub(super) fn read(host: &Host, uuid: Uuid) -> Option<(u64, u64)> {
    let path = progress_file(host, uuid);
    let bytes = host.files.read(&path, FILE_MAX_BYTES).ok()?;
    let (written, size) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
    Some((written.parse().ok()?, size.parse().ok()?))
}
