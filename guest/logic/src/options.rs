//! The kernel's command line.

/// Options on the command line. Unknown words are ignored, as kernels do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Pause between two heartbeats; 0 for none. `heartbeat_ms=N`, default 1000.
    pub heartbeat_ms: u32,
    /// Write and read every page. `memtest`.
    pub memtest: bool,
    /// Start with shutdown requests ignored. `ignore-shutdown`.
    pub ignore_shutdown: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat_ms: 1000,
            memtest: false,
            ignore_shutdown: false,
        }
    }
}

impl Options {
    /// Reads a command line; of several settings of one option the last counts.
    pub fn parse(cmdline: &str) -> Self {
        let mut options = Self::default();
        for word in cmdline.split_ascii_whitespace() {
            match word.split_once('=') {
                None if word == "memtest" => options.memtest = true,
                None if word == "ignore-shutdown" => options.ignore_shutdown = true,
                Some(("heartbeat_ms", value)) => {
                    if let Ok(ms) = value.parse() {
                        options.heartbeat_ms = ms;
                    }
                }
                _ => {}
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        assert_eq!(Options::parse(""), Options::default());
        assert_eq!(
            Options::parse("root=/dev/xvda1 ro memtestx heartbeat_ms=x"),
            Options::default()
        );
    }

    #[test]
    fn all_set() {
        assert_eq!(
            Options::parse(" memtest\theartbeat_ms=5 heartbeat_ms=0  ignore-shutdown"),
            Options {
                heartbeat_ms: 0,
                memtest: true,
                ignore_shutdown: true
            }
        );
    }
}
