//! A framebuffer of a VM, decided: a display of the guest that its QEMU shows to VNC viewers.

use core::net::Ipv4Addr;

use xl_cfg::types::{self, Secret};

/// The port of display 0.
const FIRST_PORT: u16 = 5900;
/// The largest number of a display.
const DISPLAY_MAX: u32 = (u16::MAX - FIRST_PORT) as u32;
/// Longest password, in bytes. VNC takes the first 8 of them.
const PASSWORD_MAX_BYTES: usize = 64;
/// Longest name of a keymap, in bytes.
const KEYMAP_MAX_BYTES: usize = 32;

/// A framebuffer of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Its VNC server; `None` for a framebuffer that is not shown.
    pub vnc: Option<Vnc>,
    /// Name of the keyboard's layout in QEMU; `None` for its default.
    pub keymap: Option<String>,
}

/// The VNC server of a framebuffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnc {
    /// The address at which it listens.
    pub listen: Ipv4Addr,
    /// Number of the display. The port is 5900 more.
    pub display: u32,
    /// Whether a free display from this one on is taken.
    pub find_unused: bool,
    /// The password; `None` lets everybody in who reaches the port.
    pub password: Option<Secret>,
}

impl Framebuffer {
    /// All framebuffers of a configuration; else why Xyl cannot serve one.
    ///
    /// # Errors
    /// A text that says what to do instead.
    pub fn all_of_config(displays: &[types::Display]) -> Result<Vec<Framebuffer>, String> {
        match displays {
            [] => Ok(Vec::new()),
            [one] => Ok(vec![Framebuffer::of_config(one)?]),
            _ => Err("QEMU shows one framebuffer of a guest: write one".to_owned()),
        }
    }

    /// The framebuffer of a display; else why Xyl cannot serve it. An HVM guest's screen is configured in the same way.
    ///
    /// # Errors
    /// A text that says what to do instead.
    pub(crate) fn of_config(display: &types::Display) -> Result<Framebuffer, String> {
        if display.sdl.enabled == Some(true) || display.sdl.opengl == Some(true) {
            let why = "`sdl` and `opengl` are not supported: the VM's QEMU is a user without rights, and has no window of domain 0's. Write `vnc=1`";
            return Err(why.to_owned());
        }
        let keymap = display.keymap.clone().filter(|name| !name.is_empty());
        if keymap.as_deref().is_some_and(|name| !is_keymap(name)) {
            let why = "a keymap is a name of QEMU's, such as `de` or `en-us`";
            return Err(why.to_owned());
        }
        let vnc = match display.vnc.enabled {
            Some(false) => None,
            Some(true) | None => Some(Vnc::of_config(&display.vnc)?),
        };
        Ok(Framebuffer { vnc, keymap })
    }

    /// The framebuffer as xl.cfg says it.
    pub fn cfg_text(&self) -> String {
        let mut words = match &self.vnc {
            None => vec!["vnc=0".to_owned()],
            Some(vnc) => vnc.words(),
        };
        words.extend(self.keymap.iter().map(|name| format!("keymap={name}")));
        words.join(",")
    }
}

impl Vnc {
    fn of_config(vnc: &types::Vnc) -> Result<Vnc, String> {
        let listen = vnc.listen.as_deref().filter(|listen| !listen.is_empty());
        let (listen, display) = match listen.map(|listen| (listen, listen.split_once(':'))) {
            None => (Ok(Ipv4Addr::LOCALHOST), None),
            Some((_, Some((address, display)))) => (address.parse(), Some(display)),
            Some((address, None)) => (address.parse(), None),
        };
        let why = "`vnclisten` is an IPv4 address, such as 127.0.0.1 or 0.0.0.0, perhaps with `:` and a display: QEMU looks up no names, and its sockets in folders are not supported by Xyl yet";
        let listen = listen.map_err(|_| why.to_owned())?;
        let display = match display {
            Some(display) => display.parse().map_err(|_| why.to_owned())?,
            None => vnc.display.unwrap_or(0),
        };
        if display > DISPLAY_MAX {
            return Err(format!("a display has a number up to {DISPLAY_MAX}"));
        }
        let password = vnc.password.clone().filter(|secret| !secret.0.is_empty());
        if password.as_ref().is_some_and(|secret| !is_password(secret)) {
            return Err(format!(
                "a VNC password has up to {PASSWORD_MAX_BYTES} printable characters of ASCII, and VNC takes the first 8"
            ));
        }
        Ok(Vnc {
            listen,
            display,
            find_unused: vnc.find_unused.unwrap_or(true),
            password,
        })
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![
            "vnc=1".to_owned(),
            format!("vnclisten={}", self.listen),
            format!("vncdisplay={}", self.display),
            format!("vncunused={}", u8::from(self.find_unused)),
        ];
        let password = self.password.iter();
        words.extend(password.map(|secret| format!("vncpasswd={}", secret.0)));
        words
    }
}

/// The TCP port of a display; `None` for a number that has none.
pub fn port(display: u32) -> Option<u16> {
    let display = u16::try_from(display).ok()?;
    FIRST_PORT.checked_add(display)
}

fn is_keymap(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= KEYMAP_MAX_BYTES && name.bytes().all(is_of_name)
}

fn is_password(secret: &Secret) -> bool {
    let Secret(text) = secret;
    text.len() <= PASSWORD_MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framebuffers(specs: &str) -> Result<Vec<Framebuffer>, String> {
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\nvfb = [ {specs} ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        Framebuffer::all_of_config(&config.domain.framebuffers)
    }

    #[test]
    fn what_is_decided_is_written_as_it_was_read() {
        for (spec, text) in [
            ("", "vnc=1,vnclisten=127.0.0.1,vncdisplay=0,vncunused=1"),
            (
                "vnc=1,vnclisten=0.0.0.0:7,vncpasswd=x=y,vncunused=0,keymap=de",
                "vnc=1,vnclisten=0.0.0.0,vncdisplay=7,vncunused=0,vncpasswd=x=y,keymap=de",
            ),
            (
                "vnclisten=10.0.0.1,vncdisplay=59,sdl=0",
                "vnc=1,vnclisten=10.0.0.1,vncdisplay=59,vncunused=1",
            ),
            ("vnc=0", "vnc=0"),
        ] {
            let read = framebuffers(&format!("'{spec}'")).unwrap();
            assert_eq!(read[0].cfg_text(), text);
            assert_eq!(framebuffers(&format!("'{text}'")).unwrap(), read);
        }
        assert_eq!(
            (port(0), port(59635), port(59636)),
            (Some(5900), Some(65535), None)
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let long = "x".repeat(PASSWORD_MAX_BYTES + 1);
        for refused in [
            "'vnc=1', 'vnc=1'",
            "'sdl=1'",
            "'vnc=1,opengl=1'",
            "'vnclisten=unix:/run/a.sock'",
            "'vnclisten=localhost'",
            "'vnclisten=127.0.0.1:99999'",
            "'vnclisten=127.0.0.1:x'",
            "'keymap=../de'",
            &format!("'vncpasswd={long}'"),
        ] {
            assert!(framebuffers(refused).is_err(), "{refused}");
        }
    }
}
