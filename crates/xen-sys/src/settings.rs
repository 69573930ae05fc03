//! Settings of a running Xen: debug keys, the security module Flask, and parameters.

use xen_abi::sysctl::{self, Sysctl};
use xen_abi::xen::{HYPERVISOR_HYPFS_OP, HYPERVISOR_SYSCTL, HYPERVISOR_XSM_OP};
use xen_port::{Errno, Parameter, ParameterKind, Result};

use crate::Xen;
use crate::privcmd::Site;

/// Bytes of `struct xen_flask_op` and more: Xen has 40.
const FLASK_OP_BYTES: usize = 64;
/// Flask's operations, and the version of its interface (`xsm/flask_op.h`).
const FLASK_LOAD: u32 = 1;
const FLASK_GETENFORCE: u32 = 2;
const FLASK_SETENFORCE: u32 = 3;
const FLASK_INTERFACE_VERSION: u32 = 1;

/// Operations on the tree of settings (`hypfs.h`), and bytes of an entry's description.
const HYPFS_READ: u64 = 1;
const HYPFS_WRITE: u64 = 2;
const ENTRY_BYTES: usize = 12;

impl Xen {
    pub(crate) fn type_debug_keys(&self, keys: &str) -> Result<()> {
        self.with_sysctl_version(Site::host("XEN_SYSCTL_debug_keys"), |version| {
            let mut call = self.privcmd.call(keys.len())?;
            let buffer = call.put_slice(keys.as_bytes())?;
            let request = sysctl::DebugKeys {
                keys: buffer.address(),
                nr_keys: keys.len() as u32,
                pad: 0,
            };
            let op = call.put(&Sysctl::new(version, sysctl::DEBUG_KEYS, &request))?;
            // SAFETY: `op` is one sysctl, `buffer` has `nr_keys` bytes.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            Ok(())
        })
    }

    pub(crate) fn read_flask_mode(&self) -> Result<bool> {
        let mode = self.flask("FLASK_GETENFORCE", FLASK_GETENFORCE, &[0; 2], &[])?;
        Ok(mode != 0)
    }

    pub(crate) fn write_flask_mode(&self, enforcing: bool) -> Result<()> {
        let argument = [u64::from(enforcing), 0];
        self.flask("FLASK_SETENFORCE", FLASK_SETENFORCE, &argument, &[])
            .map(drop)
    }

    pub(crate) fn write_flask_policy(&self, policy: &[u8]) -> Result<()> {
        self.flask("FLASK_LOAD", FLASK_LOAD, &[0, policy.len() as u64], policy)
            .map(drop)
    }

    /// A request to Flask. `argument` is the start of the union; its first word becomes the address of `bytes` if there are some.
    fn flask(&self, op: &'static str, cmd: u32, argument: &[u64; 2], bytes: &[u8]) -> Result<i32> {
        let mut call = self.privcmd.call(FLASK_OP_BYTES + bytes.len())?;
        let mut words = vec![0_u64; FLASK_OP_BYTES / 8];
        let start = u64::from(cmd) | u64::from(FLASK_INTERFACE_VERSION) << 32;
        let first = match bytes.is_empty() {
            true => argument[0],
            false => call.put_slice(bytes)?.address(),
        };
        for (word, value) in words.iter_mut().zip([start, first, argument[1]]) {
            *word = value;
        }
        let request = call.put_slice(&words)?;
        // SAFETY: `request` is larger than the one structure that Xen reads and writes; its only address has `bytes` behind it.
        unsafe { call.run(HYPERVISOR_XSM_OP, &[request.address()]) }
            .map_err(|errno| Site::host(op).error(errno))
    }

    pub(crate) fn read_parameter(&self, name: &str) -> Result<Parameter> {
        let path = path_of(name);
        let mut call = self.privcmd.call(path.len() + ENTRY_BYTES)?;
        let path_in = call.put_slice(&path)?;
        let entry = call.reserve::<u8>(ENTRY_BYTES)?;
        let arguments = [
            HYPFS_READ,
            path_in.address(),
            path.len() as u64,
            entry.address(),
            ENTRY_BYTES as u64,
        ];
        // SAFETY: `path_in` has the bytes of the path, `entry` as many bytes as the call says.
        let answer = unsafe { call.run(HYPERVISOR_HYPFS_OP, &arguments) };
        match answer {
            // The value does not fit behind its description, which is there.
            Ok(_) | Err(Errno::ENOBUFS) => {}
            Err(errno) => return Err(Site::host("XEN_HYPFS_OP_read").error(errno)),
        }
        let entry = call.get_slice(&entry, ENTRY_BYTES)?;
        let number = |at: usize| {
            let bytes = entry.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        Ok(Parameter {
            kind: kind_of(entry.first().copied().unwrap_or(0)),
            size_bytes: number(4).unwrap_or(0),
            max_write_bytes: number(8).unwrap_or(0),
        })
    }

    pub(crate) fn write_parameter(&self, name: &str, value: &[u8]) -> Result<()> {
        let path = path_of(name);
        let mut call = self.privcmd.call(path.len() + value.len())?;
        let path_in = call.put_slice(&path)?;
        let value_in = call.put_slice(value)?;
        let arguments = [
            HYPFS_WRITE,
            path_in.address(),
            path.len() as u64,
            value_in.address(),
            value.len() as u64,
        ];
        // SAFETY: both buffers have as many bytes as the call says; Xen reads them.
        unsafe { call.run(HYPERVISOR_HYPFS_OP, &arguments) }
            .map(drop)
            .map_err(|errno| Site::host("XEN_HYPFS_OP_write_contents").error(errno))
    }
}

/// Path of a parameter in the tree, with its NUL byte.
fn path_of(name: &str) -> Vec<u8> {
    format!("/params/{name}\0").into_bytes()
}

/// Converts Xen's number of a kind (`XEN_HYPFS_TYPE_*`).
fn kind_of(number: u8) -> ParameterKind {
    match number {
        2 => ParameterKind::Text,
        3 => ParameterKind::Unsigned,
        4 => ParameterKind::Signed,
        5 => ParameterKind::Bool,
        _ => ParameterKind::Other,
    }
}
