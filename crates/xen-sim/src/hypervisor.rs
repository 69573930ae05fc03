//! The hypervisor port of a process that a test can kill.

use std::io;
use std::time::Instant;

use crate::model::Model;
use xen_port::*;
use xenstore::mem::MemStore;

use crate::fate::Fate;

/// The model's hypervisor port of one process. It forwards the end of a domain to the simulated xenstored, as Xen
/// does.
pub(crate) struct MortalXen {
    pub inner: Model,
    pub store: MemStore,
    pub fate: Fate,
}

fn dead<T>() -> Result<T> {
    Err(HvError::Nonsense {
        op: "a call",
        what: "its process is dead".to_owned(),
    })
}

/// Errors that a call can return without a mistake of its caller: `ENOMEM` if Xen or the driver allocates, `EPERM` if
/// a security policy decides, and errors of the single call. The model itself returns `ESRCH` for a missing domain.
fn errnos(op: &str) -> &'static [Errno] {
    const REFUSED: &[Errno] = &[Errno::EPERM, Errno::EFAULT];
    const ALLOCATES: &[Errno] = &[Errno::ENOMEM, Errno::EPERM, Errno::EFAULT];
    match op {
        "create_domain" => &[
            Errno::ENOMEM,
            Errno::EPERM,
            Errno::EINVAL,
            Errno::EEXIST,
            Errno::EOPNOTSUPP,
        ],
        "destroy_domain" => &[Errno::EPERM, Errno::EBUSY, Errno::EINTR],
        "soft_reset" => &[Errno::EPERM, Errno::EBUSY, Errno::EAGAIN, Errno::ENOMEM],
        "alloc_unbound" => &[Errno::ENOSPC, Errno::ENOMEM, Errno::EPERM],
        "claim_pages" | "set_paging_mempool" | "set_max_vcpus" | "map_foreign"
        | "map_grant_frames" | "populate_physmap" | "set_max_mem" | "cpu_policy"
        | "vcpu_context" => ALLOCATES,
        "create_cpu_pool" => &[Errno::ENOMEM, Errno::ENOSPC, Errno::EPERM],
        "add_cpu_to_pool" => &[Errno::ENODEV, Errno::EADDRNOTAVAIL, Errno::EPERM],
        "remove_cpu_from_pool" => &[Errno::EADDRINUSE, Errno::EBUSY, Errno::EPERM],
        "move_to_pool" => &[Errno::ENOMEM, Errno::EPERM],
        "hvm_context" | "pv_vcpu_state" | "track_writes" | "take_written_pages" | "frame_kinds" => {
            ALLOCATES
        }
        "set_hvm_context" | "set_pv_vcpu_state" => &[Errno::EINVAL, Errno::ENOMEM, Errno::EPERM],
        "set_cpu_policy" => &[Errno::EINVAL, Errno::ENOMEM, Errno::EPERM],
        "set_hvm_param" | "set_hvm_params" | "set_hvm_boot_cpu" | "set_pv_boot_cpu" => {
            &[Errno::EINVAL, Errno::EPERM, Errno::EFAULT]
        }
        _ => REFUSED,
    }
}

fn call_error(op: &'static str, errno: Errno) -> HvError {
    HvError::Call {
        op,
        domid: None,
        errno,
        detail: " (injected)".to_owned(),
    }
}

/// The answer of a call that was forgotten: only those that answer nothing can be.
fn pretended<T: 'static>() -> Option<T> {
    let nothing: Box<dyn std::any::Any> = Box::new(());
    nothing.downcast().ok().map(|answer| *answer)
}

type Affinities = (Option<CpuMap>, Option<CpuMap>);

macro_rules! delegate {
    ($($name:ident($($arg:ident: $ty:ty),*) ($($by_ref:ident: $of:ty),*) -> $ret:ty;)*) => {
        $(fn $name(&self, $($arg: $ty,)* $($by_ref: &$of,)*) -> Result<$ret> {
            self.hypercall(stringify!($name), || self.inner.$name($($arg,)* $($by_ref,)*))
        })*
    };
}

impl Hypervisor for MortalXen {
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inner.counters()
    }

    fn destroy_domain(&self, domid: DomId, deadline: Instant) -> Result<()> {
        self.hypercall("destroy_domain", || {
            self.inner.destroy_domain(domid, deadline)?;
            self.store.domain_destroyed(domid.0);
            Ok(())
        })
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        let map = || self.inner.map_foreign(domid, frames);
        self.mortal(self.hypercall("map_foreign", map))
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        let map = || self.inner.map_grant_frames(domid, nr_frames);
        self.mortal(self.hypercall("map_grant_frames", map))
    }

    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<Affinities> {
        self.hypercall("set_vcpu_affinity", || {
            self.inner.set_vcpu_affinity(domid, vcpu, hard, soft, force)
        })
    }

    hypervisor_methods!(delegate);
}

impl MortalXen {
    fn hypercall<T: 'static>(
        &self,
        op: &'static str,
        effect: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let lasting = self.fate.lasting().xen(&self.fate, op);
        let errno = lasting.or_else(|| self.fate.fault(op, errnos(op)));
        let call = || match (self.fate.forgets(op).then(pretended).flatten(), errno) {
            (Some(answer), _) => Ok(answer),
            (None, Some(errno)) if self.fate.ignores_errors(op) => {
                pretended().ok_or_else(|| call_error(op, errno))
            }
            (None, Some(errno)) => Err(call_error(op, errno)),
            (None, None) => effect(),
        };
        self.fate.call(call, dead)
    }

    fn mortal(&self, mapping: Result<Box<dyn GuestMemory>>) -> Result<Box<dyn GuestMemory>> {
        Ok(Box::new(MortalMemory {
            inner: mapping?,
            fate: self.fate.clone(),
        }))
    }
}

/// A mapping of guest memory. Each access is a call. The mapping ends with its process.
struct MortalMemory {
    inner: Box<dyn GuestMemory>,
    fate: Fate,
}

impl GuestMemory for MortalMemory {
    fn size_bytes(&self) -> usize {
        self.inner.size_bytes()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.write(offset, bytes), dead)
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.fate.call(|| self.inner.read(offset, bytes), dead)
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.zero(offset, len), dead)
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        let inner = &mut self.inner;
        self.fate.call(|| inner.fill_with(offset, len, fill), dead)
    }
}
