//! The value that Xen takes for the groups of `viridian` (`HVM_PARAM_VIRIDIAN`, `HVMPV_*` in Xen's public header hvm/params.h).

use super::hvm::ViridianSet;
use super::hvm_words::Viridian;

const BASE_FREQ: u64 = 1;
const NO_FREQ: u64 = 1 << 1;

/// The groups that are on by default, as libxl has them.
const DEFAULTS: &[Viridian] = &[
    Viridian::Base,
    Viridian::Freq,
    Viridian::TimeRefCount,
    Viridian::ApicAssist,
    Viridian::CrashCtl,
    Viridian::NoVpLimit,
    Viridian::CpuHotplug,
];

/// The reasons why groups cannot be enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViridianError {
    /// Groups are enabled, and the group `base` is not, which all others need.
    #[error("`viridian` enables groups without `base`, which they need: add `base`")]
    BaseMissing,
    /// A group is both enabled, perhaps by `all`, and disabled.
    #[error("`viridian` both enables and disables a group: write each group once")]
    Both,
}

impl ViridianSet {
    /// The parameter's value; 0 if no group is enabled. Then the parameter must not be set.
    ///
    /// # Errors
    /// [`ViridianError`] for groups that libxl refuses too.
    pub fn mask(&self) -> Result<u64, ViridianError> {
        if self
            .enabled
            .iter()
            .any(|group| self.disabled.contains(group))
        {
            return Err(ViridianError::Both);
        }
        let defaults = DEFAULTS.iter().filter(|_| self.defaults);
        let groups: Vec<Viridian> = defaults
            .chain(&self.enabled)
            .filter(|group| !self.disabled.contains(group))
            .copied()
            .collect();
        match (groups.is_empty(), groups.contains(&Viridian::Base)) {
            (true, _) => Ok(0),
            (false, false) => Err(ViridianError::BaseMissing),
            (false, true) => {
                let mask = groups.iter().fold(0, |mask, group| mask | bits(*group));
                let has_freq = groups.contains(&Viridian::Freq);
                Ok(if has_freq { mask } else { mask | NO_FREQ })
            }
        }
    }
}

/// The bits of a group and of the groups that it needs.
fn bits(group: Viridian) -> u64 {
    match group {
        Viridian::Base => BASE_FREQ,
        // Xen has a bit for its absence.
        Viridian::Freq => 0,
        Viridian::TimeRefCount => 1 << 2,
        Viridian::ReferenceTsc => 1 << 3,
        Viridian::HcallRemoteTlbFlush => 1 << 4,
        Viridian::ApicAssist => 1 << 5,
        Viridian::CrashCtl => 1 << 6,
        Viridian::Synic => 1 << 7,
        Viridian::Stimer => bits(Viridian::TimeRefCount) | bits(Viridian::Synic) | 1 << 8,
        Viridian::HcallIpi => 1 << 9,
        Viridian::ExProcessorMasks => 1 << 10,
        Viridian::NoVpLimit => 1 << 11,
        Viridian::CpuHotplug => 1 << 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(defaults: bool, enabled: &[Viridian], disabled: &[Viridian]) -> ViridianSet {
        ViridianSet {
            defaults,
            enabled: enabled.to_vec(),
            disabled: disabled.to_vec(),
        }
    }

    #[test]
    fn groups_are_bits() {
        assert_eq!(set(false, &[], &[]).mask(), Ok(0));
        assert_eq!(set(true, &[], &[]).mask(), Ok(0x1865));
        assert_eq!(set(true, &[], &[Viridian::Freq]).mask(), Ok(0x1867));
        let stimer = [Viridian::Base, Viridian::Freq, Viridian::Stimer];
        assert_eq!(set(false, &stimer, &[]).mask(), Ok(0x185));
        let all: Vec<Viridian> = DEFAULTS
            .iter()
            .copied()
            .chain([
                Viridian::ReferenceTsc,
                Viridian::HcallRemoteTlbFlush,
                Viridian::Stimer,
                Viridian::HcallIpi,
                Viridian::ExProcessorMasks,
            ])
            .collect();
        assert_eq!(set(false, &all, &[]).mask(), Ok(0x1ffd));
        assert_eq!(set(false, &[], &[Viridian::Base]).mask(), Ok(0));
    }

    #[test]
    fn no_group_is_without_the_base() {
        let error = Err(ViridianError::BaseMissing);
        assert_eq!(set(true, &[], &[Viridian::Base]).mask(), error);
        assert_eq!(set(false, &[Viridian::Synic], &[]).mask(), error);
        let both = [Viridian::Base];
        assert_eq!(set(true, &both, &both).mask(), Err(ViridianError::Both));
    }
}
