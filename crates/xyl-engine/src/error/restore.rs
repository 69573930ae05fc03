//! Errors of `operation::create::restore`: the reasons why a saved guest is not restored.

use std::path::PathBuf;

use super::ErrorCode;

/// The reasons why a saved guest is not restored. Nothing is left of it then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The image is damaged, or not one that Xyl reads.
    #[error(
        "{path} cannot be restored: {source}; `xyl check-image {path}` says what it holds", path = path.display()
    )]
    Image {
        /// Path of the file.
        path: PathBuf,
        /// Damage of the image.
        source: xen_stream::StreamError,
    },
    /// The memory or the CPU state of the image cannot be given to the domain.
    #[error("{path} cannot be restored: {source}", path = path.display())]
    State {
        /// Path of the file.
        path: PathBuf,
        /// Error of the part that restores them.
        source: Box<xen_build::RestoreError>,
    },
    /// The image has no configuration of libxl, or one that is no JSON.
    #[error(
        "{path} has no configuration that can be read ({why}): give a configuration file before it", path = path.display()
    )]
    NoConfig {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the refusal.
        why: String,
    },
    /// The configuration has what Xyl cannot do.
    #[error(
        "the configuration in {path} has {what}, which Xyl cannot do: use `xl restore`, or give a configuration file before it", path = path.display()
    )]
    Unsupported {
        /// Path of the file.
        path: PathBuf,
        /// The parts, separated by commas.
        what: String,
    },
    /// The guest has a device model.
    #[error("{path} is an HVM guest, whose restore is not there yet: use `xl restore`", path = path.display())]
    Hvm {
        /// Path of the file.
        path: PathBuf,
    },
    /// The configuration is of another type of guest than the image.
    #[error(
        "{path} is of a guest of another type than type=\"{wanted}\" of the configuration", path = path.display()
    )]
    OtherType {
        /// Path of the file.
        path: PathBuf,
        /// The type in the configuration.
        wanted: &'static str,
    },
    /// The file has changed since its configuration was read.
    #[error("{path} has changed while it was read: repeat the restore", path = path.display())]
    Changed {
        /// Path of the file.
        path: PathBuf,
    },
    /// The policy of the host does not let the guest run.
    #[error("{path} is {line}", path = path.display())]
    NotAdmitted {
        /// Path of the file.
        path: PathBuf,
        /// Text of the decision, with cause and remedy.
        line: String,
    },
}

impl RestoreError {
    /// Stable code of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            RestoreError::Hvm { .. } => ErrorCode::NotThereYet,
            RestoreError::NotAdmitted { .. } => ErrorCode::NotAdmitted,
            _ => ErrorCode::Restore,
        }
    }
}
