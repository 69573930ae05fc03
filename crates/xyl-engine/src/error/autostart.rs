//! Errors in the files that say which VMs start with the host.

use std::path::PathBuf;

/// Reason why a VM does not start with the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AutostartError {
    /// A file is not as it has to be.
    #[error("{path}:{line}: {what}", path = path.display())]
    Wrong {
        /// Path of the file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// The error itself.
        what: String,
    },
    /// VMs wait for each other in a circle.
    #[error(
        "{path}:{line}: `after` makes a circle: {circle}: take one of these out of an `after`",
        path = path.display(), circle = names.join(" waits for ")
    )]
    Circle {
        /// Path of the file of one of them.
        path: PathBuf,
        /// Line of its `after`, from 1.
        line: usize,
        /// Names of the VMs, each of which waits for the next. The last one is the first one again.
        names: Vec<String>,
    },
    /// No VM of this name starts with the host.
    #[error("no VM `{0}` starts with the host: `xyl autostart` lists them")]
    Unknown(String),
    /// The configuration is that of another VM.
    #[error("{config} is the configuration of the VM `{found}`, not of `{name}`: run `xyl autostart remove {name}` and `xyl autostart add {config}`", config = config.display())]
    OtherName {
        /// Path of the configuration.
        config: PathBuf,
        /// Name of the VM that should start.
        name: String,
        /// Name in the configuration.
        found: String,
    },
}
