//! The note that earlier versions of this program kept in xenstore of a soft reset under way.
//!
//! They had no journal of it. The note, `/libxl/D/soft-reset`, says how far a reset is, together with the state of the domain.
//! A reset that was under way when the program was replaced is finished from there. This module goes when no host can have such
//! a note any more.

use xen_port::{DomId, DomainInfo};
use xenstore::{Path, Tree};

use crate::control::power::{self, PowerRequest};
use crate::error::SoftResetError;
use crate::operation::xenstore_nodes;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// End of a note of a domain that stays paused.
const STAYS_PAUSED: &str = " paused";
/// Longest text of a note that is shown, in characters.
const TEXT_MAX: usize = 40;

/// The contents of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OldNote {
    /// The reset is under way.
    UnderWay(UnderWay),
    /// It was given up, or the note cannot be read, with the reason.
    Refused(String),
}

/// A reset under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// The xenstore nodes are new.
    is_described: bool,
    /// The domain was paused before the reset, and stays so.
    pub stays_paused: bool,
    /// The request to the guest that it had not taken yet.
    pub asked_for: Option<PowerRequest>,
}

/// The progress of a reset with such a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// It has not been reset in Xen.
    Begun,
    /// It has been reset in Xen.
    Reset,
    /// Its xenstore nodes are new.
    Described,
    /// xenstored serves it again.
    Introduced,
}

fn path(domid: DomId) -> Result<Path, EngineError> {
    node(&format!("{}/soft-reset", xenstore_nodes::libxl_path(domid)))
}

/// Whether a domain has a note.
pub(super) fn is_there(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    Ok(host.store.exists(&path(domid)?)?)
}

/// A domain's note.
pub(super) fn read(host: &mut Host, domid: DomId) -> Result<Option<OldNote>, EngineError> {
    let path = path(domid)?;
    let text = host.store.read_text_opt(&path)?;
    Ok(text.map(|text| OldNote::parse(&path, &text)))
}

/// Removes a domain's note. One that is not there is fine.
pub(super) fn remove(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    Ok(host.store.rm(&path(domid)?)?)
}

impl OldNote {
    fn parse(path: &Path, text: &str) -> OldNote {
        let refused = |why: SoftResetError| OldNote::Refused(why.to_string());
        match (
            text.strip_suffix(STAYS_PAUSED).unwrap_or(text),
            UnderWay::parse(text),
        ) {
            ("given-up", _) => OldNote::Refused("it was given up before".to_owned()),
            (_, Some(under_way)) => OldNote::UnderWay(under_way),
            (_, None) => refused(SoftResetError::Note {
                path: path.to_string(),
                text: text.chars().take(TEXT_MAX).collect(),
            }),
        }
    }
}

impl UnderWay {
    fn parse(text: &str) -> Option<UnderWay> {
        let (text, stays_paused) = match text.strip_suffix(STAYS_PAUSED) {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (word, asked_for) = match text.split_once(' ') {
            Some((word, asked)) => (word, Some(power::request_of_word(asked.as_bytes())?)),
            None => (text, None),
        };
        let is_described = match word {
            "asked" => false,
            "described" => true,
            _ => return None,
        };
        Some(UnderWay {
            is_described,
            stays_paused,
            asked_for,
        })
    }

    /// The progress of the reset, by the note and by the domain.
    pub fn reached(self, host: &mut Host, info: &DomainInfo) -> Result<Reached, EngineError> {
        if !self.is_described {
            return Ok(match info.flags.shutdown {
                true => Reached::Begun,
                false => Reached::Reset,
            });
        }
        Ok(match host.store.is_introduced(info.domid.0)? {
            true => Reached::Introduced,
            false => Reached::Described,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> OldNote {
        OldNote::parse(&path(DomId(7)).unwrap(), text)
    }

    #[test]
    fn notes_are_read_and_nothing_else_is() {
        for (word, is_described) in [("asked", false), ("described", true)] {
            for (paused, stays_paused) in [("", false), (STAYS_PAUSED, true)] {
                for (request, asked_for) in [
                    ("", None),
                    (" poweroff", Some(PowerRequest::Poweroff)),
                    (" reboot", Some(PowerRequest::Reboot)),
                ] {
                    let wanted = UnderWay {
                        is_described,
                        stays_paused,
                        asked_for,
                    };
                    let text = format!("{word}{request}{paused}");
                    assert_eq!(parsed(&text), OldNote::UnderWay(wanted), "{text}");
                }
            }
        }
        for text in [
            "",
            "paused",
            " paused",
            "asked ",
            "asked paused paused",
            "asked soft-reset",
            "asked poweroff reboot",
            "ASKED",
            "given-up",
            "given-up paused",
        ] {
            assert!(matches!(parsed(text), OldNote::Refused(_)), "{text}");
        }
    }
}
