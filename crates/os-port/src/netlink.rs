//! The real [`Links`]: rtnetlink(7) over a socket.
//!
//! Five kinds of messages with a fixed layout are enough, so they are written here. The crates for rtnetlink would
//! add an executor (`rtnetlink`), or types for hundreds of attributes (`netlink-packet-route`, `neli`), to a process
//! that has the hypervisor open. Replies come from the kernel, and are nevertheless read with limits.
//!
//! Each request has its own socket, which is never bound or connected. Of the monitors, only those of VMs with network interfaces
//! can open one: `xen-sys/src/rights.rs` allows just this family, type and protocol.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::links::{Link, LinkChange, LinkIndex, LinkName, Links};

/// Message types and flags (netlink(7), rtnetlink(7)).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// The list has changed while the kernel wrote it.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Attributes of a link (`linux/if_link.h`).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// The kernel gives the link no address of its own.
const ADDR_GEN_MODE_NONE: u8 = 1;
/// The reply has no counters.
const SKIP_STATISTICS: u32 = 1 << 3;
/// Flags in an attribute's type.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const AF_INET6: u16 = 10;
const IFF_UP: u32 = 1;

const HEADER_BYTES: usize = 16;
const LINK_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Maximum size of a reply in bytes. The kernel sends at most 32 KiB of a list at once.
const REPLY_MAX_BYTES: usize = 64 << 10;
/// Time limit for the kernel's reply.
const LIMIT: Duration = Duration::from_secs(20);
/// Number of tries for a list that changes meanwhile.
const TRIES: u32 = 16;

/// The network interfaces of this process's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLinks;

impl Links for SystemLinks {
    fn find(&self, name: &LinkName) -> io::Result<Option<Link>> {
        let mut request = Request::new(RTM_GETLINK, 0, LinkHeader::default());
        request.text(IFLA_IFNAME, name.as_str());
        request.attribute(IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
        match request.ask() {
            Err(error) if is_no_link(&error) => Ok(None),
            other => Ok(other?.into_iter().next()),
        }
    }

    fn ports_of(&self, master: LinkIndex) -> io::Result<Vec<Link>> {
        let mut request = Request::new(RTM_GETLINK, NLM_F_DUMP, LinkHeader::default());
        request.attribute(IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
        // Old kernels ignore it, and list all.
        request.attribute(IFLA_MASTER, &master.0.to_ne_bytes());
        let mut links = request.ask()?;
        links.retain(|link| link.master == Some(master));
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    fn change(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        let changed = change_of(index, change).ask();
        let is_without_ipv6 = |error: &io::Error| {
            *change == LinkChange::NoIpv6Address && has_code(error, Errno::AFNOSUPPORT)
        };
        match changed {
            Err(error) if is_without_ipv6(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    fn delete(&self, index: LinkIndex) -> io::Result<bool> {
        let header = LinkHeader {
            index,
            ..LinkHeader::default()
        };
        match Request::new(RTM_DELLINK, NLM_F_ACK, header).ask() {
            Err(error) if is_no_link(&error) => Ok(false),
            other => other.map(|_| true),
        }
    }
}

fn is_no_link(error: &io::Error) -> bool {
    has_code(error, Errno::NODEV)
}

fn has_code(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn change_of(index: LinkIndex, change: &LinkChange) -> Request {
    let up = |flags| LinkHeader {
        index,
        flags,
        changed: IFF_UP,
    };
    let header = match change {
        LinkChange::Up => up(IFF_UP),
        LinkChange::Down => up(0),
        _ => LinkHeader {
            index,
            ..LinkHeader::default()
        },
    };
    let mut request = Request::new(RTM_SETLINK, NLM_F_ACK, header);
    match change {
        LinkChange::Up | LinkChange::Down => {}
        LinkChange::Mtu(bytes) => request.attribute(IFLA_MTU, &bytes.to_ne_bytes()),
        LinkChange::Name(name) => request.text(IFLA_IFNAME, name.as_str()),
        LinkChange::Address(address) => request.attribute(IFLA_ADDRESS, address),
        LinkChange::Master(master) => {
            let index = master.map_or(0, |master| master.0);
            request.attribute(IFLA_MASTER, &index.to_ne_bytes());
        }
        LinkChange::NoIpv6Address => {
            let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
            request.attribute(IFLA_AF_SPEC, &attribute(AF_INET6, &mode));
        }
    }
    request
}

/// The part of `struct ifinfomsg` that is used.
#[derive(Clone, Copy)]
struct LinkHeader {
    index: LinkIndex,
    flags: u32,
    changed: u32,
}

impl Default for LinkHeader {
    fn default() -> LinkHeader {
        LinkHeader {
            index: LinkIndex(0),
            flags: 0,
            changed: 0,
        }
    }
}

/// A request that is being written.
struct Request {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, header: LinkHeader) -> Request {
        let mut payload = vec![0; 4];
        for number in [header.index.0, header.flags, header.changed] {
            payload.extend_from_slice(&number.to_ne_bytes());
        }
        Request {
            kind,
            flags,
            payload,
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.payload.extend_from_slice(&attribute(kind, value));
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat());
    }

    fn bytes(&self) -> Vec<u8> {
        let size = u32::try_from(HEADER_BYTES + self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = size.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(self.flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence number and port: the socket has no other request.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Sends the request; the links of its reply.
    fn ask(&self) -> io::Result<Vec<Link>> {
        for _ in 0..TRIES {
            let reply = self.ask_once()?;
            if !reply.has_changed {
                return Ok(reply.links);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn ask_once(&self) -> io::Result<Reply> {
        // Without a protocol it is the one with number 0: NETLINK_ROUTE.
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LIMIT))?;
        rustix::net::send(&socket, &self.bytes(), SendFlags::empty())?;
        let mut reply = Reply::default();
        while !reply.is_whole {
            let datagram = receive(&socket)?;
            reply.read(&datagram, self.flags)?;
        }
        Ok(reply)
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; REPLY_MAX_BYTES];
    loop {
        match rustix::net::recv(socket, bytes.as_mut_slice(), RecvFlags::TRUNC) {
            Ok((received, size)) if size <= received => {
                bytes.truncate(received);
                return Ok(bytes);
            }
            Ok(_) => return Err(malformed()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's reply about network interfaces cannot be read",
    )
}

/// Result of reading a reply.
#[derive(Default)]
struct Reply {
    links: Vec<Link>,
    is_whole: bool,
    has_changed: bool,
}

impl Reply {
    /// Reads the messages of one datagram.
    fn read(&mut self, mut datagram: &[u8], flags: u16) -> io::Result<()> {
        while !datagram.is_empty() {
            let size = number(datagram, 0).ok_or_else(malformed)? as usize;
            let message = datagram.get(..size).ok_or_else(malformed)?;
            let payload = message.get(HEADER_BYTES..).ok_or_else(malformed)?;
            self.has_changed |= half(message, 6).ok_or_else(malformed)? & NLM_F_DUMP_INTR != 0;
            match half(message, 4).ok_or_else(malformed)? {
                NLMSG_DONE => self.is_whole = true,
                NLMSG_ERROR => {
                    let code = number(payload, 0).ok_or_else(malformed)?.cast_signed();
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    self.is_whole = true;
                }
                RTM_NEWLINK => {
                    self.links.push(link_of(payload).ok_or_else(malformed)?);
                    self.is_whole |= flags & NLM_F_DUMP == 0;
                }
                _ => {}
            }
            datagram = datagram.get(aligned(size)..).unwrap_or_default();
        }
        Ok(())
    }
}

fn link_of(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: LinkIndex(number(payload, 4)?),
        name: String::new(),
        kind: None,
        master: None,
        is_up: number(payload, 8)? & IFF_UP != 0,
        mtu_bytes: 0,
        address: None,
        makes_ipv6_address: false,
    };
    for (kind, value) in attributes(payload.get(LINK_HEADER_BYTES..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu_bytes = number(value, 0)?,
            IFLA_MASTER => link.master = number(value, 0).map(LinkIndex),
            IFLA_ADDRESS => link.address = value.try_into().ok(),
            IFLA_LINKINFO => link.kind = inner(value, IFLA_INFO_KIND).map(text),
            IFLA_AF_SPEC => {
                let ipv6 = inner(value, AF_INET6);
                let mode = ipv6.and_then(|ipv6| inner(ipv6, IFLA_INET6_ADDR_GEN_MODE));
                link.makes_ipv6_address = mode.is_some_and(|mode| mode != [ADDR_GEN_MODE_NONE]);
            }
            _ => {}
        }
    }
    Some(link)
}

/// The attributes one after the other. An incomplete one at the end is omitted.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & ATTRIBUTE_TYPE;
        let value = bytes.get(ATTRIBUTE_HEADER_BYTES..size)?;
        bytes = bytes.get(aligned(size)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn inner(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = attributes(bytes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = ATTRIBUTE_HEADER_BYTES + value.len();
    let mut bytes = u16::try_from(size)
        .unwrap_or(u16::MAX)
        .to_ne_bytes()
        .to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(aligned(size), 0);
    bytes
}

/// Messages and attributes begin at multiples of 4 bytes.
fn aligned(size: usize) -> usize {
    size.next_multiple_of(4)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A text that ends with a NUL.
fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next();
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        Request {
            kind,
            flags,
            payload: payload.to_vec(),
        }
        .bytes()
    }

    fn read(datagram: &[u8]) -> io::Result<Reply> {
        let mut reply = Reply::default();
        reply.read(datagram, NLM_F_DUMP).map(|()| reply)
    }

    fn sample() -> Vec<u8> {
        let header = LinkHeader {
            index: LinkIndex(7),
            flags: IFF_UP,
            changed: 0,
        };
        let mut link = Request::new(RTM_NEWLINK, 0, header);
        link.text(IFLA_IFNAME, "vif1.0");
        link.attribute(IFLA_ADDRESS, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let kind = attribute(IFLA_INFO_KIND, b"bridge\0");
        link.attribute(IFLA_LINKINFO | 0x8000, &kind);
        link.bytes()
    }

    #[test]
    fn a_link_is_read() {
        let reply = read(&[sample(), message(NLMSG_DONE, 0, &[0; 4])].concat()).unwrap();
        assert!(reply.is_whole && !reply.has_changed);
        let link = reply.links.first().unwrap();
        assert_eq!((link.index, link.name.as_str()), (LinkIndex(7), "vif1.0"));
        assert!(link.is_up && link.is_bridge());
        assert_eq!(link.address, Some([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]));
    }

    #[test]
    fn a_reply_that_is_cut_off_or_wrong_is_refused_or_read_in_part() {
        let whole = sample();
        for size in 1..whole.len() {
            let cut = read(whole.get(..size).unwrap());
            assert!(cut.is_err(), "{size}");
            // Each byte may have any value: nothing panics, and nothing is read twice.
            let mut changed = whole.clone();
            changed[size] = 0xff;
            let _ = read(&changed);
        }
        // A message of no size at all.
        assert!(read(&[0; 16]).is_err());
    }

    #[test]
    fn errors_and_changed_lists_are_seen() {
        let refused = message(NLMSG_ERROR, 0, &(-19_i32).to_ne_bytes());
        assert!(read(&refused).is_err_and(|error| is_no_link(&error)));
        let accepted = message(NLMSG_ERROR, 0, &[0; 4]);
        assert!(read(&accepted).unwrap().is_whole);
        let changed = message(NLMSG_DONE, NLM_F_DUMP_INTR, &[0; 4]);
        assert!(read(&changed).unwrap().has_changed);
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let name = LinkName::parse("lo").unwrap();
        let lo = SystemLinks.find(&name).unwrap().unwrap();
        assert_eq!((lo.name.as_str(), lo.master), ("lo", None));
        assert_eq!(SystemLinks.ports_of(lo.index).unwrap(), []);
        let none = LinkName::parse("xyl-no-such").unwrap();
        assert_eq!(SystemLinks.find(&none).unwrap(), None);
    }
}
