//! A daemon on a simulated host of its own, and a small client for HTTP/1.1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const XYLD: &str = env!("CARGO_BIN_EXE_xyld");
/// Number of the user and group `nobody`.
const NOBODY: u32 = 65534;
/// A program that each user can start, for calls of another user.
pub const PYTHON: &str = "/usr/bin/python3";
/// Sends its second argument to the socket, and prints the answer.
const SEND: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode())
while b := s.recv(65536):
    sys.stdout.buffer.write(b)
";
/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(30);

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A new UUID.
pub fn key() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

/// Beside the daemon's program; a test of this package alone builds it first.
fn xyl_program() -> PathBuf {
    let program = Path::new(XYLD).with_file_name("xyl");
    if !program.exists() {
        let target = Path::new(XYLD)
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let profile = if target == "debug" {
            "dev".to_owned()
        } else {
            target
        };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--package", "xyl", "--profile", &profile])
            .status();
        assert!(built.unwrap().success());
    }
    program
}

/// The daemon and its host, which ends when its folder goes.
pub struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    pub fn new() -> Daemon {
        let folder = tempfile::Builder::new().prefix("xyld").tempdir().unwrap();
        // Another user reaches the socket.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let mut daemon = Daemon {
            folder,
            child: None,
        };
        daemon.start();
        daemon
    }

    /// A daemon whose host has the guest to try.
    pub fn with_guest() -> Daemon {
        let daemon = Daemon::new();
        let config = daemon.folder().join("guest.cfg");
        daemon.xyl(&["create", config.to_str().unwrap()]);
        daemon
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("XYL_HOST", format!("sim:{}", self.folder().display()));
        command.env("XYL_XL_CONF", "/dev/null").stdin(Stdio::null());
        for variable in ["XYL_JSON", "XYL_VERBOSE", "XYL_DRY_RUN", "XYL_TIMESTAMPS"] {
            command.env_remove(variable);
        }
        command
    }

    pub fn start(&mut self) {
        let mut command = self.command(Path::new(XYLD));
        command
            .arg("--socket")
            .arg(self.socket())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_root() {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(self.socket(), open).unwrap();
        }
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn is_alive(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// User and system time of the daemon, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Output of the command on the same host.
    pub fn xyl(&self, words: &[&str]) -> String {
        let output = self.command(&xyl_program()).args(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Gives the guest a name that only other toolstacks would give.
    pub fn rename_behind(&self, name: &str) {
        let domid = self.get("/v1/vms/guest").json()["domid"].as_u64().unwrap();
        let host = xen_sim::machine::Host::in_folder(&self.folder()).unwrap();
        let mut store = host.store(xenstore::Settings::default()).unwrap();
        let node = xenstore::Path::domain(u16::try_from(domid).unwrap())
            .join("name")
            .unwrap();
        xenstore::Tree::write(&mut store, &node, name.as_bytes()).unwrap();
    }

    pub fn last_operation(&self) -> String {
        let ops: Value = serde_json::from_str(&self.xyl(&["ops", "--json"])).unwrap();
        ops[0]["id"].as_str().unwrap().to_owned()
    }

    /// Stops the monitor of the guest until the answer is dropped.
    pub fn stop_monitor(&self) -> Stopped {
        let folder = self.folder().join("run/xyl/watch");
        let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
        let deadline = Instant::now() + LIMIT;
        // The monitor writes its number once it supervises the VM.
        loop {
            let text = std::fs::read_to_string(file.path()).unwrap();
            if let Ok(pid) = text.trim().parse() {
                return Stopped::stop(pid);
            }
            assert!(Instant::now() < deadline, "the VM has no monitor");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        exchange(self.connect(), method, path, headers, body)
    }

    /// Sends bytes, and returns the status of the answer, if there is one.
    pub fn raw(&self, bytes: &[u8]) -> Option<u16> {
        let mut stream = self.connect();
        // The daemon may have closed it before all was sent.
        let _ = stream.write_all(bytes);
        let mut text = [0; 16];
        let length = stream.read(&mut text).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        text.split(' ').nth(1)?.parse().ok()
    }

    /// The same call by the user `nobody`.
    pub fn as_nobody(&self, method: &str, path: &str) -> Reply {
        let mut command = Command::new(PYTHON);
        command.args(["-c", SEND]).arg(self.socket());
        command.arg(request(method, path, &[("Connection", "close")], b""));
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Reply::read(&mut BufReader::new(output.stdout.as_slice()))
    }

    pub fn wait_for(&self, path: &str, is_wanted: impl Fn(&Reply) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let reply = self.get(path);
            if is_wanted(&reply) {
                return;
            }
            assert!(Instant::now() < deadline, "{path}: {}", reply.body);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn events(&self, last: Option<&str>) -> Events {
        let mut stream = self.connect();
        let headers: Vec<(&str, &str)> = last.iter().map(|last| ("Last-Event-ID", *last)).collect();
        stream
            .write_all(request("GET", "/v1/events", &headers, b"").as_bytes())
            .unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        Events { reader }
    }

    pub fn web(&self) -> Web {
        let mut command = self.command(Path::new(XYLD));
        command
            .arg("--socket")
            .arg(self.socket())
            .arg("web")
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        let (host, path) = address.split_once('/').unwrap();
        Web {
            child,
            host: host.to_owned(),
            first: format!("/{path}"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stopped process, which runs on when this is dropped.
pub struct Stopped(rustix::process::Pid);

impl Stopped {
    fn stop(pid: i32) -> Stopped {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// `xyld web`, and its address.
pub struct Web {
    child: Child,
    host: String,
    first: String,
}

impl Web {
    pub fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let host = self.host.clone();
        let mut all = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "Host") {
            all.push(("Host", &host));
        }
        exchange(stream, "GET", path, &all, b"")
    }

    pub fn again(&mut self) -> Reply {
        let first = self.first.clone();
        self.get(&first, &[])
    }

    /// Opens the address, and returns the cookie.
    pub fn admit(&mut self) -> String {
        let reply = self.again();
        assert_eq!(reply.status, 303, "{}", reply.body);
        reply
            .header("set-cookie")
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text += "Host: xyl\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    stream
        .write_all(request(method, path, headers, body).as_bytes())
        .unwrap();
    stream.write_all(body).unwrap();
    Reply::read(&mut BufReader::new(stream))
}

/// An answer of the daemon.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    fn read(reader: &mut impl BufRead) -> Reply {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no answer: {line:?}"))
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut reply = Reply {
            status,
            headers,
            body: String::new(),
        };
        let bytes = match reply.header("transfer-encoding").as_str() {
            "chunked" => read_chunks(reader),
            _ => {
                let mut bytes = vec![0; reply.header("content-length").parse().unwrap_or(0)];
                reader.read_exact(&mut bytes).unwrap();
                bytes
            }
        };
        reply.body = String::from_utf8(bytes).unwrap();
        reply
    }

    pub fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The stable code of an error.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn read_chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut bytes = vec![0; length + 2];
        reader.read_exact(&mut bytes).unwrap();
        if length == 0 {
            return all;
        }
        all.extend_from_slice(&bytes[..length]);
    }
}

/// An event of the stream.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// The stream of events.
pub struct Events {
    reader: BufReader<UnixStream>,
}

impl Events {
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Event {
        let mut event = Event {
            id: String::new(),
            kind: String::new(),
            data: Value::Null,
        };
        loop {
            let mut line = String::new();
            assert!(
                self.reader.read_line(&mut line).unwrap() > 0,
                "the stream has ended"
            );
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                // Lengths of chunks, comments, and the ends of events.
                _ if !event.kind.is_empty() && !event.data.is_null() => return event,
                _ => {}
            }
        }
    }

    pub fn next_where(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next();
            if is_wanted(&event) {
                return event;
            }
        }
    }

    pub fn next_of(&mut self, kind: &str) -> Event {
        self.next_where(|event| event.kind == kind)
    }
}

/// Checks a value against a schema: each required member is there, each member is known, and each type is right.
pub fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).unwrap();
        return fits(document, schema, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let chosen = if value.is_null() {
            &choices[1]
        } else {
            &choices[0]
        };
        return fits(document, chosen, value, at);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&kind), "{at}: {value} is not of {kinds:?}");
    if let (Some(words), false) = (schema["enum"].as_array(), value.is_null()) {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    for (index, one) in value.as_array().into_iter().flatten().enumerate() {
        fits(document, &schema["items"], one, &format!("{at}[{index}]"));
    }
    let Some(members) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(
            members.contains_key(name.as_str().unwrap()),
            "{at} lacks {name}"
        );
    }
    let known = schema["properties"].as_object();
    for (name, member) in members {
        let Some(known) = known else {
            continue;
        };
        let schema = known
            .get(name)
            .unwrap_or_else(|| panic!("{at} has {name}, which its schema has not"));
        fits(document, schema, member, &format!("{at}.{name}"));
    }
}
