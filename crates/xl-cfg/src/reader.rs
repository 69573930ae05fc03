//! Typed access to settings: every method says itself what is wrong with a value, and where.

use std::ops::RangeInclusive;

use crate::diag::{Code, Diagnostic, Diags};
use crate::keyword::{Keyword, nearest, one_of};
use crate::number::{self, NumberError};
use crate::settings::{Setting, Settings};
use crate::source::Span;
use crate::syntax::{Node, NodeKind, Text};

pub(crate) struct Reader<'a> {
    settings: &'a Settings,
    pub(crate) diags: &'a mut Diags,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(settings: &'a Settings, diags: &'a mut Diags) -> Self {
        Self { settings, diags }
    }

    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).is_some()
    }

    pub(crate) fn setting(&self, key: &str) -> Option<&'a Setting> {
        self.settings.get(key)
    }

    /// Where a setting's value stands.
    pub(crate) fn span(&self, key: &str) -> Option<Span> {
        self.settings.get(key).map(|setting| setting.value.span)
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diags
            .push(Diagnostic::error(code, span, message).help(help));
    }

    pub(crate) fn warn(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diags
            .push(Diagnostic::warning(code, span, message).help(help));
    }

    /// The known name nearest to a wrong one. Not looked for when nobody would see it.
    pub(crate) fn suggest<'k>(
        &self,
        name: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Option<&'k str> {
        if self.diags.is_full() {
            None
        } else {
            nearest(name, known)
        }
    }

    /// The setting's single value.
    pub(crate) fn text(&mut self, key: &str) -> Option<Text<'a>> {
        let setting = self.settings.get(key)?;
        let atom = setting.value.atom();
        if atom.is_none() {
            let help = format!("write `{key} = \"...\"`, without brackets");
            self.error(
                Code::WrongType,
                setting.value.span,
                format!("`{key}` wants a single value, not a list"),
                help,
            );
        }
        atom
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<String> {
        self.text(key).map(|text| text.text.to_owned())
    }

    /// A string that may not be empty, such as a path or a name. `what` as in "a path".
    pub(crate) fn filled(&mut self, key: &str, what: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.text.is_empty() {
            let message = format!("`{key}` wants {what}, and this is empty");
            self.error(
                Code::BadValue,
                text.span(),
                message,
                "leave the line out if there is nothing to say",
            );
            return None;
        }
        Some(text.text.to_owned())
    }

    pub(crate) fn path(&mut self, key: &str) -> Option<String> {
        self.filled(key, "a path")
    }

    /// A number within `range`. `what` as in "a number of MiB".
    pub(crate) fn number(
        &mut self,
        key: &str,
        what: &str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let setting = self.settings.get(key)?;
        let Some(text) = setting.value.atom() else {
            let message = format!("`{key}` wants {what}, not a list");
            self.error(
                Code::WrongType,
                setting.value.span,
                message,
                format!("write `{key} = {}`, without brackets", only_item(setting)),
            );
            return None;
        };
        if setting.appended {
            let message = format!("`+=` cannot add to `{key}`, which wants {what}");
            self.error(
                Code::WrongType,
                setting.value.span,
                message,
                format!("write the sum: `{key} = ...`"),
            );
            return None;
        }
        self.number_in(text, &format!("`{key}`"), what, range)
    }

    /// The same for a number within some text; `name` says whose.
    pub(crate) fn number_in(
        &mut self,
        text: Text<'_>,
        name: &str,
        what: &str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let (least, most) = (*range.start(), *range.end());
        match number::parse(text.text) {
            Ok(number) if range.contains(&number) => Some(number),
            Ok(number) => {
                let bound = if number < least {
                    format!("at least {least}")
                } else {
                    format!("at most {most}")
                };
                self.out_of_range(text, name, what, &bound, number_text(text));
                None
            }
            Err(NumberError::TooLarge) => {
                self.out_of_range(
                    text,
                    name,
                    what,
                    &format!("at most {most}"),
                    number_text(text),
                );
                None
            }
            Err(NumberError::BadOctal) => {
                let help = format!("write `{}`", text.text.trim_start_matches('0'));
                let message = format!(
                    "{name} wants {what}; a leading 0 makes it octal, which has no digits 8 and 9"
                );
                self.error(Code::BadValue, text.span(), message, help);
                None
            }
            Err(NumberError::NotANumber) => {
                let message = format!("{name} wants {what}, not {}", describe(text));
                self.error(
                    Code::BadValue,
                    text.whole_if_all(),
                    message,
                    number_help(text, what),
                );
                None
            }
        }
    }

    fn out_of_range(
        &mut self,
        text: Text<'_>,
        name: &str,
        what: &str,
        bound: &str,
        number: String,
    ) {
        let message = format!("{name} wants {what}, {bound}; this is {number}");
        self.diags
            .push(Diagnostic::error(Code::OutOfRange, text.span(), message));
    }

    /// The same as an unsigned number of 32 bits.
    pub(crate) fn u32(&mut self, key: &str, what: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        self.number(key, what, range)
            .and_then(|number| u32::try_from(number).ok())
    }

    /// A boolean: 0 is false, any other number true.
    pub(crate) fn flag(&mut self, key: &str) -> Option<bool> {
        self.number(key, "0 or 1", i64::MIN..=i64::MAX)
            .map(|number| number != 0)
    }

    pub(crate) fn list(&mut self, key: &str) -> Option<&'a [Node]> {
        let setting = self.settings.get(key)?;
        if let NodeKind::List(items) = &setting.value.kind {
            return Some(items);
        }
        let value = setting.value.to_value();
        let message = format!("`{key}` wants a list, not a single value");
        self.error(
            Code::WrongType,
            setting.value.span,
            message,
            format!("write `{key} = [ {value} ]`"),
        );
        None
    }

    /// A list of single values.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<Text<'a>> {
        let items = self.list(key).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| self.item_text(item, key))
            .collect()
    }

    /// A list's item that has to be a single value.
    pub(crate) fn item_text<'n>(&mut self, item: &'n Node, key: &str) -> Option<Text<'n>> {
        let atom = item.atom();
        if atom.is_none() {
            let message = format!("the items of `{key}` are texts, not lists");
            self.error(
                Code::WrongType,
                item.span,
                message,
                "take the inner brackets out",
            );
        }
        atom
    }

    pub(crate) fn strings(&mut self, key: &str) -> Vec<String> {
        self.texts(key)
            .into_iter()
            .map(|text| text.text.to_owned())
            .collect()
    }

    /// One of the fixed words of `T`.
    pub(crate) fn keyword<T: Keyword>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        self.keyword_in(text, &format!("`{key}`"), T::find)
    }

    /// The same, in any case of letters.
    pub(crate) fn keyword_any_case<T: Keyword>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        self.keyword_in(text, &format!("`{key}`"), T::find_any_case)
    }

    pub(crate) fn keyword_in<T: Keyword>(
        &mut self,
        text: Text<'_>,
        name: &str,
        find: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let found = find(text.text);
        if found.is_none() {
            let help = match self.suggest(text.text, T::names()) {
                Some(near) => format!("did you mean `{near}`? known are {}", one_of(T::names())),
                None => format!("known are {}", one_of(T::names())),
            };
            let message = format!("{name} cannot be {}", describe(text));
            self.error(Code::BadValue, text.whole_if_all(), message, help);
        }
        found
    }
}

impl Text<'_> {
    /// The whole value with its quotes if this is all of it, else the part.
    pub(crate) fn whole_if_all(&self) -> Span {
        let whole = self.whole();
        let inner = self.span();
        if inner.start <= whole.start + 1 && inner.end + 1 >= whole.end {
            whole
        } else {
            inner
        }
    }
}

/// The number of a list that has one item, or an example.
fn only_item(setting: &Setting) -> &str {
    let NodeKind::List(items) = &setting.value.kind else {
        return "1";
    };
    let only = match items.as_slice() {
        [one] => one.atom().map(|text| text.text),
        _ => None,
    };
    only.filter(|text| number::parse(text).is_ok_and(|number| number >= 0))
        .unwrap_or("1")
}

fn describe(text: Text<'_>) -> String {
    match text.text {
        "" => "empty".to_owned(),
        text => format!("`{}`", text.chars().take(60).collect::<String>()),
    }
}

fn number_text(text: Text<'_>) -> String {
    text.text.trim().chars().take(40).collect()
}

fn number_help(text: Text<'_>, what: &str) -> String {
    let lower = text.text.to_ascii_lowercase();
    let digits: String = lower.chars().take_while(char::is_ascii_digit).collect();
    match (lower.as_str(), what) {
        ("true" | "yes" | "on", _) => "write 1".to_owned(),
        ("false" | "no" | "off", _) => "write 0".to_owned(),
        (_, "a number of MiB") if !digits.is_empty() => {
            mib_help(&digits, lower.trim_start_matches(&digits))
        }
        (_, "a number of MiB") => "512 means 512 MiB".to_owned(),
        _ => format!("write {what}"),
    }
}

/// What a size with a unit is in MiB.
fn mib_help(digits: &str, unit: &str) -> String {
    let factor: Option<u64> = match unit.trim() {
        "m" | "mb" | "mib" => Some(1),
        "g" | "gb" | "gib" => Some(1 << 10),
        "t" | "tb" | "tib" => Some(1 << 20),
        _ => None,
    };
    let size = factor.and_then(|factor| digits.parse::<u64>().ok()?.checked_mul(factor));
    size.map_or_else(
        || "512 means 512 MiB".to_owned(),
        |size| format!("write {size}: the unit is MiB"),
    )
}
