//! The hypervisor port of a command that talks to a simulated host.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xen_port::*;

use super::wire::{self, Answer, Call};

/// Most bytes of a guest's memory in one message.
const PIECE_BYTES: usize = 256 << 10;

/// The simulated hypervisor, as a command reaches it.
#[derive(Clone)]
pub(super) struct RemoteXen {
    connection: Rc<RefCell<Connection>>,
}

/// A connection to the host's process.
pub(super) struct Connection {
    stream: UnixStream,
    calls: u64,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Connection {
        Connection { stream, calls: 0 }
    }

    /// Makes a call and takes the answer, each with raw bytes.
    pub fn exchange(
        &mut self,
        call: &str,
        args: impl Serialize,
        bytes: &[u8],
    ) -> io::Result<(Answer, Vec<u8>)> {
        self.calls += 1;
        let call = Call {
            call: call.to_owned(),
            args,
        };
        self.stream.write_all(&wire::encode(&call, bytes)?)?;
        let mut start = [0; 8];
        self.stream.read_exact(&mut start)?;
        let (head, tail) = wire::lengths(&start)?;
        let (mut answer, mut bytes) = (vec![0; head], vec![0; tail]);
        self.stream.read_exact(&mut answer)?;
        self.stream.read_exact(&mut bytes)?;
        Ok((serde_json::from_slice(&answer)?, bytes))
    }
}

impl RemoteXen {
    pub fn new(connection: Connection) -> RemoteXen {
        RemoteXen {
            connection: Rc::new(RefCell::new(connection)),
        }
    }

    fn ask<T: DeserializeOwned>(&self, op: &'static str, args: impl Serialize) -> Result<T> {
        Ok(self.ask_with(op, args, &[])?.0)
    }

    fn ask_with<T: DeserializeOwned>(
        &self,
        op: &'static str,
        args: impl Serialize,
        bytes: &[u8],
    ) -> Result<(T, Vec<u8>)> {
        let exchanged = self.connection.borrow_mut().exchange(op, args, bytes);
        let lost = |source: io::Error| HvError::Nonsense {
            op,
            what: format!(
                "the simulated host does not answer ({source}): was it killed? The next command starts it anew"
            ),
        };
        let (answer, bytes) = exchanged.map_err(lost)?;
        let value = answer.map_err(|refusal| refusal.into_error(op))?;
        let value = serde_json::from_value(value).map_err(|error| HvError::Nonsense {
            op,
            what: error.to_string(),
        })?;
        Ok((value, bytes))
    }

    fn mapped(&self, (id, size_bytes): (u64, usize)) -> Box<dyn GuestMemory> {
        Box::new(RemoteMemory {
            xen: self.clone(),
            id,
            size_bytes,
        })
    }
}

macro_rules! remote {
    ($($name:ident($($arg:ident: $ty:ty),*) ($($by_ref:ident: $of:ty),*) -> $ret:ty;)*) => {
        $(fn $name(&self, $($arg: $ty,)* $($by_ref: &$of,)*) -> Result<$ret> {
            self.ask(stringify!($name), ($($arg,)* $($by_ref,)*))
        })*
    };
}

impl Hypervisor for RemoteXen {
    hypervisor_methods!(remote);

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("simulated hypercalls", self.connection.borrow().calls)]
    }

    fn destroy_domain(&self, domid: DomId, _deadline: Instant) -> Result<()> {
        self.ask("destroy_domain", (domid,))
    }

    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<(Option<CpuMap>, Option<CpuMap>)> {
        self.ask("set_vcpu_affinity", (domid, vcpu, hard, soft, force))
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        Ok(self.mapped(self.ask("map_foreign", (domid, frames))?))
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        Ok(self.mapped(self.ask("map_grant_frames", (domid, nr_frames))?))
    }
}

/// Memory of a guest in the host's process: each access is a call.
struct RemoteMemory {
    xen: RemoteXen,
    id: u64,
    size_bytes: usize,
}

impl Drop for RemoteMemory {
    fn drop(&mut self) {
        // A host that is gone has unmapped it.
        let _: Result<()> = self.xen.ask("unmap", (self.id,));
    }
}

impl GuestMemory for RemoteMemory {
    fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        for (piece, start) in bytes
            .chunks(PIECE_BYTES)
            .zip((offset..).step_by(PIECE_BYTES))
        {
            let ((), _) = self.xen.ask_with("write_memory", (self.id, start), piece)?;
        }
        Ok(())
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let starts = (offset..).step_by(PIECE_BYTES);
        for (piece, start) in bytes.chunks_mut(PIECE_BYTES).zip(starts) {
            let asked = (self.id, start, piece.len());
            let ((), read) = self.xen.ask_with("read_memory", asked, &[])?;
            if read.len() != piece.len() {
                return Err(HvError::Nonsense {
                    op: "read_memory",
                    what: format!("{} bytes, not {}", read.len(), piece.len()),
                });
            }
            piece.copy_from_slice(&read);
        }
        Ok(())
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        self.xen.ask("zero_memory", (self.id, offset, len))
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        let mut piece = vec![0; PIECE_BYTES.min(len)];
        for start in (0..len).step_by(PIECE_BYTES) {
            piece.truncate(len - start);
            if let Err(error) = fill(&mut piece) {
                return Ok(Err(error));
            }
            self.write(offset + start, &piece)?;
        }
        Ok(Ok(()))
    }
}
