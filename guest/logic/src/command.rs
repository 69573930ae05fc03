//! Commands that tests give through xenstore (`data/command`) or the console (`!COMMAND`).

/// Reason codes of SCHEDOP_shutdown (public/sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// The guest powers off.
    Poweroff = 0,
    /// End, and start again.
    Reboot = 1,
    /// Stop, to be saved and resumed.
    Suspend = 2,
    /// The guest crashed.
    Crash = 3,
    /// The guest's watchdog ran out.
    Watchdog = 4,
    /// Reset Xen's state for the domain, keep its memory.
    SoftReset = 5,
}

impl Reason {
    /// The reason called `name` in a command or, for the names that a toolstack uses there, in
    /// `control/shutdown` (where `halt` means poweroff).
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "poweroff" | "halt" => Self::Poweroff,
            "reboot" => Self::Reboot,
            "suspend" => Self::Suspend,
            "crash" => Self::Crash,
            "watchdog" => Self::Watchdog,
            "soft_reset" => Self::SoftReset,
            _ => return None,
        })
    }
}

/// A command for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// SCHEDOP_shutdown with a reason.
    Shutdown(Reason),
    /// Ignore (or obey again) `control/shutdown`.
    IgnoreShutdown(bool),
    /// Loop for ever, deaf to everything.
    Spin,
    /// Write nasty values into every node that may be writable; the number shifts which value goes
    /// into which node.
    Hostile(usize),
    /// Create `data/flood/0`, `data/flood/1`, ... up to this many nodes, or until refused.
    Flood(u32),
    /// Write this many KiB of a pattern to the console.
    FillConsole(u32),
    /// Write a line to the console.
    Echo(&'a str),
    /// Write a xenstore node.
    Write(&'a str, &'a str),
    /// Show an answer of the CPUID instruction: leaf and subleaf.
    Cpuid(u32, u32),
    /// Test the memory now.
    Memtest,
    /// Panic: a message, then a crash.
    Panic,
}

/// A command line that is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCommand {
    /// No such command.
    Unknown,
    /// The arguments do not fit; the text is the right form.
    Usage(&'static str),
}

impl core::fmt::Display for BadCommand {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown command"),
            Self::Usage(form) => write!(f, "usage: {form}"),
        }
    }
}

const USAGE_SHUTDOWN: &str = "shutdown poweroff|reboot|suspend|crash|watchdog|soft_reset";
const USAGE_IGNORE: &str = "ignore-shutdown on|off";
const USAGE_HOSTILE: &str = "hostile [N]";
const USAGE_FLOOD: &str = "flood N";
const USAGE_FILL: &str = "fill-console KIB";
const USAGE_WRITE: &str = "write PATH VALUE";
const USAGE_CPUID: &str = "cpuid LEAF SUBLEAF, in hexadecimal";

impl<'a> Command<'a> {
    /// Reads a command; blanks around it do not matter.
    pub fn parse(line: &'a str) -> Result<Self, BadCommand> {
        let line = line.trim_ascii();
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_ascii();
        match name {
            "shutdown" => Reason::parse(rest)
                .map(Self::Shutdown)
                .ok_or(BadCommand::Usage(USAGE_SHUTDOWN)),
            "ignore-shutdown" => match rest {
                "on" => Ok(Self::IgnoreShutdown(true)),
                "off" => Ok(Self::IgnoreShutdown(false)),
                _ => Err(BadCommand::Usage(USAGE_IGNORE)),
            },
            "hostile" if rest.is_empty() => Ok(Self::Hostile(0)),
            "hostile" => number(rest, USAGE_HOSTILE).map(|n| Self::Hostile(n as usize)),
            "flood" => number(rest, USAGE_FLOOD).map(Self::Flood),
            "fill-console" => number(rest, USAGE_FILL).map(Self::FillConsole),
            "echo" => Ok(Self::Echo(rest)),
            "write" => rest
                .split_once(' ')
                .map(|(path, value)| Self::Write(path, value))
                .ok_or(BadCommand::Usage(USAGE_WRITE)),
            "cpuid" => leaf(rest).ok_or(BadCommand::Usage(USAGE_CPUID)),
            "memtest" => alone(rest, Self::Memtest, "memtest"),
            "spin" => alone(rest, Self::Spin, "spin"),
            "panic" => alone(rest, Self::Panic, "panic"),
            _ => Err(BadCommand::Unknown),
        }
    }
}

fn number(text: &str, usage: &'static str) -> Result<u32, BadCommand> {
    text.parse().map_err(|_| BadCommand::Usage(usage))
}

fn leaf(text: &str) -> Option<Command<'_>> {
    let (leaf, subleaf) = text.split_once(' ')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(Command::Cpuid(number(leaf)?, number(subleaf)?))
}

fn alone<'a>(
    rest: &str,
    command: Command<'a>,
    usage: &'static str,
) -> Result<Command<'a>, BadCommand> {
    if rest.is_empty() {
        Ok(command)
    } else {
        Err(BadCommand::Usage(usage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_reason() {
        for (name, reason) in [
            ("poweroff", Reason::Poweroff),
            ("reboot", Reason::Reboot),
            ("suspend", Reason::Suspend),
            ("crash", Reason::Crash),
            ("watchdog", Reason::Watchdog),
            ("soft_reset", Reason::SoftReset),
        ] {
            let line = format!("shutdown {name}");
            assert_eq!(Command::parse(&line), Ok(Command::Shutdown(reason)));
        }
        assert_eq!(Reason::SoftReset as u32, 5);
    }

    #[test]
    fn the_other_commands() {
        assert_eq!(Command::parse(" spin\n"), Ok(Command::Spin));
        assert_eq!(Command::parse("hostile"), Ok(Command::Hostile(0)));
        assert_eq!(Command::parse("hostile 3"), Ok(Command::Hostile(3)));
        assert_eq!(Command::parse("flood 10"), Ok(Command::Flood(10)));
        assert_eq!(
            Command::parse("fill-console 64"),
            Ok(Command::FillConsole(64))
        );
        assert_eq!(
            Command::parse("echo  two  words "),
            Ok(Command::Echo("two  words"))
        );
        assert_eq!(
            Command::parse("write data/x a b"),
            Ok(Command::Write("data/x", "a b"))
        );
        assert_eq!(
            Command::parse("ignore-shutdown on"),
            Ok(Command::IgnoreShutdown(true))
        );
        assert_eq!(
            Command::parse("ignore-shutdown off"),
            Ok(Command::IgnoreShutdown(false))
        );
        assert_eq!(
            Command::parse("cpuid 80000001 a"),
            Ok(Command::Cpuid(0x8000_0001, 10))
        );
        assert_eq!(Command::parse("memtest"), Ok(Command::Memtest));
        assert_eq!(Command::parse("panic"), Ok(Command::Panic));
    }

    #[test]
    fn wrong_ones() {
        assert_eq!(Command::parse(""), Err(BadCommand::Unknown));
        assert_eq!(Command::parse("dance"), Err(BadCommand::Unknown));
        for line in [
            "shutdown",
            "shutdown now",
            "spin 1",
            "flood",
            "flood -1",
            "fill-console x",
            "write data/x",
            "cpuid 1",
            "cpuid x 0",
        ] {
            assert!(
                matches!(Command::parse(line), Err(BadCommand::Usage(_))),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(line in ".{0,80}") {
            let _ = Command::parse(&line);
        }
    }
}
