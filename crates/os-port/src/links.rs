//! Network interfaces ("links") of the host: bridges and the interfaces of guests. [`Links`] is the port.
//!
//! A link has an index, which no other link gets while it exists, and a name, which can change. So a link is looked for by
//! name once, and changed by its index. Each change is one request to the kernel.

use std::fmt;
use std::io;

/// Maximum size of a link's name in bytes (`IFNAMSIZ` without the NUL).
const NAME_MAX_BYTES: usize = 15;

/// The port to network interfaces.
pub trait Links: fmt::Debug {
    /// Finds a link by its name; `None` if there is none.
    ///
    /// # Errors
    /// The system's error.
    fn find(&self, name: &LinkName) -> io::Result<Option<Link>>;

    /// All links that have this one as their master, such as the ports of a bridge, in the order of their indices.
    ///
    /// # Errors
    /// The system's error.
    fn ports_of(&self, master: LinkIndex) -> io::Result<Vec<Link>>;

    /// Changes a link.
    ///
    /// # Errors
    /// The system's error: [`Errno::NODEV`](rustix::io::Errno::NODEV) if the link has gone. Before Linux 6.2 a link that
    /// is up cannot be renamed (`EBUSY`).
    fn change(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()>;

    /// Deletes a link. Returns whether it was there.
    ///
    /// # Errors
    /// The system's error: the kernel deletes no interface of a device.
    fn delete(&self, index: LinkIndex) -> io::Result<bool>;
}

/// The name of a link: 1 to 15 bytes of printable ASCII without `/`, `:`, `%` and blanks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LinkName(String);

impl LinkName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if no link can have this name.
    pub fn parse(text: &str) -> io::Result<LinkName> {
        // The kernel takes a `%` for the place of a number.
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        let has_size = !text.is_empty() && text.len() <= NAME_MAX_BYTES;
        match has_size && text.bytes().all(is_allowed) && text != "." && text != ".." {
            true => Ok(LinkName(text.to_owned())),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "`{}` is no name of a network interface: 1 to {NAME_MAX_BYTES} bytes of ASCII without `/`, `:`, `%` and blanks",
                    text.escape_debug()
                ),
            )),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Index of a link in its network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LinkIndex(pub u32);

/// A network interface, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Link {
    /// Index of the link.
    pub index: LinkIndex,
    /// Name of the link now.
    pub name: String,
    /// The driver of a virtual link, such as `bridge` or `tun`; `None` for that of a device, such as netback's.
    pub kind: Option<String>,
    /// The link that this one is a port of.
    pub master: Option<LinkIndex>,
    /// Whether the link has been set up.
    pub is_up: bool,
    /// Largest packet in bytes.
    pub mtu_bytes: u32,
    /// The Ethernet address; `None` for a link without one.
    pub address: Option<[u8; 6]>,
    /// Whether the kernel gives the link an IPv6 address of its own when it goes up.
    pub makes_ipv6_address: bool,
}

impl Link {
    /// Whether the link is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }
}

/// One change of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LinkChange {
    /// Sets the link up.
    Up,
    /// Sets the link down.
    Down,
    /// Sets the size of the largest packet in bytes.
    Mtu(u32),
    /// Gives the link another name.
    Name(LinkName),
    /// Sets the Ethernet address.
    Address([u8; 6]),
    /// Makes the link a port of a bridge, or of nothing.
    Master(Option<LinkIndex>),
    /// Lets the kernel give the link no IPv6 address of its own. No error on a kernel without IPv6.
    NoIpv6Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_link_can_have_are_refused() {
        for name in ["vif1.0", "xenbr0", "vif65535.0-emu"] {
            assert_eq!(LinkName::parse(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(16);
        for name in [
            "", ".", "..", "a%d", "a/b", "a b", "a:0", "\u{e4}", "a\n", &long,
        ] {
            let error = LinkName::parse(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
