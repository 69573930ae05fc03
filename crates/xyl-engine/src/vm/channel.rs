//! A channel of a VM, decided: a byte stream between the guest and a terminal or socket of domain 0.

use std::path::PathBuf;

use xl_cfg::types::{self, ChannelConnection};

/// Longest name of a channel, in bytes.
const NAME_MAX_BYTES: usize = 256;
/// Longest path of a socket, in bytes: programs have room for so many (unix(7)).
const PATH_MAX_BYTES: usize = 107;

/// A channel that the VM's QEMU serves. For the guest it is a console with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its number among the guest's consoles, from 1 on. Console 0 is the guest's own.
    pub number: u32,
    /// Name by which the guest finds it.
    pub name: String,
    /// Its end in domain 0.
    pub end: End,
}

/// The end of a channel in domain 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A terminal (pty).
    Terminal,
    /// A Unix socket, which is found at this path.
    Socket(PathBuf),
}

impl Channel {
    /// All channels of a configuration; else why Xyl cannot serve one.
    ///
    /// # Errors
    /// A text that names the channel and what to do instead.
    pub fn all_of_config(channels: &[types::Channel]) -> Result<Vec<Channel>, String> {
        let one = |(channel, number): (&types::Channel, u32)| match why_not(channel) {
            Some(why) => Err(format!("channel `{}`: {why}", shown(&channel.name))),
            None => Ok(Channel {
                number,
                name: channel.name.clone(),
                end: end_of(channel),
            }),
        };
        channels.iter().zip(1..).map(one).collect()
    }

    /// The channel as xl.cfg says it.
    pub fn cfg_text(&self) -> String {
        let first = format!("name={},connection={}", self.name, self.connection());
        match &self.end {
            End::Terminal => first,
            End::Socket(path) => format!("{first},path={}", path.display()),
        }
    }

    /// Its end in domain 0, in the word of xl.cfg.
    pub fn connection(&self) -> &'static str {
        match self.end {
            End::Terminal => "pty",
            End::Socket(_) => "socket",
        }
    }

    /// The path of its socket, if it has one.
    pub fn path(&self) -> Option<String> {
        match &self.end {
            End::Terminal => None,
            End::Socket(path) => Some(path.display().to_string()),
        }
    }

    /// The name of its end in QEMU. libxl's name.
    pub fn id_in_qemu(&self) -> String {
        format!("libxl-channel{}", self.number)
    }
}

/// Reason why Xyl cannot serve a channel; `None` where it can.
fn why_not(channel: &types::Channel) -> Option<String> {
    if channel.name.is_empty() || channel.name.len() > NAME_MAX_BYTES {
        return Some(format!("a name has 1 to {NAME_MAX_BYTES} bytes"));
    }
    if channel.name.chars().any(char::is_control) {
        return Some("a name has no control characters".to_owned());
    }
    let is_dom0 = |backend: &String| matches!(backend.as_str(), "0" | "Domain-0");
    if let Some(backend) = channel.backend.as_ref().filter(|backend| !is_dom0(backend)) {
        return Some(format!(
            "backend={backend} is not supported by Xyl yet: only domain 0 can serve channels"
        ));
    }
    let path = channel.path.as_deref().unwrap_or_default();
    let is_path = path.starts_with('/')
        && path.len() <= PATH_MAX_BYTES
        && !path.ends_with('/')
        && !path.contains(char::is_control);
    (channel.connection == ChannelConnection::Socket && !is_path).then(|| {
        format!("a socket has an absolute path of up to {PATH_MAX_BYTES} bytes, as in `path=/run/guest.sock`")
    })
}

fn end_of(channel: &types::Channel) -> End {
    match (channel.connection, &channel.path) {
        (ChannelConnection::Socket, Some(path)) => End::Socket(path.into()),
        _ => End::Terminal,
    }
}

/// A name as a message shows it.
fn shown(name: &str) -> String {
    let printable = name.chars().filter(|c| !c.is_control());
    printable.take(NAME_MAX_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(specs: &str) -> Result<Vec<Channel>, String> {
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\nchannel = [ {specs} ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        Channel::all_of_config(&config.domain.pv_devices.channels)
    }

    #[test]
    fn channels_are_numbered_from_1_on_and_written_as_they_were_read() {
        let specs = "'connection=pty, name=org.example.agent', 'name=b,connection=pty,backend=0', 'name=c,connection=socket,path=/run/c'";
        let read = channels(specs).unwrap();
        let numbers: Vec<u32> = read.iter().map(|channel| channel.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(read[2].end, End::Socket("/run/c".into()));
        let texts: Vec<String> = read
            .iter()
            .map(|channel| format!("'{}'", channel.cfg_text()))
            .collect();
        assert_eq!(channels(&texts.join(", ")).unwrap(), read);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let long = format!("'name={},connection=pty'", "x".repeat(NAME_MAX_BYTES + 1));
        for refused in [
            "'name=a,connection=socket,path=run/a'",
            "'name=a,connection=socket,path=/run/'",
            "'name=a,connection=pty,backend=storage'",
            "'name=,connection=pty'",
            &long,
        ] {
            assert!(channels(refused).is_err(), "{refused}");
        }
    }
}
