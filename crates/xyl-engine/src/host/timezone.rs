//! The host's time zone, without a walk through all of the world's.

use jiff::Zoned;
use jiff::tz::TimeZone;

/// The host's own zone, if `TZ` does not name another.
const LOCAL: &str = "/etc/localtime";

/// The time now, in the zone that `TZ` names, or the host's.
pub fn now() -> Zoned {
    jiff::Timestamp::now().to_zoned(zone())
}

/// To find the name of the host's zone, jiff lists every zone that there is: hundreds of system calls, and memory that a
/// process keeps. Its rules are all that is needed, and they stand in one file.
fn zone() -> TimeZone {
    if std::env::var_os("TZ").is_some() {
        return TimeZone::system();
    }
    let rules = std::fs::read(LOCAL).unwrap_or_default();
    TimeZone::tzif("local", &rules).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_as_the_slow_way_gives() {
        let (now, slow) = (now(), Zoned::now());
        assert_eq!(now.offset(), slow.offset());
        let name = "%Z";
        assert_eq!(
            now.strftime(name).to_string(),
            slow.strftime(name).to_string()
        );
    }
}
