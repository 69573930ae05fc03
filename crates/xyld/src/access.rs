//! Roles: which user of the socket may do what.
//!
//! root is always an administrator. All others get a role from `/etc/xyl/access.toml`, and the lowest one without an entry: the
//! permissions of the socket decide who is a user at all.

use std::fmt;
use std::path::Path;

use os_port::{Files, SystemFiles};
use serde::Deserialize;

use crate::peer::Peer;

/// Path of the file with the roles.
pub const PATH: &str = "/etc/xyl/access.toml";
/// Maximum size of the file.
const FILE_MAX_BYTES: u64 = 256 << 10;

/// Extent of a user's rights. A later role has the rights of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads all that the API shows.
    Viewer,
    /// Changes the power state of VMs, and cancels operations.
    Operator,
    /// Changes VMs, and has files of the host read: as mighty as root.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

    /// The word for it in files and documents.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An error of the file with the roles.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be read, or another user could change it.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Path of the file.
        path: String,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The file has an error.
    #[error("{path}: {text}")]
    Malformed {
        /// Path of the file.
        path: String,
        /// The error with its line.
        text: String,
    },
}

/// Contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    #[serde(default, rename = "grant")]
    grants: Vec<Grant>,
}

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    /// Name of a user.
    user: Option<String>,
    /// Name of a group.
    group: Option<String>,
    /// Role of the user, or of each member of the group.
    role: Role,
}

impl Access {
    /// Reads the file. A file that is not there has no entries.
    ///
    /// # Errors
    /// It cannot be read, another user could change it, or it has an error.
    pub fn read(path: &Path) -> Result<Access, AccessError> {
        let shown = path.display().to_string();
        match SystemFiles.read_trusted(path, FILE_MAX_BYTES) {
            Ok(bytes) => Access::parse(&String::from_utf8_lossy(&bytes))
                .map_err(|text| AccessError::Malformed { path: shown, text }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Access::default()),
            Err(source) => Err(AccessError::Unreadable {
                path: shown,
                source,
            }),
        }
    }

    fn parse(text: &str) -> Result<Access, String> {
        let access: Access = toml::from_str(text).map_err(|error| error.to_string())?;
        let is_vague = |grant: &&Grant| grant.user.is_some() == grant.group.is_some();
        match access.grants.iter().find(is_vague) {
            Some(grant) => Err(format!(
                "an entry with the role `{}` needs one of `user` and `group`",
                grant.role
            )),
            None => Ok(access),
        }
    }

    /// The role of a peer: the highest that an entry gives.
    pub fn role_of(&self, peer: &Peer) -> Role {
        if peer.uid == 0 {
            return Role::Admin;
        }
        let fits = |grant: &&Grant| {
            let is_user = grant.user.is_some() && grant.user == peer.user;
            let is_member = grant
                .group
                .as_ref()
                .is_some_and(|group| peer.groups.contains(group));
            is_user || is_member
        };
        let roles = self.grants.iter().filter(fits).map(|grant| grant.role);
        roles.max().unwrap_or(Role::Viewer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, user: &str, groups: &[&str]) -> Peer {
        Peer {
            uid,
            user: Some(user.to_owned()),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        }
    }

    #[test]
    fn the_highest_role_counts_and_root_is_an_administrator() {
        let access = Access::parse(
            "[[grant]]\ngroup = \"ops\"\nrole = \"operator\"\n[[grant]]\nuser = \"ann\"\nrole = \"admin\"\n",
        )
        .unwrap();
        assert_eq!(access.role_of(&peer(0, "root", &[])), Role::Admin);
        assert_eq!(access.role_of(&peer(7, "ann", &["ops"])), Role::Admin);
        assert_eq!(
            access.role_of(&peer(8, "bob", &["xyl", "ops"])),
            Role::Operator
        );
        assert_eq!(access.role_of(&peer(9, "eve", &["xyl"])), Role::Viewer);
        let unknown = Peer {
            uid: 9,
            user: None,
            groups: Vec::new(),
        };
        assert_eq!(access.role_of(&unknown), Role::Viewer);
    }

    #[test]
    fn a_vague_or_misspelt_entry_is_refused() {
        for text in [
            "[[grant]]\nrole = \"admin\"\n",
            "[[grant]]\nuser = \"a\"\ngroup = \"b\"\nrole = \"admin\"\n",
            "[[grant]]\nuser = \"a\"\nrole = \"root\"\n",
            "[[grants]]\nuser = \"a\"\nrole = \"admin\"\n",
        ] {
            assert!(Access::parse(text).is_err(), "{text}");
        }
    }
}
