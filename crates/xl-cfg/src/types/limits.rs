//! Limits on a domain's use of Xen's and xenstore's resources.

use serde::{Deserialize, Serialize};

use super::params::Param;
use crate::reader::Reader;

/// Limits of a domain's use of Xen's and xenstore's resources. `None` selects the host's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Frames of the grant table (`max_grant_frames`).
    pub max_grant_frames: Option<u32>,
    /// Frames for grants mapped from others (`max_maptrack_frames`).
    pub max_maptrack_frames: Option<u32>,
    /// Highest version of the grant table: 1, 2, or 0 for no grant table at all (`max_grant_version`).
    pub max_grant_version: Option<u32>,
    /// Event channels (`max_event_channels`). Default 1023.
    pub max_event_channels: u32,
    /// Features of xenstore that the guest sees, as a mask (`xenstore_feature_mask`).
    pub xenstore_feature_mask: Option<u32>,
    /// Xenstore quotas by name (`xenstore_quota`).
    pub xenstore_quota: Vec<(String, u32)>,
}

impl Limits {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let most = i32::MAX.unsigned_abs();
        let max_event_channels = reader.u32(
            "max_event_channels",
            "a number of event channels",
            0..=131_071,
        );
        Self {
            max_grant_frames: reader.u32("max_grant_frames", "a number of frames", 0..=most),
            max_maptrack_frames: reader.u32("max_maptrack_frames", "a number of frames", 0..=most),
            max_grant_version: reader.u32(
                "max_grant_version",
                "a version of the grant table",
                0..=2,
            ),
            // libxl takes 0 for "the default".
            max_event_channels: max_event_channels.filter(|&nr| nr != 0).unwrap_or(1023),
            xenstore_feature_mask: reader.u32(
                "xenstore_feature_mask",
                "a mask of 32 bits",
                0..=u32::MAX,
            ),
            xenstore_quota: read_quota(reader),
        }
    }
}

fn read_quota(reader: &mut Reader<'_>) -> Vec<(String, u32)> {
    let mut quota = Vec::new();
    for text in reader.texts("xenstore_quota") {
        let param = Param::parse(text);
        if let Some(value) = param.u32(reader, "a number", 0..=u32::MAX) {
            quota.push((param.name.text.to_owned(), value));
        }
    }
    quota
}
