//! Sockets of channels: a program of domain 0 connects to one, and QEMU serves it.
//!
//! Xyl makes the socket in a folder of its own and listens, since the confined QEMU makes none. QEMU gets the open socket. At the path of
//! the configuration there is a symbolic link to it. So Xyl recognises what a dead process has left there, and never removes a file
//! that is not its own: QEMU would remove any file at the path, as root.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use os_port::{OpenFile, remove_if_there};
use xenstore::Tree;

use crate::device::bus::Device;
use crate::error::DeviceError;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// The socket of a channel, in Xyl's own folder.
fn own_path(host: &Host, device: &Device) -> PathBuf {
    let name = format!("{}-{}", device.domid, device.number);
    host.dirs.channels().join(name)
}

/// Refuses a path at which there is a file that is not Xyl's own, or the socket of another channel.
pub(super) fn check(host: &mut Host, what: &str, path: &Path) -> Result<(), EngineError> {
    has_left_over(host, what, path, None).map(drop)
}

/// Whether there is a link at a path that no channel has. `own` is the socket of the channel itself.
fn has_left_over(
    host: &mut Host,
    what: &str,
    path: &Path,
    own: Option<&Path>,
) -> Result<bool, EngineError> {
    let target = match host.files.target_of_link(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found.map_err(|source| failure(what, path, source))?,
    };
    let channels = host.dirs.channels();
    let is_free = match &target {
        Some(target) if Some(&**target) == own => true,
        Some(target) if target.parent() == Some(&*channels) => !is_served(host, target, path)?,
        _ => false,
    };
    match is_free {
        true => Ok(true),
        false => Err(DeviceError::SocketTaken {
            device: what.to_owned(),
            path: path.to_owned(),
        }
        .into()),
    }
}

/// Whether a domain has the channel with this socket of Xyl's own, at this path, by the toolstack's own copy.
fn is_served(host: &mut Host, target: &Path, path: &Path) -> Result<bool, EngineError> {
    let name = target.file_name().and_then(|name| name.to_str());
    let name = name.and_then(|name| name.split_once('-'));
    let Some((domid, number)) = name else {
        return Ok(false);
    };
    let copy = node(&format!("/libxl/{domid}/device/console/{number}/path"))?;
    let served = host.store.read_text_opt(&copy)?;
    Ok(served.is_some_and(|served| Path::new(&served) == path))
}

/// Makes the socket of a channel whose nodes are written, and the link to it.
pub(super) fn make(
    host: &mut Host,
    device: &Device,
    what: &str,
    path: &Path,
) -> Result<OpenFile, EngineError> {
    let own = own_path(host, device);
    let folder = host.dirs.channels();
    let made = host.files.create_folder(&folder);
    made.map_err(|source| EngineError::io("make the folder", &folder, source))?;
    if has_left_over(host, what, path, Some(&own))? {
        remove_if_there(&*host.files, path).map_err(|source| failure(what, path, source))?;
    }
    let socket = host.files.listen(&own);
    let socket = socket.map_err(|source| EngineError::io("listen at", &own, source))?;
    let linked = host.files.make_link(path, &own);
    linked.map_err(|source| failure(what, path, source))?;
    Ok(socket)
}

/// Removes the socket of a channel, and the link to it. What is at the path and is not that link stays.
pub(super) fn remove(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let copy = node(&format!("{}/path", device.copy()))?;
    let Some(path) = host.store.read_text_opt(&copy)? else {
        return Ok(());
    };
    let (path, own) = (PathBuf::from(path), own_path(host, device));
    let failed = |source| EngineError::io("remove", &path, source);
    if let Ok(Some(target)) = host.files.target_of_link(&path)
        && target == own
    {
        remove_if_there(&*host.files, &path).map_err(failed)?;
    }
    let removed = remove_if_there(&*host.files, &own);
    removed.map_err(|source| EngineError::io("remove", &own, source))
}

fn failure(what: &str, path: &Path, source: std::io::Error) -> DeviceError {
    DeviceError::Socket {
        device: what.to_owned(),
        path: path.to_owned(),
        source,
    }
}
