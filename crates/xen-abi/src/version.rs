//! Which Xen this is: releases, their interface versions, `XENVER_*` (version.h, features.h).

use crate::layout::{abi, c_constants};

/// A release of Xen whose domctl and sysctl layouts this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// Xen 4.17: domctl 0x15, sysctl 0x15.
    V4_17,
    /// Xen 4.18: domctl 0x16, sysctl 0x15.
    V4_18,
    /// Xen 4.19: domctl 0x17, sysctl 0x15.
    V4_19,
    /// Xen 4.20: domctl 0x17, sysctl 0x15, as 4.19.
    V4_20,
    /// Xen 4.21: domctl 0x17, sysctl 0x16.
    V4_21,
    /// Xen 4.22: domctl 0x18, sysctl 0x16.
    V4_22,
}

/// The version numbers of the two interfaces that change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interface {
    /// `XEN_DOMCTL_INTERFACE_VERSION`.
    pub domctl: u32,
    /// `XEN_SYSCTL_INTERFACE_VERSION`.
    pub sysctl: u32,
}

impl Release {
    /// All known releases, oldest first.
    pub const ALL: [Self; 6] = [
        Self::V4_17,
        Self::V4_18,
        Self::V4_19,
        Self::V4_20,
        Self::V4_21,
        Self::V4_22,
    ];

    /// The release of Xen `major.minor`.
    ///
    /// # Errors
    /// [`UnknownRelease`] where the layouts of that release are not known.
    pub fn from_version(major: u16, minor: u16) -> Result<Self, UnknownRelease> {
        Self::ALL
            .into_iter()
            .find(|release| major == 4 && release.minor() == minor)
            .ok_or(UnknownRelease { major, minor })
    }

    /// The releases with these interface versions, oldest first; 4.19 and 4.20 share theirs.
    pub fn with_interface(interface: Interface) -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |release| release.interface() == interface)
    }

    /// The number after the dot: 17 for 4.17.
    pub const fn minor(self) -> u16 {
        match self {
            Self::V4_17 => 17,
            Self::V4_18 => 18,
            Self::V4_19 => 19,
            Self::V4_20 => 20,
            Self::V4_21 => 21,
            Self::V4_22 => 22,
        }
    }

    /// The interface versions that this release accepts.
    pub const fn interface(self) -> Interface {
        let (domctl, sysctl) = match self {
            Self::V4_17 => (0x15, 0x15),
            Self::V4_18 => (0x16, 0x15),
            Self::V4_19 | Self::V4_20 => (0x17, 0x15),
            Self::V4_21 => (0x17, 0x16),
            Self::V4_22 => (0x18, 0x16),
        };
        Interface { domctl, sysctl }
    }
}

impl core::fmt::Display for Release {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "4.{}", self.minor())
    }
}

/// A Xen release whose layouts are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Xen {major}.{minor} is not known; known: {}", KnownReleases)]
pub struct UnknownRelease {
    /// The major number.
    pub major: u16,
    /// The minor number.
    pub minor: u16,
}

/// Lists the known releases with their interface versions: `4.17 (domctl 0x15, sysctl 0x15), ...`.
#[derive(Debug, Clone, Copy)]
pub struct KnownReleases;

impl core::fmt::Display for KnownReleases {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (index, release) in Release::ALL.into_iter().enumerate() {
            let Interface { domctl, sysctl } = release.interface();
            let comma = if index == 0 { "" } else { ", " };
            write!(
                f,
                "{comma}{release} (domctl {domctl:#x}, sysctl {sysctl:#x})"
            )?;
        }
        Ok(())
    }
}

c_constants! {
    /// `XENVER_version`: returns major << 16 | minor.
    VERSION: u32 = 0, "XENVER_version";
    /// `XENVER_extraversion`: fills [`ExtraVersion`].
    EXTRA_VERSION: u32 = 1, "XENVER_extraversion";
    /// `XENVER_compile_info`: fills [`CompileInfo`].
    COMPILE_INFO: u32 = 2, "XENVER_compile_info";
    /// `XENVER_capabilities`: fills [`Capabilities`].
    CAPABILITIES: u32 = 3, "XENVER_capabilities";
    /// `XENVER_changeset`: fills [`ChangeSet`].
    CHANGE_SET: u32 = 4, "XENVER_changeset";
    /// `XENVER_platform_parameters`: fills [`PlatformParameters`].
    PLATFORM_PARAMETERS: u32 = 5, "XENVER_platform_parameters";
    /// `XENVER_get_features`: fills [`FeatureInfo`].
    GET_FEATURES: u32 = 6, "XENVER_get_features";
    /// `XENVER_pagesize`: returns the page size in bytes.
    PAGE_SIZE: u32 = 7, "XENVER_pagesize";
    /// `XENVER_guest_handle`: fills a 16-byte domain handle.
    GUEST_HANDLE: u32 = 8, "XENVER_guest_handle";
    /// `XENVER_commandline`: fills [`CommandLine`].
    COMMAND_LINE: u32 = 9, "XENVER_commandline";
    /// `XENVER_build_id`: fills a length and that many bytes.
    BUILD_ID: u32 = 10, "XENVER_build_id";
    /// Feature bit: the guest runs with automatically translated physical memory.
    FEATURE_AUTO_TRANSLATED_PHYSMAP: u32 = 2, "XENFEAT_auto_translated_physmap";
    /// Feature bit: this is dom0.
    FEATURE_DOM0: u32 = 11, "XENFEAT_dom0";
    /// Feature bit: memory operations take virtual NUMA nodes.
    FEATURE_MEMORY_OP_VNODE_SUPPORTED: u32 = 13, "XENFEAT_memory_op_vnode_supported";
}

abi! {
    /// `XENVER_extraversion`: NUL-padded text.
    struct ExtraVersion = "xen_extraversion_t", 16 {
        /// The text, such as `.7`.
        0 text: [u8; 16] = "";
    }
    /// `XENVER_compile_info`: NUL-padded texts.
    struct CompileInfo = "struct xen_compile_info", 144 {
        /// The C compiler.
        0 compiler: [u8; 64];
        /// User who compiled it.
        64 compile_by: [u8; 16];
        /// Domain name of the host on which it was compiled.
        80 compile_domain: [u8; 32];
        /// Date of the compilation.
        112 compile_date: [u8; 32];
    }
    /// `XENVER_capabilities`: NUL-padded, space-separated guest types such as `xen-3.0-x86_64`.
    struct Capabilities = "xen_capabilities_info_t", 1024 {
        /// The text.
        0 text: [u8; 1024] = "";
    }
    /// `XENVER_changeset`: NUL-padded text.
    struct ChangeSet = "xen_changeset_info_t", 64 {
        /// The text.
        0 text: [u8; 64] = "";
    }
    /// Argument of `XENVER_platform_parameters`.
    struct PlatformParameters = "struct xen_platform_parameters", 8 {
        /// The first virtual address that Xen keeps for itself in a PV guest's address space.
        0 virt_start: u64;
    }
    /// Argument of `XENVER_get_features`.
    struct FeatureInfo = "struct xen_feature_info", 8 {
        /// In: which 32 feature bits.
        0 submap_idx: u32;
        /// Out: those bits.
        4 submap: u32;
    }
    /// `XENVER_commandline`: NUL-padded text.
    struct CommandLine = "xen_commandline_t", 1024 {
        /// The text.
        0 text: [u8; 1024] = "";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_release_is_named_with_the_known_ones() {
        let error = Release::from_version(4, 14).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Xen 4.14 is not known; known: 4.17 (domctl 0x15, sysctl 0x15), 4.18 (domctl 0x16, sysctl 0x15), \
             4.19 (domctl 0x17, sysctl 0x15), 4.20 (domctl 0x17, sysctl 0x15), 4.21 (domctl 0x17, sysctl 0x16), \
             4.22 (domctl 0x18, sysctl 0x16)"
        );
        assert!(Release::from_version(5, 17).is_err());
    }

    #[test]
    fn every_release_is_found_by_its_number_and_by_its_interface() {
        for release in Release::ALL {
            assert_eq!(Release::from_version(4, release.minor()), Ok(release));
            assert!(Release::with_interface(release.interface()).any(|other| other == release));
        }
    }
}
