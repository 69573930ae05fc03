//! The journal's text.
//!
//! ```text
//! xyl-journal 2
//! 5d41402a 1 1767225600000 {"begin":{"id":"6a1d0c4e-1","kind":"create",...}}
//! ```
//! The first line names the format and its version. Each other line is a record: the CRC-32 (IEEE) of all that
//! follows it on the line, its number, the time in milliseconds since 1970, what happened as JSON. In format 1 the `begin`
//! record has no list of steps.

use crate::past::Standing;
use crate::record::{Entry, Record};
use crate::state::{self, Event, State};

/// Longest file that is read, in bytes.
pub const FILE_MAX_BYTES: u64 = 1 << 20;
/// Longest line, in bytes.
pub const LINE_MAX_BYTES: usize = 64 << 10;
/// Longest cause of a failure that is written, in bytes. Escaping can lengthen it, but the line stays below the
/// limit.
const CAUSE_MAX_BYTES: usize = 4 << 10;
/// Prefix of the first line; the version follows it.
const FORMAT: &str = "xyl-journal ";
/// Version of the format that this build writes.
const VERSION: u32 = 2;
/// Earlier version of the format, which this build reads.
const VERSION_BEFORE: u32 = 1;
/// Number of hexadecimal digits of a checksum.
const CHECKSUM_DIGITS: usize = 8;

/// The valid part of a journal, and the damage after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The records before the first damage.
    pub entries: Vec<Entry>,
    /// Size of the file in bytes.
    pub size_bytes: usize,
    /// The last line has no newline: its writer died during the write.
    pub is_torn: bool,
    /// The first line that is damaged.
    pub damage: Option<Damage>,
    /// Whether the file is of format 1: [`Contents::with_steps`].
    pub is_format_1: bool,
}

/// A line that differs from what its writer wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Damage {
    /// Number of the line, from 1.
    pub line: usize,
    /// Description of the damage.
    pub what: String,
}

/// The reasons why this build cannot read a text as a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(
        "version {0} of the format, of which this xyl knows versions {VERSION_BEFORE} and {VERSION}"
    )]
    Version(String),
    #[error("no journal: it does not begin with `{FORMAT}`")]
    Format,
}

/// The first line of a journal.
pub(crate) fn first_line() -> String {
    format!("{FORMAT}{VERSION}\n")
}

/// Formats a record as one line, with its checksum.
pub(crate) fn line(entry: &Entry) -> String {
    let record = with_short_cause(entry.record.clone());
    let record = serde_json::to_string(&record).unwrap_or_default();
    let rest = format!("{} {} {record}", entry.sequence, entry.time_ms);
    format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
}

/// Cuts a cause that is too long for a line.
fn with_short_cause(mut record: Record) -> Record {
    if let Record::Failed { cause, .. } | Record::UndoFailed { cause, .. } = &mut record {
        let mut ends = (0..=CAUSE_MAX_BYTES).rev();
        let end = ends.find(|at| cause.is_char_boundary(*at));
        cause.truncate(end.unwrap_or(0));
    }
    record
}

/// Reads the text of a journal up to the first damage, and reports that damage.
///
/// # Errors
/// The first line belongs to another format or another version. The error is a text for users.
pub fn parse(bytes: &[u8]) -> Result<Contents, String> {
    parse_known(bytes).map_err(|foreign| foreign.to_string())
}

pub(crate) fn parse_known(bytes: &[u8]) -> Result<Contents, Foreign> {
    let mut contents = Contents {
        size_bytes: bytes.len(),
        ..Contents::default()
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let (whole, rest) = bytes.split_at(whole.map_or(0, |at| at + 1));
    contents.is_torn = !rest.is_empty();
    let mut lines = whole.split(|byte| *byte == b'\n');
    match lines.next() {
        // The writer died before the end of the first line.
        Some(b"") | None if whole.is_empty() => return Ok(contents),
        first => {
            let version = version_of(first.unwrap_or_default())?;
            contents.is_format_1 = version == VERSION_BEFORE;
        }
    }
    let mut standing = None;
    for (index, line) in lines.enumerate() {
        let is_end = line.is_empty() && whole.ends_with(b"\n") && index + 1 == count(whole);
        if is_end {
            break;
        }
        let read = read_line(line, contents.entries.last());
        let followed = read.and_then(|entry| {
            follow(&mut standing, &entry.record)?;
            Ok(entry)
        });
        match followed {
            Ok(entry) => contents.entries.push(entry),
            Err(what) => {
                contents.damage = Some(Damage {
                    line: index + 2,
                    what,
                });
                break;
            }
        }
    }
    Ok(contents)
}

/// Reports a file that is larger than a journal can be as damage.
pub(crate) fn too_large() -> Contents {
    let what = format!("the file is larger than {FILE_MAX_BYTES} bytes, and so than any journal");
    Contents {
        size_bytes: usize::try_from(FILE_MAX_BYTES).unwrap_or(usize::MAX),
        damage: Some(Damage { line: 1, what }),
        ..Contents::default()
    }
}

/// Number of complete lines.
fn count(whole: &[u8]) -> usize {
    whole.iter().filter(|byte| **byte == b'\n').count()
}

fn version_of(line: &[u8]) -> Result<u32, Foreign> {
    let text = std::str::from_utf8(line).map_err(|_| Foreign::Format)?;
    let version = text.strip_prefix(FORMAT).ok_or(Foreign::Format)?;
    let known = [VERSION_BEFORE, VERSION].into_iter();
    let mut known = known.filter(|known| version == known.to_string());
    let foreign = || Foreign::Version(version.chars().take(20).collect());
    known.next().ok_or_else(foreign)
}

/// Follows a record with what is known of the operation under way.
fn follow(standing: &mut Option<Standing>, record: &Record) -> Result<(), String> {
    match (standing.as_mut(), record) {
        (None, Record::Begin(begin)) => *standing = Some(Standing::of(&begin.steps)),
        (None, _) => {
            let refused = state::next(State::Idle, record.event());
            refused.map_err(|error| error.to_string())?;
        }
        (Some(under_way), _) => under_way.follow(record)?,
    }
    if record.event() == Event::Ended {
        *standing = None;
    }
    Ok(())
}

/// Reads one record. Its number must follow the number before.
fn read_line(line: &[u8], before: Option<&Entry>) -> Result<Entry, String> {
    if line.len() > LINE_MAX_BYTES {
        return Err(format!("{} bytes: longer than any record", line.len()));
    }
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
    let (checksum, rest) = text.split_once(' ').ok_or("no record")?;
    let actual = format!("{:08x}", crc32fast::hash(rest.as_bytes()));
    if checksum.len() != CHECKSUM_DIGITS || checksum != actual {
        return Err("its checksum is wrong".to_owned());
    }
    let (sequence, rest) = rest.split_once(' ').ok_or("no number")?;
    let (time_ms, record) = rest.split_once(' ').ok_or("no time")?;
    let sequence: u64 = sequence.parse().map_err(|_| "no number")?;
    if before.is_some_and(|before| before.sequence.checked_add(1) != Some(sequence)) {
        return Err(format!("record {sequence} does not follow the one before"));
    }
    let record: Record =
        serde_json::from_str(record).map_err(|error| format!("an unknown record: {error}"))?;
    let time_ms = time_ms.parse().map_err(|_| "no time")?;
    Ok(Entry {
        sequence,
        time_ms,
        record,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::plan::{OnDeath, Planned};
    use crate::record::{Begin, Facts, Outcome};

    fn planned(name: &str) -> Planned<serde_json::Value> {
        let action = json!({"attach": {"devid": 51712}});
        let mut step = Planned::new(name, action, OnDeath::Look, 1000).with_undo();
        step.group = 1;
        step
    }

    fn begin() -> Record {
        let args = json!({"domid": 7, "paused": false});
        Record::Begin(Begin {
            id: "6a1d0c4e-1".to_owned(),
            kind: "create".to_owned(),
            uuid: "6a1d0c4e-0000-0000-0000-000000000001".to_owned(),
            name: "web\n\u{1}".to_owned(),
            pid: 12,
            started_ticks: Some(99),
            args: args.as_object().cloned().unwrap(),
            sync: true,
            steps: ["make it", "build it"].map(planned).to_vec(),
        })
    }

    fn text(records: &[Record]) -> String {
        let lines = records.iter().zip(1..).map(|(record, sequence)| {
            line(&Entry {
                sequence,
                time_ms: 1_767_225_600_000 + sequence,
                record: record.clone(),
            })
        });
        first_line() + &lines.collect::<String>()
    }

    fn records() -> Vec<Record> {
        let name = || "make it".to_owned();
        let mut made = Facts::new();
        made.insert("domid".to_owned(), 7.into());
        let cause = "no\nmemory".to_owned();
        let undo = "build it".to_owned();
        vec![
            begin(),
            Record::Step { name: name() },
            Record::Noted {
                name: name(),
                facts: made.clone(),
            },
            Record::Done { name: name(), made },
            Record::Cancel {},
            Record::Step { name: undo.clone() },
            Record::TakenOver {
                pid: 13,
                started_ticks: None,
            },
            Record::Step { name: undo.clone() },
            Record::Failed {
                name: undo.clone(),
                cause,
            },
            Record::Undo { name: undo.clone() },
            Record::Undone { name: undo.clone() },
            Record::Undo { name: name() },
            Record::UndoFailed {
                name: name(),
                cause: "busy".to_owned(),
            },
            Record::Ended {
                outcome: Outcome::Undone,
            },
        ]
    }

    #[test]
    fn every_record_is_read_back_and_a_line_each() {
        let text = text(&records());
        let contents = parse(text.as_bytes()).unwrap();
        let read: Vec<Record> = contents.entries.iter().map(|e| e.record.clone()).collect();
        assert_eq!(read, records());
        assert_eq!(text.lines().count(), records().len() + 1);
        assert!(!contents.is_torn && contents.damage.is_none());
    }

    #[test]
    fn a_long_cause_is_cut_so_that_its_line_can_be_read() {
        for character in ["x", "\u{1}", "é", "\u{10ffff}"] {
            let cause = character.repeat(LINE_MAX_BYTES);
            let name = "make it".to_owned();
            let failed = Record::Failed {
                name: name.clone(),
                cause: cause.clone(),
            };
            let step = Record::Step { name: name.clone() };
            let text = text(&[begin(), step, failed]);
            let contents = parse(text.as_bytes()).unwrap();
            assert_eq!(contents.damage, None);
            let Record::Failed { cause: read, .. } = &contents.entries[2].record else {
                panic!("{contents:?}");
            };
            assert!(cause.starts_with(read.as_str()) && read.len() > CAUSE_MAX_BYTES - 4);
        }
    }

    #[test]
    fn another_version_and_other_files_are_refused_by_name() {
        let newer = Foreign::Version("3".to_owned());
        assert_eq!(parse_known(b"xyl-journal 3\n"), Err(newer));
        assert_eq!(parse_known(b"hello\n"), Err(Foreign::Format));
        assert_eq!(parse(b"").unwrap(), Contents::default());
        assert!(parse(b"xyl-jou").unwrap().is_torn);
        assert!(parse(b"\n").is_err());
    }

    #[test]
    fn what_cannot_follow_is_damage() {
        let done = Record::Ended {
            outcome: Outcome::Done,
        };
        let contents = parse(text(&[begin(), done.clone(), done]).as_bytes()).unwrap();
        assert_eq!(contents.entries.len(), 2);
        let damage = contents.damage.unwrap();
        assert_eq!(damage.line, 4);
        assert!(damage.what.contains("cannot follow"), "{damage}");
        let name = "another".to_owned();
        let contents = parse(text(&[begin(), Record::Step { name }]).as_bytes()).unwrap();
        assert_eq!(
            (contents.entries.len(), contents.damage.unwrap().line),
            (1, 3)
        );
        let empty_line = text(&[begin()]) + "\n";
        assert!(parse(empty_line.as_bytes()).unwrap().damage.is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = parse(&[first_line().as_bytes(), &bytes].concat());
        }

        #[test]
        fn a_torn_journal_gives_what_was_whole(cut in 0_usize..2000) {
            let text = text(&records());
            let cut = cut.min(text.len());
            let contents = parse(&text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].lines().count() - usize::from(!text[..cut].ends_with('\n') && cut > 0);
            prop_assert_eq!(contents.entries.len(), whole.saturating_sub(1));
            prop_assert_eq!(contents.is_torn, cut > 0 && !text[..cut].ends_with('\n'));
            prop_assert!(contents.damage.is_none());
        }

        #[test]
        fn a_byte_that_changed_is_found(at in 14_usize..1300, to in any::<u8>()) {
            let text = text(&records());
            let mut bytes = text.clone().into_bytes();
            prop_assume!(at < bytes.len() && bytes[at] != to);
            bytes[at] = to;
            let contents = parse(&bytes).unwrap();
            let is_whole = contents.damage.is_none() && !contents.is_torn;
            prop_assert!(!is_whole, "unnoticed");
            let entries = parse(text.as_bytes()).unwrap().entries;
            prop_assert!(entries.starts_with(&contents.entries));
        }
    }
}
