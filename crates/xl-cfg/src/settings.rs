//! The settings after all statements: later statements win, and `+=` appends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::diag::{Code, Diagnostic, Diags, Remedy, Suggestion};
use crate::source::{Source, Span};
use crate::syntax::{Node, NodeKind, Operation, Statement, Value};

/// The value of one setting after all statements.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Name of the setting.
    pub key: String,
    /// Place of the name in the last statement that sets it.
    pub key_span: Span,
    /// The value. After `+=` its place is that of the last piece.
    pub value: Node,
    /// Whether the last statement was a `+=`.
    pub appended: bool,
    /// Whether more than one statement has made the value, so that no one place has all of it.
    pub joined: bool,
}

impl Setting {
    /// The edit that removes the setting. `None` if several statements make its value.
    pub(crate) fn removed(&self) -> Option<Suggestion> {
        self.replaced(String::new())
    }

    /// The edit that replaces the setting's statement.
    pub(crate) fn replaced(&self, replacement: String) -> Option<Suggestion> {
        let span = self.key_span.to(self.value.span);
        (!self.joined).then_some(Suggestion { span, replacement })
    }

    /// The edit that writes a statement before it.
    pub(crate) fn preceded(&self, statement: &str) -> Option<Suggestion> {
        let span = self.key_span.part(0..0);
        let replacement = format!("{statement}; ");
        (!self.joined).then_some(Suggestion { span, replacement })
    }

    /// "Take the line out", with `why` behind it.
    pub(crate) fn take_out(&self, why: &str) -> Remedy {
        Remedy::new(format!("take the line out{why}"), self.removed())
    }

    /// "Write `key = value`", with `why` behind it.
    pub(crate) fn write(&self, value: &Value, why: &str) -> Remedy {
        let edit = Suggestion {
            span: self.value.span,
            replacement: value.to_string(),
        };
        let help = format!("write `{} = {value}`{why}", self.key);
        Remedy::new(help, (!self.joined).then_some(edit))
    }
}

/// All settings by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings(BTreeMap<String, Setting>);

impl Settings {
    pub(crate) fn get(&self, key: &str) -> Option<&Setting> {
        self.0.get(key)
    }

    /// The edit that gives a setting another name, unless one of that name is set already.
    pub(crate) fn renamed(&self, setting: &Setting, key: &str) -> Option<Suggestion> {
        let is_free = self.get(key).is_none() && !setting.joined;
        is_free.then(|| Suggestion {
            span: setting.key_span,
            replacement: key.to_owned(),
        })
    }

    /// Remedy: "write this name", or "take the line out" if that name is set already.
    pub(crate) fn write_as(&self, setting: &Setting, key: &str) -> Remedy {
        if self.get(key).is_some() {
            return setting.take_out(&format!(": `{key}` is set"));
        }
        Remedy::new(format!("write `{key}`"), self.renamed(setting, key))
    }

    /// The places of the statements, with the settings' names.
    pub(crate) fn places(&self) -> Vec<(Span, String)> {
        let place = |setting: &Setting| setting.key_span.to(setting.value.span);
        let all = self.0.values();
        all.map(|setting| (place(setting), setting.key.clone()))
            .collect()
    }

    /// The settings in the order of their places.
    pub(crate) fn in_order(&self) -> Vec<&Setting> {
        let mut all: Vec<&Setting> = self.0.values().collect();
        all.sort_by_key(|setting| setting.key_span);
        all
    }

    /// Reports negative numbers without quotes, which xl's grammar does not have. If the setting takes no negative
    /// number, that is reported elsewhere, and quotes would not help.
    pub(crate) fn complain_of_bare_negatives(&self, diags: &mut Diags) {
        for setting in self.in_order() {
            complain_of_bare_negatives(&setting.value, diags);
        }
    }

    /// Applies one text's statements. Overrides from the command line replace without a warning: that is their use.
    pub(crate) fn apply(&mut self, statements: Vec<Statement>, source: &Source, diags: &mut Diags) {
        for statement in statements {
            match self.0.entry(statement.key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Setting::from(statement));
                }
                Entry::Occupied(mut entry) => match statement.operation {
                    Operation::Append => append(entry.get_mut(), statement, diags),
                    Operation::Assign => {
                        let overrides = source.is_command_line()
                            && entry.get().key_span.source != statement.key_span.source;
                        if !overrides {
                            diags.push(duplicate(entry.get(), &statement));
                        }
                        entry.insert(Setting::from(statement));
                    }
                },
            }
        }
    }
}

impl From<Statement> for Setting {
    fn from(statement: Statement) -> Self {
        let Statement {
            key,
            key_span,
            operation,
            value,
        } = statement;
        Self {
            key,
            key_span,
            value,
            appended: operation == Operation::Append,
            joined: false,
        }
    }
}

fn complain_of_bare_negatives(node: &Node, diags: &mut Diags) {
    match &node.kind {
        NodeKind::List(items) => {
            for item in items {
                complain_of_bare_negatives(item, diags);
            }
        }
        NodeKind::Number(text) if text.starts_with('-') && !diags.has_error_in(node.span) => {
            let message = "negative numbers have to be quoted";
            let edit = Suggestion {
                span: node.span,
                replacement: format!("\"{text}\""),
            };
            diags.push(
                Diagnostic::error(Code::Syntax, node.span, message)
                    .help(format!("write `\"{text}\"`"))
                    .suggest(edit),
            );
        }
        NodeKind::Number(_) | NodeKind::Text { .. } => {}
    }
}

fn duplicate(earlier: &Setting, later: &Statement) -> Diagnostic {
    Diagnostic::warning(
        Code::Duplicate,
        later.key_span,
        format!("`{}` is set again; this one counts", later.key),
    )
    .note_at(earlier.key_span, "set here first, without effect")
    .help(if can_append(later) {
        format!(
            "take one of them out, or append with `{} += ...`",
            later.key
        )
    } else {
        "take one of them out".to_owned()
    })
    .suggest(earlier.removed())
}

/// Whether the statement may be intended as `+=`.
fn can_append(statement: &Statement) -> bool {
    matches!(statement.value.kind, NodeKind::List(_))
        || matches!(statement.key.as_str(), "extra" | "cmdline")
}

fn append(setting: &mut Setting, statement: Statement, diags: &mut Diags) {
    let Statement {
        key,
        key_span,
        value,
        ..
    } = statement;
    match (&mut setting.value.kind, value.kind) {
        (NodeKind::List(items), NodeKind::List(more)) => items.extend(more),
        (NodeKind::List(_), NodeKind::Text { text, .. } | NodeKind::Number(text)) => {
            let edit = Suggestion {
                span: value.span,
                replacement: Value::List(vec![Value::Atom(text)]).to_string(),
            };
            let complaint = mixed(setting, &key, value.span, "a single value", "a list");
            return diags.push(complaint.suggest(edit));
        }
        (_, NodeKind::List(_)) => {
            return diags.push(mixed(setting, &key, value.span, "a list", "a single value"));
        }
        (old, NodeKind::Text { text: more, .. } | NodeKind::Number(more)) => {
            append_text(old, &more)
        }
    }
    setting.value.span = value.span;
    setting.key_span = key_span;
    setting.appended = true;
    setting.joined = true;
}

fn append_text(old: &mut NodeKind, more: &str) {
    if let NodeKind::Number(text) = old {
        *old = NodeKind::Text {
            text: std::mem::take(text),
            verbatim: false,
        };
    }
    if let NodeKind::Text { text, verbatim } = old {
        text.push_str(more);
        *verbatim = false;
    }
}

fn mixed(setting: &Setting, key: &str, span: Span, new: &str, old: &str) -> Diagnostic {
    Diagnostic::error(
        Code::WrongType,
        span,
        format!("cannot append {new} to `{key}`, which is {old}"),
    )
    .note_at(setting.key_span, "set here")
    .help(format!("append {old}"))
}
