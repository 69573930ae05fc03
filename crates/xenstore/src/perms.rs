//! Permissions of a node.
//!
//! On the wire (`docs/misc/xenstore.txt`), permissions are a list of entries, each with a letter and a domain ID. The
//! domain of the first entry owns the node and has all rights. The first entry's letter applies to all domains
//! without an entry of their own.

use crate::wire::{WireError, nul_terminated};
use std::fmt;
use std::str::FromStr;

/// Most entries that are taken from a reply. xenstored's default quota is 5; a packet could hold some 1300.
const GRANTS_MAX: usize = 2048;

/// The rights of a domain on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// No rights: letter `n`.
    None,
    /// Read: letter `r`.
    Read,
    /// Write: letter `w`.
    Write,
    /// Read and write: letter `b`.
    Both,
}

impl Access {
    /// May it read?
    pub fn can_read(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// May it write?
    pub fn can_write(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }

    fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'n' => Some(Self::None),
            'r' => Some(Self::Read),
            'w' => Some(Self::Write),
            'b' => Some(Self::Both),
            _ => None,
        }
    }
}

/// The right of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Domain of the entry.
    pub domid: u16,
    /// Rights of the domain.
    pub access: Access,
}

/// Permissions of a node: `n0,r5` in the usual short form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Perms {
    /// The domain that owns the node and may do everything with it.
    pub owner: u16,
    /// Rights of domains without their own entry.
    pub others: Access,
    /// Rights of single domains.
    pub grants: Vec<Grant>,
}

/// A text that is no list of permissions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{entry:?} is no xenstore permission; write a letter (n, r, w or b) and a domain id, such as \"n0,r5\""
)]
pub struct PermsError {
    /// The entry at fault, shortened if it is long.
    pub entry: String,
}

impl Perms {
    /// Owned by `domid`, closed to all other (unprivileged) domains.
    pub fn owned_by(domid: u16) -> Self {
        Self {
            owner: domid,
            others: Access::None,
            grants: Vec::new(),
        }
    }

    /// Adds a grant for a domain.
    #[must_use]
    pub fn with(mut self, domid: u16, access: Access) -> Self {
        self.grants.push(Grant { domid, access });
        self
    }

    /// The strings of a set-perms request, each ended by a nul byte.
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for grant in self.entries() {
            payload.extend_from_slice(grant.to_string().as_bytes());
            payload.push(0);
        }
        payload
    }

    /// Reads the strings of a get-perms reply or a set-perms request.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, WireError> {
        const BAD: WireError = WireError::BadPayload {
            expected: "a list of permissions",
        };
        let strings = nul_terminated(payload)?;
        let entries = strings
            .iter()
            .map(|entry| std::str::from_utf8(entry).map_err(|_| BAD));
        let entries: Vec<&str> = entries.collect::<Result<_, _>>()?;
        Self::from_entries(&entries).map_err(|_| BAD)
    }

    fn from_entries(entries: &[&str]) -> Result<Self, PermsError> {
        let (first, rest) = entries.split_first().ok_or(PermsError {
            entry: String::new(),
        })?;
        if rest.len() > GRANTS_MAX {
            return Err(PermsError {
                entry: format!("a list of {} entries", entries.len()),
            });
        }
        let first: Grant = first.parse()?;
        let grants = rest
            .iter()
            .map(|entry| entry.parse())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            owner: first.domid,
            others: first.access,
            grants,
        })
    }

    /// The entries in the order of the wire.
    fn entries(&self) -> impl Iterator<Item = Grant> {
        std::iter::once(Grant {
            domid: self.owner,
            access: self.others,
        })
        .chain(self.grants.iter().copied())
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.access.letter(), self.domid)
    }
}

impl FromStr for Grant {
    type Err = PermsError;

    fn from_str(entry: &str) -> Result<Self, PermsError> {
        let parsed = parse_entry(entry);
        parsed.ok_or_else(|| PermsError {
            entry: entry.chars().take(32).collect(),
        })
    }
}

fn parse_entry(entry: &str) -> Option<Grant> {
    let mut letters = entry.chars();
    let access = Access::from_letter(letters.next()?)?;
    let digits = letters.as_str();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Grant {
        domid: digits.parse().ok()?,
        access,
    })
}

impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, grant) in self.entries().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{grant}")?;
        }
        Ok(())
    }
}

impl FromStr for Perms {
    type Err = PermsError;

    fn from_str(text: &str) -> Result<Self, PermsError> {
        let entries: Vec<&str> = text.split(',').map(str::trim).collect();
        Self::from_entries(&entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_form() {
        let perms = Perms::owned_by(0).with(5, Access::Read);
        assert_eq!(perms.to_string(), "n0,r5");
        assert_eq!("n0,r5".parse(), Ok(perms.clone()));
        assert_eq!(" n0, r5 ".parse(), Ok(perms.clone()));
        assert_eq!(perms.to_payload(), b"n0\0r5\0");
    }

    #[test]
    fn first_letter_is_for_all_others() {
        let perms: Perms = "r7".parse().unwrap();
        assert_eq!(
            perms,
            Perms {
                owner: 7,
                others: Access::Read,
                grants: vec![]
            }
        );
    }

    #[test]
    fn refuses_what_is_no_permission() {
        for text in [
            "", ",", "n", "0", "x0", "n-1", "n+1", "n65536", "n0,", "n0 r5", "n 0", "ä0", "n0x",
        ] {
            assert!(text.parse::<Perms>().is_err(), "{text:?}");
        }
        for payload in [b"".as_slice(), b"\0", b"n0", b"n0\0r", b"n\xff\0"] {
            assert!(Perms::from_payload(payload).is_err(), "{payload:?}");
        }
    }

    fn any_access() -> impl Strategy<Value = Access> {
        prop_oneof![
            Just(Access::None),
            Just(Access::Read),
            Just(Access::Write),
            Just(Access::Both)
        ]
    }

    fn any_perms() -> impl Strategy<Value = Perms> {
        let grant =
            (any::<u16>(), any_access()).prop_map(|(domid, access)| Grant { domid, access });
        (
            any::<u16>(),
            any_access(),
            proptest::collection::vec(grant, 0..6),
        )
            .prop_map(|(owner, others, grants)| Perms {
                owner,
                others,
                grants,
            })
    }

    proptest! {
        #[test]
        fn text_and_payload_round_trip(perms in any_perms()) {
            prop_assert_eq!(perms.to_string().parse::<Perms>().unwrap(), perms.clone());
            prop_assert_eq!(Perms::from_payload(&perms.to_payload()).unwrap(), perms);
        }

        #[test]
        fn any_payload_is_parsed_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(perms) = Perms::from_payload(&payload) {
                prop_assert_eq!(Perms::from_payload(&perms.to_payload()).unwrap(), perms);
            }
        }
    }
}
