//! Typed access to settings. Each method reports a wrong value with its place.

use std::ops::RangeInclusive;

use crate::diag::{Code, Diagnostic, Diags, Remedy, Suggestion};
use crate::keys;
use crate::keyword::{Keyword, nearest, one_of};
use crate::number::{self, NumberError, in_mib};
use crate::settings::{Setting, Settings};
use crate::source::Span;
use crate::syntax::{Node, NodeKind, Text, Value};

/// The unit of memory sizes in messages.
pub(crate) const MIB: &str = "a number of MiB";

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

    /// Place of a setting's value.
    pub(crate) fn span(&self, key: &str) -> Option<Span> {
        self.settings.get(key).map(|setting| setting.value.span)
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        remedy: impl Into<Remedy>,
    ) {
        self.diags
            .push(Diagnostic::error(code, span, message).remedy(remedy));
    }

    pub(crate) fn warn(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        remedy: impl Into<Remedy>,
    ) {
        self.diags
            .push(Diagnostic::warning(code, span, message).remedy(remedy));
    }

    /// The known name that is nearest to a wrong one. Not searched if the report would not show it.
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

    /// Remedy "did you mean", with its edit; a list of known names if none is similar.
    pub(crate) fn did_you_mean(
        &self,
        name: Text<'_>,
        known: impl Iterator<Item = &'static str> + Clone,
    ) -> Remedy {
        let all = one_of(known.clone());
        self.did_you_mean_or(name, known, &format!("known are {all}"))
    }

    /// Remedy "did you mean", with another sentence if no name is similar.
    pub(crate) fn did_you_mean_or(
        &self,
        name: Text<'_>,
        known: impl Iterator<Item = &'static str>,
        otherwise: &str,
    ) -> Remedy {
        match self.suggest(name.text, known) {
            Some(near) => Remedy::new(format!("did you mean `{near}`?"), name.replaced(near)),
            None => otherwise.into(),
        }
    }

    /// "Take the line out", with `why` behind it.
    pub(crate) fn take_out(&self, key: &str, why: &str) -> Remedy {
        match self.settings.get(key) {
            Some(setting) => setting.take_out(why),
            None => format!("take the line out{why}").into(),
        }
    }

    /// The remedy for a setting that has a new name.
    pub(crate) fn renamed(&self, setting: &Setting, key: &str) -> Remedy {
        self.settings.write_as(setting, key)
    }

    /// The remedy for an old setting that another one replaces.
    pub(crate) fn in_successors_place(&self, key: &str, otherwise: &str) -> Remedy {
        match self.settings.get(key) {
            Some(setting) => keys::in_successors_place(setting, self.settings, otherwise),
            None => otherwise.into(),
        }
    }

    /// The setting's single value.
    pub(crate) fn text(&mut self, key: &str) -> Option<Text<'a>> {
        let setting = self.settings.get(key)?;
        let atom = setting.value.atom();
        if atom.is_none() {
            let remedy = match only_item(setting) {
                Some(item) => setting.write(&item, ", without brackets"),
                None => format!("write `{key} = \"...\"`, without brackets").into(),
            };
            self.error(
                Code::WrongType,
                setting.value.span,
                format!("`{key}` wants a single value, not a list"),
                remedy,
            );
        }
        atom
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<String> {
        self.text(key).map(|text| text.text.to_owned())
    }

    /// A string such as a path or a name; an empty one asks for nothing.
    pub(crate) fn filled(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.text.is_empty() {
            self.warn_of_nothing(key);
            return None;
        }
        Some(text.text.to_owned())
    }

    /// A string that must not be empty. `what` is its description, such as "a path".
    pub(crate) fn wanted(&mut self, key: &str, what: &str, help: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.text.is_empty() {
            let message = format!("`{key}` wants {what}, and this is empty");
            self.error(Code::BadValue, text.span(), message, help);
            return None;
        }
        Some(text.text.to_owned())
    }

    /// Warns about an empty setting. xl and the guest ignore it.
    pub(crate) fn warn_of_nothing(&mut self, key: &str) {
        if let Some(setting) = self.settings.get(key) {
            let message = format!("`{key}` has no effect: it is empty");
            let remedy = setting.take_out("");
            self.warn(Code::NoEffect, setting.value.span, message, remedy);
        }
    }

    pub(crate) fn path(&mut self, key: &str) -> Option<String> {
        self.filled(key)
    }

    /// A number within `range`. `what` is its description, such as "a number of MiB".
    pub(crate) fn number(
        &mut self,
        key: &str,
        what: &str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let setting = self.settings.get(key)?;
        let Some(text) = setting.value.atom() else {
            let message = format!("`{key}` wants {what}, not a list");
            let item = only_item(setting).filter(|item| {
                let Value::Atom(text) = item else {
                    return false;
                };
                number::parse(text).is_ok_and(|number| range.contains(&number))
            });
            let remedy = match item {
                Some(item) => setting.write(&item, ", without brackets"),
                None => format!("write {what}, without brackets").into(),
            };
            self.error(Code::WrongType, setting.value.span, message, remedy);
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

    /// A number within a text; `name` is the name of the text.
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
                let digits = text.text.trim_start_matches('0');
                let remedy = write_number(text, digits, &range)
                    .unwrap_or_else(|| format!("write {what}").into());
                let message = format!(
                    "{name} wants {what}; a leading 0 makes it octal, which has no digits 8 and 9"
                );
                self.error(Code::BadValue, text.span(), message, remedy);
                None
            }
            Err(NumberError::NotANumber) => {
                let message = format!("{name} wants {what}, not {}", describe(text));
                self.error(
                    Code::BadValue,
                    text.whole_if_all(),
                    message,
                    number_remedy(text, what, &range),
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

    /// A number of 32 bits.
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
        if value == Value::Atom(String::new()) {
            self.warn_of_nothing(key);
            return Some(&[]);
        }
        let message = format!("`{key}` wants a list, not a single value");
        let remedy = setting.write(&Value::List(vec![value]), "");
        self.error(Code::WrongType, setting.value.span, message, remedy);
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

    /// An item of a list that must be a single value.
    pub(crate) fn item_text<'n>(&mut self, item: &'n Node, key: &str) -> Option<Text<'n>> {
        let atom = item.atom();
        if atom.is_none() {
            let message = format!("the items of `{key}` are texts, not lists");
            let remedy = Remedy::new("take the inner brackets out", without_brackets(item));
            self.error(Code::WrongType, item.span, message, remedy);
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

    /// One of the fixed words of `T`, in upper or lower case.
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
            let known = one_of(T::names());
            let remedy = match self.suggest(text.text, T::names()) {
                Some(near) => {
                    let help = format!("did you mean `{near}`? known are {known}");
                    Remedy::new(help, text.replaced(near))
                }
                None => format!("known are {known}").into(),
            };
            let message = format!("{name} cannot be {}", describe(text));
            self.error(Code::BadValue, text.whole_if_all(), message, remedy);
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

/// The item of a list that has one, and no list in it.
fn only_item(setting: &Setting) -> Option<Value> {
    let NodeKind::List(items) = &setting.value.kind else {
        return None;
    };
    let [item] = items.as_slice() else {
        return None;
    };
    Some(item.to_value()).filter(|value| matches!(value, Value::Atom(_)))
}

/// The edit that leaves the items of an inner list without its brackets.
fn without_brackets(list: &Node) -> Option<Suggestion> {
    let Value::List(items) = list.to_value() else {
        return None;
    };
    let is_flat = items.iter().all(|item| matches!(item, Value::Atom(_)));
    let texts: Vec<String> = items.iter().map(Value::to_string).collect();
    (is_flat && !texts.is_empty()).then(|| Suggestion {
        span: list.span,
        replacement: texts.join(", "),
    })
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

fn number_remedy(text: Text<'_>, what: &str, range: &RangeInclusive<i64>) -> Remedy {
    let lower = text.text.to_ascii_lowercase();
    let wanted = match (lower.as_str(), what) {
        ("true" | "yes" | "on", "0 or 1") => write_number(text, "1", range),
        ("false" | "no" | "off", "0 or 1") => write_number(text, "0", range),
        (size, MIB) => in_mib(size).and_then(|mib| {
            let Remedy { help, suggestion } = write_number(text, &mib.to_string(), range)?;
            Some(Remedy::new(format!("{help}: the unit is MiB"), suggestion))
        }),
        _ => None,
    };
    wanted.unwrap_or_else(|| match what {
        MIB => "512 means 512 MiB".into(),
        _ => format!("write {what}").into(),
    })
}

/// "Write this number", if it is one that is taken.
fn write_number(text: Text<'_>, number: &str, range: &RangeInclusive<i64>) -> Option<Remedy> {
    let fits = number::parse(number).is_ok_and(|number| range.contains(&number));
    fits.then(|| Remedy::new(format!("write `{number}`"), text.replaced(number)))
}
