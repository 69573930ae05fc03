//! Graphics outputs: VNC, SDL, SPICE, and the paravirtual framebuffer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::params::{Param, split};
use crate::diag::{Code, Remedy};
use crate::reader::Reader;
use crate::syntax::Text;

/// A password. It serialises as it is, but does not show in debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A VNC server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vnc {
    /// Whether there is one (`vnc`). Default for HVM guests: yes.
    pub enabled: Option<bool>,
    /// Address to listen on, perhaps with `:DISPLAY` (`vnclisten`).
    pub listen: Option<String>,
    /// Password (`vncpasswd`); an empty one lets everybody in.
    pub password: Option<Secret>,
    /// Display; the port is 5900 more (`vncdisplay`).
    pub display: Option<u32>,
    /// Whether a free port is looked for (`vncunused`).
    pub find_unused: Option<bool>,
}

/// An X window by SDL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sdl {
    /// Whether there is one (`sdl`).
    pub enabled: Option<bool>,
    /// Whether it uses OpenGL (`opengl`).
    pub opengl: Option<bool>,
    /// The X display (`display`).
    pub display: Option<String>,
    /// The X authority file (`xauthority`).
    pub xauthority: Option<String>,
}

/// The outputs of a guest's display.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Display {
    /// Settings of its VNC server.
    pub vnc: Vnc,
    /// Settings of its window (SDL).
    pub sdl: Sdl,
    /// The keyboard's layout (`keymap`).
    pub keymap: Option<String>,
}

/// A SPICE server (HVM).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spice {
    /// Whether there is one (`spice`).
    pub enabled: Option<bool>,
    /// TCP port without TLS (`spiceport`).
    pub port: Option<u32>,
    /// Port with TLS (`spicetls_port`).
    pub tls_port: Option<u32>,
    /// Address to listen on (`spicehost`).
    pub host: Option<String>,
    /// Whether clients need no password (`spicedisable_ticketing`).
    pub disable_ticketing: Option<bool>,
    /// The password (`spicepasswd`).
    pub password: Option<Secret>,
    /// Whether the agent moves the mouse (`spiceagent_mouse`).
    pub agent_mouse: Option<bool>,
    /// Whether the guest has an agent (`spicevdagent`).
    pub vdagent: Option<bool>,
    /// Whether the clipboard is shared (`spice_clipboard_sharing`).
    pub clipboard_sharing: Option<bool>,
    /// Number of USB channels (`spiceusbredirection`).
    pub usb_redirection: Option<u32>,
    /// Image compression (`spice_image_compression`).
    pub image_compression: Option<String>,
    /// Video streaming (`spice_streaming_video`).
    pub streaming_video: Option<String>,
}

impl Display {
    /// Reads the settings outside of `vfb`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let display = Self {
            vnc: Vnc {
                enabled: reader.flag("vnc"),
                listen: reader.string("vnclisten"),
                password: reader.string("vncpasswd").map(Secret),
                display: reader.u32("vncdisplay", "a display's number", 0..=59635),
                find_unused: reader.flag("vncunused"),
            },
            sdl: Sdl {
                enabled: reader.flag("sdl"),
                opengl: reader.flag("opengl"),
                display: reader.string("display"),
                xauthority: reader.string("xauthority"),
            },
            keymap: reader.string("keymap"),
        };
        display.check(reader);
        display
    }

    fn check(&self, reader: &mut Reader<'_>) {
        let names_display = self
            .vnc
            .listen
            .as_ref()
            .is_some_and(|listen| listen.contains(':') && !listen.contains("::"));
        if let (true, Some(1..), Some(span)) =
            (names_display, self.vnc.display, reader.span("vncdisplay"))
        {
            let help = "take one of them out";
            reader.error(
                Code::Conflict,
                span,
                "the display is given in `vnclisten` and in `vncdisplay`",
                help,
            );
        }
    }
}

impl Spice {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            enabled: reader.flag("spice"),
            port: reader.u32("spiceport", "a port", 0..=65535),
            tls_port: reader.u32("spicetls_port", "a port", 0..=65535),
            host: reader.string("spicehost"),
            disable_ticketing: reader.flag("spicedisable_ticketing"),
            password: reader.string("spicepasswd").map(Secret),
            agent_mouse: reader.flag("spiceagent_mouse"),
            vdagent: reader.flag("spicevdagent"),
            clipboard_sharing: reader.flag("spice_clipboard_sharing"),
            usb_redirection: reader.u32("spiceusbredirection", "a number of channels", 0..=4),
            image_compression: reader.string("spice_image_compression"),
            streaming_video: reader.string("spice_streaming_video"),
        }
    }
}

/// Reads `vfb`: paravirtual framebuffers.
pub(crate) fn read_framebuffers(reader: &mut Reader<'_>) -> Vec<Display> {
    reader
        .texts("vfb")
        .into_iter()
        .map(|text| read_framebuffer(reader, text))
        .collect()
}

const VFB_NAMES: [&str; 10] = [
    "vnc",
    "vnclisten",
    "vncpasswd",
    "vncdisplay",
    "vncunused",
    "keymap",
    "sdl",
    "opengl",
    "display",
    "xauthority",
];

fn read_framebuffer(reader: &mut Reader<'_>, text: Text<'_>) -> Display {
    let mut display = Display::default();
    for param in split(text) {
        apply(&mut display, reader, &param);
    }
    display
}

fn apply(display: &mut Display, reader: &mut Reader<'_>, param: &Param<'_>) {
    let Display { vnc, sdl, keymap } = display;
    match param.name.text {
        "vnc" => vnc.enabled = param.flag(reader),
        "vnclisten" => vnc.listen = param.string(reader),
        "vncpasswd" => vnc.password = param.string(reader).map(Secret),
        "vncdisplay" => vnc.display = param.u32(reader, "a display's number", 0..=59635),
        "vncunused" => vnc.find_unused = param.flag(reader),
        "keymap" => *keymap = param.string(reader),
        "sdl" => sdl.enabled = param.flag(reader),
        "opengl" => sdl.opengl = param.flag(reader),
        "display" => sdl.display = param.string(reader),
        "xauthority" => sdl.xauthority = param.string(reader),
        // xend's parameter for the type; xl has never read it.
        "type" => warn_of_type(reader, param),
        "backend" => refuse_backend(reader, param),
        _ => param.unknown_ignored(reader, "vfb", VFB_NAMES.into_iter()),
    }
}

/// xl ignores it, and domain 0 would show a display that another domain was to show.
fn refuse_backend(reader: &mut Reader<'_>, param: &Param<'_>) {
    let backend = param.value.map(|value| value.text.trim());
    if matches!(backend, Some("0" | "Domain-0")) {
        return;
    }
    let message = "`vfb` has no `backend`: domain 0 alone shows framebuffers";
    reader.error(
        Code::Unsupported,
        param.name.span(),
        message,
        "write `backend=0` or leave `backend` out",
    );
}

fn warn_of_type(reader: &mut Reader<'_>, param: &Param<'_>) {
    let remedy = match param.value.map(|value| value.text) {
        Some("vnc") => Remedy::new("write `vnc=1`", param.replaced("vnc=1")),
        Some("sdl") => Remedy::new("write `sdl=1`", param.replaced("sdl=1")),
        _ => "write `vnc=1` or `sdl=1`".into(),
    };
    let message = "`type` has no effect in `vfb`";
    reader.warn(Code::NoEffect, param.name.span(), message, remedy);
}
