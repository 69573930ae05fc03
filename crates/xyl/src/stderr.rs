//! Messages on standard error, as text or as JSON.
//!
//! An error while writing them, for instance on a full disk, is ignored. `eprintln!` would panic.

use std::fmt::Arguments;
use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

use crate::error::indented;
use crate::json;
use crate::shown::Shown;

/// Format of messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Each message is a JSON object on a line of its own: `{KIND: {"message": ..., ...}}`.
    pub json: bool,
    /// Each message starts with the time and the process ID.
    pub timestamps: bool,
}

/// Severity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command reports what it does.
    Notice,
    /// The command found a problem and continues.
    Warning,
    /// The command fails.
    Error,
}

impl Style {
    /// Prints a message.
    pub fn message(self, kind: Kind, text: &str) {
        self.with_details(kind, text, Value::Null);
    }

    /// Prints a message. In JSON it includes the members of `details`, which is an object or null.
    pub fn with_details(self, kind: Kind, text: &str, details: Value) {
        match self.json {
            true => line(format_args!("{}", self.as_json(kind, text, details))),
            false => self.as_text(kind, &Shown::lines(text).to_string()),
        }
    }

    /// Prints a message that may contain Xyl's colours. Other control characters must already be escaped.
    pub fn as_text(self, kind: Kind, text: &str) {
        let kind = match kind {
            Kind::Notice => "",
            Kind::Warning => "warning: ",
            Kind::Error => "error: ",
        };
        let stamp = if self.timestamps {
            format!("{} [{}] ", time(), std::process::id())
        } else {
            String::new()
        };
        line(format_args!("{stamp}xyl: {kind}{}", indented(text)));
    }

    fn as_json(self, kind: Kind, text: &str, details: Value) -> String {
        let kind = match kind {
            Kind::Notice => "notice",
            Kind::Warning => "warning",
            Kind::Error => "error",
        };
        let mut message = json!({"message": text});
        if self.timestamps {
            json::set(&mut message, "time", time());
            json::set(&mut message, "pid", std::process::id());
        }
        if let (Some(message), Value::Object(details)) = (message.as_object_mut(), details) {
            message.extend(details);
        }
        json::line(&json!({kind: message}))
    }
}

/// The time in the format of xl's `-T`.
fn time() -> String {
    let now = xyl_engine::host::timezone::now();
    now.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// Asks a question on the terminal. Returns whether the answer is yes.
pub fn asks(question: &str) -> bool {
    part(format_args!("xyl: {} [y/N] ", Shown::line(question)));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Writes a line.
pub fn line(text: Arguments<'_>) {
    part(format_args!("{text}\n"));
}

/// Writes text without a newline.
pub fn part(text: Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.to_string().as_bytes());
    let _ = out.flush();
}
