//! The stream of changes: server-sent events with the whole object that has changed.
//!
//! A thread looks at the VMs and operations a few times a second, while a client listens. It ends with the last client, so an idle
//! daemon does nothing. An event's ID is `DAEMON:SEQUENCE`. The last [`KEPT_MAX`] events are kept; a client that comes back with an ID gets those
//! after it, or the event `reset`, after which it lists anew. A client that does not read is dropped, and comes back so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use os_port::{Process, SystemClock, SystemFiles, SystemProcess};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use uuid::Uuid;
use xyl_engine::report::{operations, set};
use xyl_engine::supervise::status;

use crate::calls::vms;
use crate::problem::{Problem, code};
use crate::world::World;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Number of looks after which a comment shows whether the clients are there.
const LOOKS_PER_COMMENT: u32 = 50;
/// Maximum number of events that are kept.
pub const KEPT_MAX: usize = 4096;
/// Maximum number of parts that wait for a client.
const WAITING_MAX: usize = 1024;
/// Maximum number of clients.
const CLIENTS_MAX: usize = 1000;
/// Members of a row that change all the time. A change of these alone is no event.
const RESTLESS: [&str; 4] = [
    "/cpu_time_ns",
    "/state/running",
    "/state/blocked",
    "/restart_waits_s",
];

/// The clients and the events that are kept.
pub struct Hub {
    /// Name of this run of the daemon, in the IDs.
    daemon: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    kept: VecDeque<(u64, Bytes)>,
    clients: Vec<Sender<Bytes>>,
    is_looking: bool,
}

/// The objects of one look, by their kind and key.
type Objects = BTreeMap<(&'static str, String), Value>;

impl Default for Hub {
    fn default() -> Hub {
        let id = Uuid::from_bytes(SystemProcess.new_uuid())
            .simple()
            .to_string();
        Hub {
            daemon: id.chars().take(12).collect(),
            inner: Mutex::default(),
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, sequence: u64) -> String {
        format!("{}:{sequence}", self.daemon)
    }

    /// The number in an ID of this run of the daemon.
    fn sequence_of(&self, id: &str) -> Option<u64> {
        let (daemon, sequence) = id.split_once(':')?;
        (daemon == self.daemon).then(|| sequence.parse().ok())?
    }

    /// The first parts for a new client: the events after its last one, or `hello` or `reset`.
    fn first_parts(&self, inner: &Inner, last: Option<&str>) -> Vec<Bytes> {
        let id = self.id(inner.sequence);
        let Some(last) = last else {
            return vec![frame(&id, "hello", &json!({}))];
        };
        let oldest = inner
            .kept
            .front()
            .map_or(inner.sequence, |(first, _)| first - 1);
        let known = self.sequence_of(last);
        let known = known.filter(|known| (oldest..=inner.sequence).contains(known));
        let Some(known) = known else {
            return vec![frame(&id, "reset", &json!({}))];
        };
        let missed = inner.kept.iter().filter(|(sequence, _)| *sequence > known);
        let missed: Vec<Bytes> = missed.map(|(_, bytes)| bytes.clone()).collect();
        match missed.len() {
            0 => vec![frame(&id, "hello", &json!({}))],
            many if many > WAITING_MAX / 2 => vec![frame(&id, "reset", &json!({}))],
            _ => missed,
        }
    }

    /// Keeps an event, and sends it to all clients. One that does not read is dropped.
    fn publish(&self, event: &str, data: &Value) {
        let mut inner = self.lock();
        inner.sequence += 1;
        let sequence = inner.sequence;
        let bytes = frame(&self.id(sequence), event, data);
        if inner.kept.len() >= KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back((sequence, bytes.clone()));
        inner
            .clients
            .retain(|client| client.try_send(bytes.clone()).is_ok());
    }

    /// Whether clients are left. Without any, the thread that looks is to end.
    fn has_clients(&self, comments: bool) -> bool {
        let mut inner = self.lock();
        if comments {
            let comment = Bytes::from_static(b": alive\n\n");
            inner
                .clients
                .retain(|client| client.try_send(comment.clone()).is_ok());
        }
        inner.clients.retain(|client| !client.is_closed());
        inner.is_looking = !inner.clients.is_empty();
        inner.is_looking
    }
}

/// Adds a client, whose last event had this ID. Starts the thread that looks, if there is none.
///
/// # Errors
/// There are too many clients, or Xen cannot be asked.
pub fn listen(world: &Arc<World>, last: Option<&str>) -> Result<Receiver<Bytes>, Problem> {
    let hub = &world.hub;
    let mut inner = hub.lock();
    if inner.clients.len() >= CLIENTS_MAX {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::BUSY,
            format!("{CLIENTS_MAX} clients listen already"),
        ));
    }
    if !inner.is_looking {
        // Changes since the last client went were not seen: an earlier ID is none of these events.
        let first = look(world)?;
        inner.kept.clear();
        inner.sequence += 1;
        start(Arc::clone(world), first)?;
        inner.is_looking = true;
    }
    let (sender, receiver) = channel(WAITING_MAX);
    for part in hub.first_parts(&inner, last) {
        // The channel is new, and has room for them.
        let _ = sender.try_send(part);
    }
    inner.clients.push(sender);
    Ok(receiver)
}

fn start(world: Arc<World>, first: Objects) -> Result<(), Problem> {
    let thread = std::thread::Builder::new().name("events".to_owned());
    let started = thread.spawn(move || look_for_changes(&world, first));
    started.map(drop).map_err(|error| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::INTERNAL,
            format!("no thread can be started: {error}"),
        )
    })
}

/// Looks until no client is left. What cannot be read now is compared at the next look.
fn look_for_changes(world: &World, mut before: Objects) {
    let mut looks = 0_u32;
    loop {
        std::thread::sleep(LOOK_EVERY);
        looks = looks.wrapping_add(1);
        if !world
            .hub
            .has_clients(looks.is_multiple_of(LOOKS_PER_COMMENT))
        {
            return;
        }
        if let Ok(now) = look(world) {
            publish_changes(&world.hub, &before, &now);
            before = now;
        }
    }
}

fn publish_changes(hub: &Hub, before: &Objects, now: &Objects) {
    for (key, object) in now {
        if before.get(key).map(calm) != Some(calm(object)) {
            hub.publish(key.0, object);
        }
    }
    for (key, object) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
        let gone =
            json!({"uuid": object.get("uuid"), "id": object.get("id"), "name": object.get("name")});
        hub.publish(&format!("{}-gone", key.0), &gone);
    }
}

/// A row without its restless members.
fn calm(row: &Value) -> Value {
    let mut row = row.clone();
    for member in RESTLESS {
        if let Some(value) = row.pointer_mut(member) {
            *value = Value::Null;
        }
    }
    row
}

/// One look at all VMs and operations.
fn look(world: &World) -> Result<Objects, Problem> {
    let hv = world.hypervisor()?;
    let mut objects = Objects::new();
    let text = |row: &Value, member: &str| {
        let value = row.get(member).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    for row in vms::all(world, &world.reader(&*hv))?.rows {
        // Two domains of one VM, one of them dying, are two objects.
        let key = format!(
            "{}/{}",
            text(&row, "uuid"),
            row.get("domid").unwrap_or(&Value::Null)
        );
        objects.insert(("vm", key), row);
    }
    let ops = status::all(&SystemFiles, &world.site.dirs)?;
    for mut row in operations::rows(&world.records(), &SystemClock, &ops, None) {
        set(&mut row, "vm_state", Value::Null);
        let key = format!("{}/{}", text(&row, "uuid"), text(&row, "id"));
        objects.insert(("operation", key), row);
    }
    Ok(objects)
}

/// An event as it is sent. JSON on one line has no line breaks that could end it.
fn frame(id: &str, event: &str, data: &Value) -> Bytes {
    format!("id: {id}\nevent: {event}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(parts: &[Bytes]) -> String {
        let parts = parts
            .iter()
            .map(|part| String::from_utf8_lossy(part).into_owned());
        parts.collect()
    }

    #[test]
    fn a_client_gets_what_it_has_missed_or_a_reset() {
        let hub = Hub::default();
        for number in 0..3 {
            hub.publish("vm", &json!({"number": number}));
        }
        let after = |id: &str| texts(&hub.first_parts(&hub.lock(), Some(id)));
        assert!(texts(&hub.first_parts(&hub.lock(), None)).contains("event: hello"));
        let missed = after(&hub.id(1));
        assert!(missed.contains("\"number\":1") && missed.contains("\"number\":2"));
        assert!(!missed.contains("\"number\":0"));
        assert!(after(&hub.id(3)).contains("event: hello"));
        for id in [hub.id(4), "other:1".to_owned(), "nothing".to_owned()] {
            assert!(after(&id).contains("event: reset"), "{id}");
        }
        for _ in 0..KEPT_MAX {
            hub.publish("vm", &json!({}));
        }
        assert!(after(&hub.id(1)).contains("event: reset"), "too old");
    }

    #[test]
    fn cpu_time_alone_is_no_change() {
        let hub = Hub::default();
        let row = |time: u64, name: &str| json!({"uuid": "u", "cpu_time_ns": time, "name": name});
        let of = |row: Value| Objects::from([(("vm", "u".to_owned()), row)]);
        publish_changes(&hub, &of(row(1, "a")), &of(row(2, "a")));
        assert_eq!(hub.lock().sequence, 0);
        publish_changes(&hub, &of(row(1, "a")), &of(row(2, "b")));
        assert_eq!(hub.lock().sequence, 1);
        publish_changes(&hub, &of(row(1, "a")), &Objects::new());
        let last = hub.lock().kept.back().cloned().unwrap().1;
        assert!(texts(&[last]).contains("event: vm-gone"));
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let hub = Hub::default();
        let (sender, _receiver) = channel(1);
        hub.lock().clients.push(sender);
        hub.publish("vm", &json!({}));
        assert!(hub.has_clients(false));
        hub.publish("vm", &json!({}));
        assert!(!hub.has_clients(false));
    }
}
