//! Errors of settings of a running Xen.

/// The reasons why a setting of a running Xen cannot be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// The word has no value.
    #[error("`{0}` has no value: write NAME=VALUE, or noNAME to switch it off")]
    NoValue(String),
    /// The word is no name of a parameter.
    #[error("`{0}` is no name of a parameter: write it as on Xen's command line")]
    BadName(String),
    /// Xen has no such parameter that can be seen while it runs.
    #[error(
        "this Xen has no parameter `{0}` that can change while it runs: `xl set-parameters` has the same, and others need Xen's command line and a reboot"
    )]
    Unknown(String),
    /// The parameter can only be set on Xen's command line.
    #[error(
        "the parameter `{0}` cannot change while Xen runs: set it on Xen's command line and reboot"
    )]
    ReadOnly(String),
    /// The value is none of the parameter's kind.
    #[error("`{value}` is no value of the parameter `{name}`: give {wanted}")]
    BadValue {
        /// Name of the parameter.
        name: String,
        /// The value that was given.
        value: String,
        /// Description of a valid value.
        wanted: &'static str,
    },
    /// Xen was built without the tree of settings.
    #[error(
        "this Xen was built without CONFIG_HYPFS: set the parameter on Xen's command line and reboot"
    )]
    NoTree,
    /// Xen has no security module Flask.
    #[error(
        "Flask, Xen's security module, is disabled: boot a Xen that was built with it, with flask=enforcing on its command line"
    )]
    NoFlask,
}
