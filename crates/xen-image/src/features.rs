//! The features that a kernel supports or requires.
//!
//! Source: `xen/include/public/features.h`, and the FEATURES and SUPPORTED_FEATURES notes in
//! `xen/include/public/elfnote.h`.

use crate::error::Malformed;

/// A feature by its number in Xen's feature map (`XENFEAT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the header's own")]
pub enum Feature {
    WritablePageTables = 0,
    WritableDescriptorTables = 1,
    AutoTranslatedPhysmap = 2,
    SupervisorModeKernel = 3,
    PaePgdirAbove4gb = 4,
    MmuPtUpdatePreserveAd = 5,
    HighmemAssist = 6,
    GnttabMapAvailBits = 7,
    HvmCallbackVector = 8,
    HvmSafePvclock = 9,
    HvmPirqs = 10,
    Dom0 = 11,
    GrantMapIdentity = 12,
    MemoryOpVnodeSupported = 13,
    ArmSmcccSupported = 14,
    LinuxRsdpUnrestricted = 15,
    NotDirectMapped = 16,
    DirectMapped = 17,
    RunstatePhysArea = 18,
    VcpuTimePhysArea = 19,
    DmMsixAllWrites = 20,
}

/// Each feature with its name, as kernels spell it.
const NAMES: [(Feature, &str); 21] = [
    (Feature::WritablePageTables, "writable_page_tables"),
    (
        Feature::WritableDescriptorTables,
        "writable_descriptor_tables",
    ),
    (Feature::AutoTranslatedPhysmap, "auto_translated_physmap"),
    (Feature::SupervisorModeKernel, "supervisor_mode_kernel"),
    (Feature::PaePgdirAbove4gb, "pae_pgdir_above_4gb"),
    (Feature::MmuPtUpdatePreserveAd, "mmu_pt_update_preserve_ad"),
    (Feature::HighmemAssist, "highmem_assist"),
    (Feature::GnttabMapAvailBits, "gnttab_map_avail_bits"),
    (Feature::HvmCallbackVector, "hvm_callback_vector"),
    (Feature::HvmSafePvclock, "hvm_safe_pvclock"),
    (Feature::HvmPirqs, "hvm_pirqs"),
    (Feature::Dom0, "dom0"),
    (Feature::GrantMapIdentity, "grant_map_identity"),
    (Feature::MemoryOpVnodeSupported, "memory_op_vnode_supported"),
    (Feature::ArmSmcccSupported, "ARM_SMCCC_supported"),
    (Feature::LinuxRsdpUnrestricted, "linux_rsdp_unrestricted"),
    (Feature::NotDirectMapped, "not_direct_mapped"),
    (Feature::DirectMapped, "direct_mapped"),
    (Feature::RunstatePhysArea, "runstate_phys_area"),
    (Feature::VcpuTimePhysArea, "vcpu_time_phys_area"),
    (Feature::DmMsixAllWrites, "dm_msix_all_writes"),
];

impl Feature {
    fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(feature, _)| *feature)
    }
}

/// A set of features: bit `n` is feature number `n`. Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureSet(pub u32);

impl FeatureSet {
    /// Whether `feature` is in the set.
    #[must_use]
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    fn insert(&mut self, feature: Feature) {
        self.0 |= 1 << feature as u8;
    }
}

/// The features that a kernel supports and requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Features that the kernel supports: the FEATURES string and the SUPPORTED_FEATURES number, joined. Includes
    /// `required`.
    pub supported: FeatureSet,
    /// Features that the kernel requires: names marked with `!` in the FEATURES string.
    pub required: FeatureSet,
}

impl Features {
    /// Adds a FEATURES string: names separated by `|`, with `!` before a required one.
    ///
    /// An unknown name is ignored unless it is required. The error [`Malformed::UnknownRequiredFeature`] then says
    /// that this toolstack cannot promise the feature.
    pub(crate) fn add_names(&mut self, names: &str) -> Result<(), Malformed> {
        for name in names.split('|').filter(|name| !name.is_empty()) {
            match name.strip_prefix('!') {
                Some(required) => self.require(required)?,
                None => self.support(name),
            }
        }
        Ok(())
    }

    /// Adds a SUPPORTED_FEATURES bit map.
    pub(crate) fn add_bits(&mut self, bits: u32) {
        self.supported.0 |= bits;
    }

    fn require(&mut self, name: &str) -> Result<(), Malformed> {
        let feature =
            Feature::from_name(name).ok_or_else(|| Malformed::UnknownRequiredFeature {
                name: name.to_owned(),
            })?;
        self.supported.insert(feature);
        self.required.insert(feature);
        Ok(())
    }

    fn support(&mut self, name: &str) {
        if let Some(feature) = Feature::from_name(name) {
            self.supported.insert(feature);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_as_in_the_header() {
        for (number, (feature, _)) in NAMES.iter().enumerate() {
            assert_eq!(*feature as usize, number);
        }
    }

    #[test]
    fn required_features_are_supported_too() {
        let mut features = Features::default();
        features
            .add_names("!writable_page_tables|pae_pgdir_above_4gb||of_the_future")
            .unwrap();
        assert_eq!(features.required, FeatureSet(1));
        assert_eq!(features.supported, FeatureSet(0b1_0001));
        features.add_bits(1 << 11);
        assert!(features.supported.contains(Feature::Dom0));
        assert!(!features.required.contains(Feature::Dom0));
    }

    #[test]
    fn an_unknown_required_feature_is_refused_by_name() {
        let error = Features::default()
            .add_names("dom0|!of_the_future")
            .unwrap_err();
        assert!(
            matches!(&error, Malformed::UnknownRequiredFeature { name } if name == "of_the_future"),
            "{error}"
        );
    }
}
