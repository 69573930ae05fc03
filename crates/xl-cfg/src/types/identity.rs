//! Who the domain is: name, UUID, type.

use uuid::Uuid;

use crate::diag::{Code, Diagnostic};
use crate::keys::DomainType;
use crate::reader::Reader;
use crate::syntax::Text;

/// Longest name, in bytes. Names become parts of file names: `guest-NAME.log` has to fit into 255 bytes.
pub(crate) const MAX_NAME_BYTES: usize = 200;

/// Reads `name`. `None` if it is absent or wrong.
pub(crate) fn read_name(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("name")?;
    if let Err(bad) = check_name(text.text) {
        reader.error(Code::BadValue, text.whole_if_all(), bad.why, bad.help);
        return None;
    }
    if text.text.chars().all(|c| c.is_ascii_digit()) {
        let message =
            "a name of digits alone looks like a domain's number: commands will take it for that";
        reader.warn(
            Code::BadValue,
            text.whole_if_all(),
            message,
            "put a letter into it",
        );
    }
    Some(text.text.to_owned())
}

/// Why a domain cannot have a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName {
    /// What is wrong with it.
    pub why: String,
    /// What to do about it.
    pub help: &'static str,
}

/// Whether a domain can have this name, when it is created and when it is renamed.
///
/// # Errors
/// [`BadName`] for a name that is empty, too long, or unfit to be a part of file names and tables.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let bad = |what: &str, help| {
        Err(BadName {
            why: format!("a domain's name cannot {what}"),
            help,
        })
    };
    if name.is_empty() {
        bad("be empty", "give it a name such as `guest`")
    } else if name.len() > MAX_NAME_BYTES {
        let what = format!(
            "be longer than {MAX_NAME_BYTES} bytes; this one has {}",
            name.len()
        );
        bad(&what, "shorten it")
    } else if name.contains('/') {
        bad(
            "have a `/`: it becomes part of file names",
            "write `-` instead of `/`",
        )
    } else if name == "." || name == ".." {
        let what = format!("be `{name}`: it becomes part of file names");
        bad(&what, "choose another name")
    } else if name.chars().any(char::is_control) {
        bad(
            "have line breaks or other control characters",
            "take them out",
        )
    } else {
        Ok(())
    }
}

/// Reads `uuid`, eight-four-four-four-twelve hexadecimal digits.
pub(crate) fn read_uuid(reader: &mut Reader<'_>) -> Option<Uuid> {
    let text = reader.text("uuid")?;
    parse_uuid(reader, text, "`uuid`")
}

pub(crate) fn parse_uuid(reader: &mut Reader<'_>, text: Text<'_>, name: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text.text)
        .ok()
        .filter(|_| text.text.len() == 36);
    match uuid {
        Some(uuid) if uuid.is_nil() => {
            let help = "leave it out to get a new one";
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("{name} cannot be all zeros"),
                help,
            );
            None
        }
        Some(uuid) => Some(uuid),
        None => {
            let help =
                "write it like 3f6f3ea2-8f1f-4a6c-9d8e-5b1f0c2d7e11; leave it out to get a new one";
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("{name} is no UUID"),
                help,
            );
            None
        }
    }
}

/// Reads `type` and its predecessor `builder`. The default on x86 is PV. `None` if something wrong is given.
pub(crate) fn read_type(reader: &mut Reader<'_>) -> Option<DomainType> {
    let domain_type: Option<DomainType> = reader.keyword("type");
    let builder = read_builder(reader);
    if let (Some(domain_type), Some(builder)) = (domain_type, builder)
        && domain_type != builder
    {
        conflict(reader, domain_type, builder);
    }
    let is_given = reader.is_set("type") || reader.is_set("builder");
    domain_type
        .or(builder)
        .or((!is_given).then_some(DomainType::Pv))
}

fn read_builder(reader: &mut Reader<'_>) -> Option<DomainType> {
    let text = reader.text("builder")?;
    match text.text {
        "hvm" => Some(DomainType::Hvm),
        // xend called it "linux".
        "generic" | "linux" => Some(DomainType::Pv),
        other => {
            let remedy = reader.in_successors_place(
                "builder",
                "write `type = \"pv\"`, `type = \"pvh\"` or `type = \"hvm\"`",
            );
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("`builder` cannot be `{other}`"),
                remedy,
            );
            None
        }
    }
}

fn conflict(reader: &mut Reader<'_>, domain_type: DomainType, builder: DomainType) {
    let (Some(type_span), Some(builder_span)) = (reader.span("type"), reader.span("builder"))
    else {
        return;
    };
    let remedy = reader.take_out("builder", ": `type` is set");
    let message =
        format!("`builder` asks for a guest of type `{builder}`, `type` for `{domain_type}`");
    reader.diags.push(
        Diagnostic::error(Code::Conflict, builder_span, message)
            .note_at(type_span, "`type` is set here")
            .remedy(remedy),
    );
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAME_BYTES, check_name};

    #[test]
    fn names() {
        for good in [
            "a",
            "web-1",
            "my guest",
            "7",
            "ünïcode",
            "a.b",
            "...",
            &"x".repeat(MAX_NAME_BYTES),
        ] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a/b",
            "/",
            ".",
            "..",
            "a\nb",
            "\u{1b}[2J",
            &"x".repeat(MAX_NAME_BYTES + 1),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
