//! Reads and changes of nodes, the same inside and outside a transaction.

use crate::batch::{Batch, Replies, Request, nul_ended};
use crate::error::Error;
use crate::path::{Path, is_name};
use crate::perms::Perms;
use crate::wire::{ErrorName, MessageKind, WireError, nul_terminated};

/// Most bytes of children's names that are taken. xenstored's own limit for one domain is far below.
const DIRECTORY_MAX: usize = 16 << 20;

/// Maximum number of times that reading a directory in pieces is restarted because it changed.
const DIRECTORY_RESTARTS_MAX: u32 = 32;

/// Reads and changes nodes: a [`Client`](crate::Client), or a [`Transaction`](crate::Transaction).
///
/// Errors of all methods: [`Error::NotFound`], [`Error::Permission`], [`Error::Quota`], [`Error::Refused`], and those
/// of a lost connection ([`Error::is_connection_lost`]); for writing methods also [`Error::TooLarge`].
pub trait Tree {
    /// Carries out several requests in few round trips; succeeds if all of them do.
    ///
    /// # Errors
    /// The first failing request's.
    fn run(&mut self, batch: &Batch) -> Result<Replies, Error>;

    /// Reads the value of a node.
    ///
    /// # Errors
    /// See [`Tree`].
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, Error> {
        only(self, Request::on_path(MessageKind::Read, path)).map(Option::unwrap_or_default)
    }

    /// Reads the value of a node that may be absent.
    ///
    /// # Errors
    /// See [`Tree`].
    fn read_opt(&mut self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        only(
            self,
            Request::on_path(MessageKind::Read, path).may_be_absent(),
        )
    }

    /// Reads the value of a node that may be absent, as text.
    ///
    /// # Errors
    /// [`Error::NotText`]; see [`Tree`].
    fn read_text_opt(&mut self, path: &Path) -> Result<Option<String>, Error> {
        let text = |value| {
            String::from_utf8(value).map_err(|_| Error::NotText {
                object: path.to_string(),
            })
        };
        self.read_opt(path)?.map(text).transpose()
    }

    /// Reads the value of a node, as text.
    ///
    /// # Errors
    /// [`Error::NotText`]; see [`Tree`].
    fn read_text(&mut self, path: &Path) -> Result<String, Error> {
        String::from_utf8(self.read(path)?).map_err(|_| Error::NotText {
            object: path.to_string(),
        })
    }

    /// Does a node exist (and may it be read)?
    ///
    /// # Errors
    /// See [`Tree`].
    fn exists(&mut self, path: &Path) -> Result<bool, Error> {
        self.read_opt(path).map(|value| value.is_some())
    }

    /// Sets the value of a node; creates it and its parents as needed.
    ///
    /// # Errors
    /// See [`Tree`].
    fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Error> {
        only(self, Request::on_path(MessageKind::Write, path).with(value)).map(drop)
    }

    /// Makes sure that a node exists; creates it and its parents, with empty values, as needed.
    ///
    /// # Errors
    /// See [`Tree`].
    fn mkdir(&mut self, path: &Path) -> Result<(), Error> {
        only(self, Request::on_path(MessageKind::Mkdir, path)).map(drop)
    }

    /// Makes sure that a node and all below it do not exist.
    ///
    /// # Errors
    /// See [`Tree`].
    fn rm(&mut self, path: &Path) -> Result<(), Error> {
        only(
            self,
            Request::on_path(MessageKind::Rm, path).may_be_absent(),
        )
        .map(drop)
    }

    /// Names of a node's children, in xenstored's order. Lists too long for a packet are read in pieces.
    ///
    /// # Errors
    /// See [`Tree`].
    fn directory(&mut self, path: &Path) -> Result<Vec<String>, Error> {
        match only(self, Request::on_path(MessageKind::Directory, path)) {
            Ok(list) => {
                names(&list.unwrap_or_default()).map_err(|violation| malformed(path, violation))
            }
            Err(Error::Quota {
                reason: ErrorName::E2big,
                ..
            }) => directory_in_pieces(self, path),
            Err(error) => Err(error),
        }
    }

    /// Permissions of a node, or of a special path (which the C daemon of Xen 4.17 refuses as malformed).
    ///
    /// # Errors
    /// See [`Tree`].
    fn get_perms(&mut self, path: &Path) -> Result<Perms, Error> {
        let reply = only(self, Request::on_path(MessageKind::GetPerms, path))?.unwrap_or_default();
        Perms::from_payload(&reply).map_err(|violation| malformed(path, violation))
    }

    /// Sets the permissions of a node, or of a special path.
    ///
    /// # Errors
    /// See [`Tree`].
    fn set_perms(&mut self, path: &Path, perms: &Perms) -> Result<(), Error> {
        only(
            self,
            Request::on_path(MessageKind::SetPerms, path).with(&perms.to_payload()),
        )
        .map(drop)
    }
}

/// Runs a batch of one.
fn only<T: Tree + ?Sized>(tree: &mut T, request: Request) -> Result<Option<Vec<u8>>, Error> {
    tree.run(&Batch::of(request)).map(Replies::into_only)
}

/// Reads a long list of children in pieces.
///
/// Each reply begins with the generation of the node and a NUL byte. The list continues at the requested byte offset,
/// and an empty name marks its end. A changed generation means that the pieces do not fit together.
fn directory_in_pieces<T: Tree + ?Sized>(tree: &mut T, path: &Path) -> Result<Vec<String>, Error> {
    for _ in 0..DIRECTORY_RESTARTS_MAX {
        if let Some(list) = try_directory_in_pieces(tree, path)? {
            return names(&list).map_err(|violation| malformed(path, violation));
        }
    }
    Err(Error::refused(
        MessageKind::DirectoryPart,
        path.as_str(),
        ErrorName::Eagain,
    ))
}

/// One attempt; `None` if the node changed meanwhile.
fn try_directory_in_pieces<T: Tree + ?Sized>(
    tree: &mut T,
    path: &Path,
) -> Result<Option<Vec<u8>>, Error> {
    let mut list = Vec::new();
    let mut first_generation = None;
    loop {
        let reply = only(tree, directory_part(path, list.len()))?.unwrap_or_default();
        let (generation, piece) =
            split_generation(&reply).map_err(|violation| malformed(path, violation))?;
        if *first_generation.get_or_insert_with(|| generation.to_vec()) != generation {
            return Ok(None);
        }
        list.extend_from_slice(piece);
        if list.ends_with(b"\0\0") || list == b"\0" {
            list.pop();
            return Ok(Some(list));
        }
        if piece.is_empty() || list.len() > DIRECTORY_MAX {
            return Err(malformed(
                path,
                WireError::BadPayload {
                    expected: "a list of names that comes to an end",
                },
            ));
        }
    }
}

fn directory_part(path: &Path, offset: usize) -> Request {
    Request::on_path(MessageKind::DirectoryPart, path).with(&nul_ended(&offset.to_string()))
}

fn split_generation(reply: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let end = reply.iter().position(|&byte| byte == 0);
    let end = end.ok_or(WireError::BadPayload {
        expected: "a generation and a list of names",
    })?;
    let (generation, rest) = reply.split_at(end);
    Ok((generation, rest.get(1..).unwrap_or_default()))
}

/// The names of a list, checked to be such that they can be appended to a path.
fn names(list: &[u8]) -> Result<Vec<String>, WireError> {
    let name = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok().filter(|text| is_name(text));
        text.map(str::to_owned).ok_or(WireError::BadPayload {
            expected: "a list of node names",
        })
    };
    nul_terminated(list)?.into_iter().map(name).collect()
}

fn malformed(path: &Path, violation: WireError) -> Error {
    Error::Malformed {
        object: path.to_string(),
        violation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(names(b"a\0b-1\0").unwrap(), ["a", "b-1"]);
        assert_eq!(names(b"").unwrap(), Vec::<String>::new());
        for list in [b"a".as_slice(), b"a\0\0", b"a/b\0", b"\xff\0", b"a b\0"] {
            assert!(names(list).is_err(), "{list:?}");
        }
    }
}
