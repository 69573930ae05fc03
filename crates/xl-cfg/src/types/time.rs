//! Clock and timer settings of a guest.

use serde::{Deserialize, Serialize};

use super::processors::numbered;
use crate::diag::Code;
use crate::keys::DomainType;
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::syntax::Value;

keywords! {
    /// The source of the guest's time stamp counter.
    TscMode {
        /// The hardware's counter if it is monotonic, else emulated.
        Default = "default",
        /// Always emulated, at 1 GHz.
        AlwaysEmulate = "always_emulate",
        /// Always the hardware's.
        Native = "native",
        /// Gone from Xen; refused.
        NativeParavirt = "native_paravirt",
    }
}

keywords! {
    /// Treatment of timer ticks that a guest missed.
    TimerMode {
        /// Deliver them late, and let time lag behind meanwhile.
        DelayForMissedTicks = "delay_for_missed_ticks",
        /// Deliver them late; time is right.
        NoDelayForMissedTicks = "no_delay_for_missed_ticks",
        /// Drop the missed ticks.
        NoMissedTicksPending = "no_missed_ticks_pending",
        /// Deliver one for all of them.
        OneMissedTickPending = "one_missed_tick_pending",
    }
}

/// Clocks and timers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Whether the real-time clock shows local time (`localtime`); default UTC.
    pub localtime: Option<bool>,
    /// Offset of the real-time clock, in seconds (`rtc_timeoffset`).
    pub rtc_offset_s: Option<i32>,
    /// The source of the guest's time stamp counter (`tsc_mode`).
    pub tsc_mode: Option<TscMode>,
    /// Treatment of missed timer ticks (`timer_mode`).
    pub timer_mode: Option<TimerMode>,
}

impl Time {
    pub(crate) fn read(reader: &mut Reader<'_>, domain_type: DomainType) -> Self {
        let rtc_offset_s = reader.number(
            "rtc_timeoffset",
            "a number of seconds",
            i64::from(i32::MIN)..=i64::from(i32::MAX),
        );
        Self {
            localtime: reader.flag("localtime"),
            rtc_offset_s: rtc_offset_s.and_then(|seconds| i32::try_from(seconds).ok()),
            tsc_mode: read_tsc_mode(reader),
            timer_mode: read_timer_mode(reader, domain_type),
        }
    }
}

fn read_tsc_mode(reader: &mut Reader<'_>) -> Option<TscMode> {
    let mode = match numbered(reader, "tsc_mode", "TSC mode") {
        Some(mode) => mode,
        None => reader.keyword_any_case("tsc_mode"),
    };
    if let (Some(TscMode::NativeParavirt), Some(setting)) = (mode, reader.setting("tsc_mode")) {
        let remedy = setting.write(&Value::Atom("default".to_owned()), "");
        reader.error(
            Code::BadValue,
            setting.value.span,
            "Xen has no TSC mode `native_paravirt` any more",
            remedy,
        );
    }
    mode
}

fn read_timer_mode(reader: &mut Reader<'_>, domain_type: DomainType) -> Option<TimerMode> {
    if domain_type == DomainType::Pv {
        let span = reader.span("timer_mode")?;
        let remedy = reader.take_out("timer_mode", "");
        reader.error(
            Code::Conflict,
            span,
            "PV guests have no `timer_mode`",
            remedy,
        );
        return None;
    }
    match numbered(reader, "timer_mode", "timer mode") {
        Some(mode) => mode,
        None => reader.keyword_any_case("timer_mode"),
    }
}
