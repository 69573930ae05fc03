//! Device descriptions of the form `key=value,key=value,flag`.

use std::ops::RangeInclusive;

use crate::diag::{Code, Remedy, Suggestion};
use crate::keyword::Keyword;
use crate::reader::Reader;
use crate::syntax::Text;

/// One parameter of a device description.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Param<'a> {
    pub(crate) name: Text<'a>,
    /// `None` for a flag.
    pub(crate) value: Option<Text<'a>>,
}

/// The parameters of a description. Empty ones are passed over, blanks before them too, as xl does.
pub(crate) fn split<'a>(text: Text<'a>) -> impl Iterator<Item = Param<'a>> {
    text.split(',')
        .filter(|piece| !piece.text.is_empty())
        .map(|piece| {
            let blanks = piece.text.len() - piece.text.trim_start_matches(' ').len();
            Param::parse(piece.slice(blanks..piece.text.len()))
        })
}

impl<'a> Param<'a> {
    pub(crate) fn parse(text: Text<'a>) -> Self {
        match text.split_once('=') {
            Some((name, value)) => Self {
                name,
                value: Some(value),
            },
            None => Self {
                name: text,
                value: None,
            },
        }
    }

    /// Removes blanks around name and value, as xl does for some devices.
    pub(crate) fn trimmed(self) -> Self {
        Self {
            name: self.name.trim(),
            value: self.value.map(|value| value.trim()),
        }
    }

    /// The edit that writes `new` in place of name and value.
    pub(crate) fn replaced(&self, new: &str) -> Option<Suggestion> {
        self.name.replaced_to(&self.value.unwrap_or(self.name), new)
    }

    /// The value; complains if there is none.
    pub(crate) fn wanted_value(&self, reader: &mut Reader<'_>) -> Option<Text<'a>> {
        if self.value.is_none() {
            let name = self.name.text;
            reader.error(
                Code::BadValue,
                self.name.span(),
                format!("`{name}` needs a value"),
                format!("write `{name}=...`"),
            );
        }
        self.value
    }

    /// The value as a string of its own.
    pub(crate) fn string(&self, reader: &mut Reader<'_>) -> Option<String> {
        self.wanted_value(reader).map(|value| value.text.to_owned())
    }

    pub(crate) fn u32(
        &self,
        reader: &mut Reader<'_>,
        what: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.wanted_value(reader)?;
        let range = i64::from(*range.start())..=i64::from(*range.end());
        let number = reader.number_in(value, &format!("`{}`", self.name.text), what, range)?;
        u32::try_from(number).ok()
    }

    pub(crate) fn flag(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let value = self.wanted_value(reader)?;
        reader
            .number_in(
                value,
                &format!("`{}`", self.name.text),
                "0 or 1",
                0..=i64::MAX,
            )
            .map(|number| number != 0)
    }

    pub(crate) fn keyword<T: Keyword>(&self, reader: &mut Reader<'_>) -> Option<T> {
        let value = self.wanted_value(reader)?;
        reader.keyword_in(value, &format!("`{}`", self.name.text), T::find)
    }

    /// One of the fixed words of `T`, in upper or lower case.
    pub(crate) fn keyword_any_case<T: Keyword>(&self, reader: &mut Reader<'_>) -> Option<T> {
        let value = self.wanted_value(reader)?;
        reader.keyword_in(value, &format!("`{}`", self.name.text), T::find_any_case)
    }

    /// Reports an unknown name.
    pub(crate) fn unknown(
        &self,
        reader: &mut Reader<'_>,
        key: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) {
        let (message, remedy) = self.unknown_texts(reader, key, known);
        reader.error(Code::UnknownName, self.name.span(), message, remedy);
    }

    /// Warns about an unknown parameter, for which xl continues without an error.
    pub(crate) fn unknown_ignored(
        &self,
        reader: &mut Reader<'_>,
        key: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) {
        let (message, remedy) = self.unknown_texts(reader, key, known);
        reader.warn(
            Code::UnknownName,
            self.name.span(),
            format!("{message}, ignored"),
            remedy,
        );
    }

    fn unknown_texts(
        &self,
        reader: &Reader<'_>,
        key: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) -> (String, Remedy) {
        let name: String = self.name.text.chars().take(40).collect();
        let remedy = reader.did_you_mean(self.name, known);
        (format!("`{key}` has no parameter `{name}`"), remedy)
    }
}
