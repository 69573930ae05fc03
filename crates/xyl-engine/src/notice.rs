//! [`Notice`]: progress that an operation reports to its caller.

/// Progress of an operation, reported while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'n> {
    /// A step starts; its name.
    Step(&'n str),
    /// A warning; the operation goes on.
    Warning(&'n str),
}
