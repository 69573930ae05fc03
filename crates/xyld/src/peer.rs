//! The user at the other end of the socket, by the kernel's word (`SO_PEERCRED`).
//!
//! Names of users and groups are those of `/etc/passwd` and `/etc/group`. Other directories (NSS) are not asked.

use std::fmt;
use std::path::Path;

use os_port::{Files, SystemFiles};

/// Maximum size of the files of users and groups.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// File of the users.
const USERS: &str = "/etc/passwd";
/// File of the groups.
const GROUPS: &str = "/etc/group";

/// A user of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Number of the user.
    pub uid: u32,
    /// Name of the user, if `/etc/passwd` has one.
    pub user: Option<String>,
    /// Names of the user's groups.
    pub groups: Vec<String>,
}

impl Peer {
    /// The user with this number, and with this group as its own.
    pub fn of(uid: u32, gid: u32) -> Peer {
        let (users, groups) = (read(USERS), read(GROUPS));
        let user = name_of(&users, uid);
        let groups = groups_of(&groups, gid, user.as_deref());
        Peer { uid, user, groups }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} ({})", self.uid),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// Number of a group; `None` if `/etc/group` has none of this name.
pub fn gid_of(group: &str) -> Option<u32> {
    let text = read(GROUPS);
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut fields = lines.find(|fields| fields.clone().next() == Some(group))?;
    fields.nth(2)?.parse().ok()
}

fn read(path: &str) -> String {
    let bytes = SystemFiles.read(Path::new(path), FILE_MAX_BYTES);
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

fn name_of(users: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let mut lines = users.lines().map(|line| line.split(':'));
    let mut fields = lines.find(|fields| fields.clone().nth(2) == Some(&uid))?;
    fields.next().map(str::to_owned)
}

fn groups_of(groups: &str, gid: u32, user: Option<&str>) -> Vec<String> {
    let gid = gid.to_string();
    let is_in = |line: &&str| {
        let mut fields = line.split(':').skip(2);
        let is_own = fields.next() == Some(&gid);
        let mut members = fields.next().unwrap_or_default().split(',');
        is_own || user.is_some_and(|user| members.any(|member| member == user))
    };
    let found = groups.lines().filter(is_in);
    found
        .filter_map(|line| line.split(':').next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found() {
        let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(users, 1000).as_deref(), Some("ann"));
        assert_eq!(name_of(users, 7), None);
        let groups = "root:x:0:\nxyl:x:990:bob,ann\nann:x:1000:\nother:x:5:anna\n";
        assert_eq!(groups_of(groups, 1000, Some("ann")), ["xyl", "ann"]);
        assert_eq!(groups_of(groups, 990, None), ["xyl"]);
    }
}
