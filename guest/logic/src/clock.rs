//! Xen's paravirtual clock: `vcpu_time_info` in public/xen.h.

/// The fields of `vcpu_time_info` that turn a TSC value into system time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeInfo {
    /// TSC when the record was written.
    pub tsc_timestamp: u64,
    /// System time then, nanoseconds since Xen's boot.
    pub system_time_ns: u64,
    /// Nanoseconds per (shifted) TSC tick, as a 0.32 fixed-point number.
    pub tsc_to_system_mul: u32,
    /// Left shift (right, when negative) of the TSC difference before multiplying.
    pub tsc_shift: i8,
}

impl TimeInfo {
    /// System time in nanoseconds at `tsc`. A TSC before the record counts as the record's.
    pub fn system_time_ns(&self, tsc: u64) -> u64 {
        let delta = tsc.saturating_sub(self.tsc_timestamp);
        let shift = u32::from(self.tsc_shift.unsigned_abs());
        let shifted = if self.tsc_shift >= 0 {
            delta.checked_shl(shift).unwrap_or(0)
        } else {
            delta.checked_shr(shift).unwrap_or(0)
        };
        let elapsed_ns = (u128::from(shifted) * u128::from(self.tsc_to_system_mul)) >> 32;
        self.system_time_ns.wrapping_add(elapsed_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gigahertz() {
        // 2 GHz: 0.5 ns a tick.
        let info = TimeInfo {
            tsc_timestamp: 1_000,
            system_time_ns: 5_000,
            tsc_to_system_mul: 1 << 31,
            tsc_shift: 0,
        };
        assert_eq!(info.system_time_ns(1_000), 5_000);
        assert_eq!(info.system_time_ns(3_000), 6_000);
        assert_eq!(info.system_time_ns(10), 5_000);
    }

    #[test]
    fn shifts_both_ways() {
        let info = TimeInfo {
            tsc_timestamp: 0,
            system_time_ns: 0,
            tsc_to_system_mul: 1 << 31,
            tsc_shift: 1,
        };
        assert_eq!(info.system_time_ns(100), 100);
        assert_eq!(
            TimeInfo {
                tsc_shift: -1,
                ..info
            }
            .system_time_ns(100),
            25
        );
    }

    #[test]
    fn a_long_uptime_does_not_overflow() {
        let info = TimeInfo {
            tsc_timestamp: 0,
            system_time_ns: 0,
            tsc_to_system_mul: u32::MAX,
            tsc_shift: 0,
        };
        let year_ticks = 365 * 86_400 * 1_000_000_000;
        let time_ns = info.system_time_ns(year_ticks);
        assert!(year_ticks - time_ns < year_ticks / 1_000_000);
    }
}
