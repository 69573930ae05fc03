//! What an operation reports to its caller while it runs.

/// What an operation reports while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'n> {
    /// A step starts; its name.
    Step(&'static str),
    /// A warning; the operation goes on.
    Warning(&'n str),
}
