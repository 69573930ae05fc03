//! The identity of a domain: name, UUID, type.

use uuid::Uuid;

use super::name::{NameRule, VmName};
use crate::diag::{Code, Diagnostic, Remedy};
use crate::keys::DomainType;
use crate::reader::Reader;
use crate::syntax::Text;

/// Reads `name`. `None` if it is absent or wrong.
pub(crate) fn read_name(reader: &mut Reader<'_>, rule: NameRule) -> Option<String> {
    let text = reader.text("name")?;
    if reader.diags.has_error_in(text.whole()) {
        return None;
    }
    match VmName::parse(text.text, rule) {
        Ok(name) => Some(name.into()),
        Err(bad) => {
            let remedy = match VmName::like(text.text) {
                Some(like) => {
                    let help = format!("write `{like}`, or the like: {}", bad.help());
                    Remedy::new(help, text.whole_replaced(like.as_str()))
                }
                None => bad.help().into(),
            };
            let message = bad.to_string();
            reader.error(Code::BadValue, text.whole_if_all(), message, remedy);
            None
        }
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
