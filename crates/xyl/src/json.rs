//! JSON as text, in Xyl's layout and in xl's.
//!
//! Xen's script `xendomains` reads `xl list -l` line by line, and expects yajl's four spaces for each level. So
//! output that replaces xl's has exactly yajl's layout. In both layouts, characters that could control a terminal are
//! written as `\uXXXX`. This does not change the value.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};
pub use xyl_engine::report::set;

use crate::shown::is_harmless;

/// Layout of JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Xyl's layout: two spaces for each level, `[]` and `{}` for empty values.
    Own,
    /// yajl's layout, as xl prints it: four spaces for each level, an empty line inside an empty array or object.
    Xl,
}

/// Formats the value, without a newline at the end.
pub fn text(value: &Value, layout: Layout) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Pretty::new(layout));
    value.serialize(&mut serializer)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Formats the value on one line, for errors.
pub fn line(value: &Value) -> String {
    escaped(&value.to_string())
}

/// Escapes characters that could control a terminal as `\uXXXX`. In JSON they occur only inside strings.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) || c == '\n' {
            escaped.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

struct Pretty {
    layout: Layout,
    depth: usize,
    /// Whether the open array or object has a value already.
    has_value: bool,
}

impl Pretty {
    fn new(layout: Layout) -> Pretty {
        Pretty {
            layout,
            depth: 0,
            has_value: false,
        }
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let width = match self.layout {
            Layout::Own => 2,
            Layout::Xl => 4,
        };
        write!(writer, "\n{:1$}", "", width * self.depth)
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if !self.has_value && self.layout == Layout::Xl {
            writer.write_all(b"\n")?;
        }
        if self.has_value || self.layout == Layout::Xl {
            self.new_line(writer)?;
        }
        self.has_value = true;
        writer.write_all(bracket)
    }

    fn begin_member<W: ?Sized + Write>(&self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            writer.write_all(b",")?;
        }
        self.new_line(writer)
    }
}

impl Formatter for Pretty {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_member(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_member(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        writer.write_all(escaped(fragment).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value() -> Value {
        json!([{"domid": 1, "config": {"name": "w\"\u{202e}\u{1d173}", "none": {}, "disks": [], "cpus": [0, 1]}}])
    }

    /// Compares with the output of yajl 2.1 (`yajl_gen_beautify`).
    #[test]
    fn the_layout_of_xl_is_that_of_yajl() {
        let text = text(&value(), Layout::Xl).unwrap();
        let wanted = "[
    {
        \"domid\": 1,
        \"config\": {
            \"name\": \"w\\\"\\u202e\\ud834\\udd73\",
            \"none\": {

            },
            \"disks\": [

            ],
            \"cpus\": [
                0,
                1
            ]
        }
    }
]";
        assert_eq!(text, wanted);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value());
    }

    #[test]
    fn the_own_layout_is_that_of_serde() {
        let value = json!({"a": [], "b": {}, "c": [[1, {}], "x"]});
        assert_eq!(text(&value, Layout::Own).unwrap(), format!("{value:#}"));
    }

    #[test]
    fn a_line_has_the_same_value() {
        assert_eq!(
            serde_json::from_str::<Value>(&line(&value())).unwrap(),
            value()
        );
        assert!(line(&value()).is_ascii());
    }
}
