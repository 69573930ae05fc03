//! The connections of the in-memory xenstored: their requests, watches and transactions.

use super::tree::{Asker, Change, Need, Node, Nodes, Overlay, View};
use super::{Fault, Quotas, SeenRequest};
use crate::path::Path;
use crate::perms::Perms;
use crate::wire::{self, Decoder, ErrorName, MessageKind, PAYLOAD_MAX, Packet, nul_terminated};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The domain id by which a domain names itself (`DOMID_SELF` in `xen.h`).
const DOMID_SELF: u16 = 0x7ff0;

pub(super) type ConnectionId = u64;

type FaultHook = Box<dyn FnMut(&SeenRequest<'_>) -> Option<Fault> + Send>;

/// Payload of a reply, or the error.
type Outcome = Result<Vec<u8>, ErrorName>;

pub(super) struct Daemon {
    nodes: Nodes,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    introduced: BTreeSet<u16>,
    /// Domains whose shutdown was reported, and that were not resumed since.
    shut_down: BTreeSet<u16>,
    targets: BTreeMap<u16, u16>,
    hook: Option<FaultHook>,
    requests: u64,
    pub quotas: Quotas,
}

struct Connection {
    domid: u16,
    decoder: Decoder,
    output: Vec<u8>,
    /// Readable as long as there is output, or the connection is closed.
    signal: Arc<OwnedFd>,
    is_closed: bool,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Overlay>,
    next_transaction: u32,
}

struct Watch {
    path: Path,
    token: String,
    /// Whether the watch was set with a relative path. Its events then have relative paths.
    is_relative: bool,
}

impl Daemon {
    pub fn new() -> Self {
        let mut daemon = Self {
            nodes: Nodes::default(),
            connections: BTreeMap::new(),
            next_connection: 0,
            introduced: BTreeSet::from([0]),
            shut_down: BTreeSet::new(),
            targets: BTreeMap::new(),
            hook: None,
            requests: 0,
            quotas: Quotas::default(),
        };
        daemon.add_first_nodes();
        daemon
    }

    fn add_first_nodes(&mut self) {
        for path in [
            Path::root(),
            Path::introduce_domain(),
            Path::release_domain(),
        ] {
            self.nodes
                .by_path
                .insert(path, Node::new(Perms::owned_by(0)));
        }
        let mut view = self.view(0, None);
        if let Ok(path) = Path::new("/tool/xenstored") {
            // Cannot fail: domain 0 may do everything and has no quota yet.
            let _ = view.mkdir(&path);
        }
    }

    pub fn set_fault_hook(&mut self, hook: Option<FaultHook>) {
        self.hook = hook;
        self.requests = 0;
    }

    pub fn connect(&mut self, domid: u16, signal: Arc<OwnedFd>) -> ConnectionId {
        self.next_connection += 1;
        let connection = Connection {
            domid,
            decoder: Decoder::of_requests(),
            output: Vec::new(),
            signal,
            is_closed: false,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
        };
        self.connections.insert(self.next_connection, connection);
        self.next_connection
    }

    pub fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// Handles bytes from a client. Returns false if the connection is closed.
    pub fn input(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        match self.connections.get_mut(&id) {
            Some(connection) if !connection.is_closed => connection.decoder.push(bytes),
            _ => return false,
        }
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.decoder.next_packet() {
                Ok(Some(packet)) => self.serve_with_faults(id, &packet),
                Ok(None) => break,
                Err(_) => {
                    connection.close();
                    break;
                }
            }
        }
        true
    }

    /// Whether there is something to be received, if only the end of the connection.
    pub fn has_output(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_none_or(|connection| connection.is_closed || !connection.output.is_empty())
    }

    /// Moves the output for a client to `into`; none if there is none yet, 0 bytes if the connection is closed.
    pub fn take_output(&mut self, id: ConnectionId, into: &mut Vec<u8>) -> Option<usize> {
        let connection = match self.connections.get_mut(&id) {
            Some(connection) => connection,
            None => return Some(0),
        };
        let received = connection.output.len();
        if received == 0 {
            return connection.is_closed.then_some(0);
        }
        into.append(&mut connection.output);
        if !connection.is_closed {
            connection.clear_signal();
        }
        Some(received)
    }

    pub fn domain_shut_down(&mut self, domid: u16) {
        if self.introduced.contains(&domid) && self.shut_down.insert(domid) {
            self.fire_special(&Path::release_domain());
        }
    }

    pub fn domain_destroyed(&mut self, domid: u16) {
        self.shut_down.remove(&domid);
        for connection in self
            .connections
            .values_mut()
            .filter(|connection| connection.domid == domid)
        {
            connection.close();
        }
        self.forget_domain(domid);
    }

    pub fn nodes(&self) -> BTreeMap<Path, (Vec<u8>, Perms)> {
        let entry =
            |(path, node): (&Path, &Node)| (path.clone(), (node.value.clone(), node.perms.clone()));
        self.nodes.by_path.iter().map(entry).collect()
    }

    fn serve_with_faults(&mut self, id: ConnectionId, packet: &Packet) {
        match self.fault(id, packet) {
            None => {
                let outcome = self.serve(id, packet);
                self.reply(id, packet, outcome);
                self.after_reply(id, packet);
            }
            Some(Fault::Refuse(error)) => {
                // A failed end of a transaction ends it all the same.
                if packet.kind == MessageKind::TransactionEnd {
                    self.take_transaction(id, packet.transaction_id);
                }
                self.reply(id, packet, Err(error));
            }
            Some(Fault::Ignore) => {}
            Some(Fault::LoseReply) => {
                let _ = self.serve(id, packet);
            }
            Some(Fault::Disconnect) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.close();
                }
            }
            Some(Fault::Garble(bytes)) => {
                let _ = self.serve(id, packet);
                self.output(id, &bytes);
            }
        }
    }

    fn fault(&mut self, id: ConnectionId, packet: &Packet) -> Option<Fault> {
        self.requests += 1;
        let seen = SeenRequest {
            number: self.requests,
            domid: self.asker(id).domid,
            packet,
        };
        self.hook.as_mut()?(&seen)
    }

    fn serve(&mut self, id: ConnectionId, packet: &Packet) -> Outcome {
        match packet.kind {
            MessageKind::Watch => self.watch(id, &packet.payload),
            MessageKind::Unwatch => self.unwatch(id, &packet.payload),
            MessageKind::ResetWatches => self.reset(id),
            MessageKind::TransactionStart => self.start_transaction(id, packet.transaction_id),
            MessageKind::TransactionEnd => self.end_transaction(id, packet),
            MessageKind::GetDomainPath => {
                let domid = one_domid(&packet.payload)?;
                Ok(nul_ended(Path::domain(domid).as_str()))
            }
            MessageKind::Introduce
            | MessageKind::Release
            | MessageKind::Resume
            | MessageKind::SetTarget
            | MessageKind::IsDomainIntroduced
            | MessageKind::Control => self.privileged(id, packet),
            _ => self.tree_request(id, packet),
        }
    }

    fn privileged(&mut self, id: ConnectionId, packet: &Packet) -> Outcome {
        if !self.asker(id).is_privileged() {
            return Err(ErrorName::Eacces);
        }
        match packet.kind {
            MessageKind::Introduce => self.introduce(&packet.payload),
            MessageKind::Release => self.release(one_domid(&packet.payload)?),
            MessageKind::Resume => {
                let domid = self.connected(one_domid(&packet.payload)?)?;
                self.shut_down.remove(&domid);
                Ok(ok())
            }
            MessageKind::SetTarget => self.set_target(&packet.payload),
            MessageKind::IsDomainIntroduced => {
                let domid = one_domid(&packet.payload)?;
                let known = domid == DOMID_SELF || self.introduced.contains(&domid);
                Ok(nul_ended(if known { "T" } else { "F" }))
            }
            _ => self.control(&packet.payload),
        }
    }

    /// A request about nodes, inside a transaction or outside.
    fn tree_request(&mut self, id: ConnectionId, packet: &Packet) -> Outcome {
        let asker = self.asker(id);
        if packet.transaction_id == 0 {
            let mut view = self.view_of(asker, None);
            let outcome = tree_request(&mut view, packet);
            let changes = view.changes;
            self.fire(&changes);
            return outcome;
        }
        let mut overlay = self
            .take_transaction(id, packet.transaction_id)
            .ok_or(ErrorName::Enoent)?;
        let outcome = tree_request(&mut self.view_of(asker, Some(&mut overlay)), packet);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection
                .transactions
                .insert(packet.transaction_id, overlay);
        }
        outcome
    }

    fn start_transaction(&mut self, id: ConnectionId, within: u32) -> Outcome {
        let is_limited = self.is_limited(id);
        let most = self.quotas.transactions_max;
        let connection = self.connections.get_mut(&id).ok_or(ErrorName::Eio)?;
        if within != 0 {
            return Err(ErrorName::Ebusy);
        }
        if is_limited && connection.transactions.len() >= most {
            return Err(ErrorName::Enospc);
        }
        let number = connection.next_transaction;
        connection.next_transaction = number.wrapping_add(1).max(1);
        connection.transactions.insert(number, Overlay::default());
        Ok(nul_ended(&number.to_string()))
    }

    fn end_transaction(&mut self, id: ConnectionId, packet: &Packet) -> Outcome {
        let commit = match packet.payload.as_slice() {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(ErrorName::Einval),
        };
        let overlay = self
            .take_transaction(id, packet.transaction_id)
            .ok_or(ErrorName::Enoent)?;
        if commit {
            let changes = self.nodes.commit(overlay).ok_or(ErrorName::Eagain)?;
            self.fire(&changes);
        }
        Ok(ok())
    }

    fn take_transaction(&mut self, id: ConnectionId, number: u32) -> Option<Overlay> {
        self.connections.get_mut(&id)?.transactions.remove(&number)
    }

    fn watch(&mut self, id: ConnectionId, payload: &[u8]) -> Outcome {
        let watch = self.parse_watch(id, payload)?;
        let is_limited = self.is_limited(id);
        let most = self.quotas.watches_max;
        let connection = self.connections.get_mut(&id).ok_or(ErrorName::Eio)?;
        if connection.watches.iter().any(|known| known.is_same(&watch)) {
            return Err(ErrorName::Eexist);
        }
        if is_limited && connection.watches.len() >= most {
            return Err(ErrorName::Enospc);
        }
        connection.watches.push(watch);
        Ok(ok())
    }

    /// A new watch fires at once, after the reply.
    fn after_reply(&mut self, id: ConnectionId, packet: &Packet) {
        if packet.kind != MessageKind::Watch {
            return;
        }
        let Ok(watch) = self.parse_watch(id, &packet.payload) else {
            return;
        };
        let home = Path::domain(self.asker(id).domid);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send_event(&watch.shown(&watch.path, &home), &watch.token);
        }
    }

    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Outcome {
        let watch = self.parse_watch(id, payload)?;
        let connection = self.connections.get_mut(&id).ok_or(ErrorName::Eio)?;
        let position = connection
            .watches
            .iter()
            .position(|known| known.is_same(&watch));
        connection
            .watches
            .remove(position.ok_or(ErrorName::Enoent)?);
        Ok(ok())
    }

    fn parse_watch(&self, id: ConnectionId, payload: &[u8]) -> Result<Watch, ErrorName> {
        let [path, token] = two_strings(payload)?;
        let is_relative = !path.starts_with(['/', '@']);
        Ok(Watch {
            path: absolute(path, self.asker(id).domid)?,
            token: token.to_owned(),
            is_relative,
        })
    }

    fn reset(&mut self, id: ConnectionId) -> Outcome {
        let connection = self.connections.get_mut(&id).ok_or(ErrorName::Eio)?;
        connection.watches.clear();
        connection.transactions.clear();
        Ok(ok())
    }

    fn introduce(&mut self, payload: &[u8]) -> Outcome {
        let strings = strings(payload)?;
        let [domid, _gfn, port, ..] = strings.as_slice() else {
            return Err(ErrorName::Einval);
        };
        let domid: u16 = domid.parse().map_err(|_| ErrorName::Einval)?;
        let port: u32 = port.parse().map_err(|_| ErrorName::Einval)?;
        if port == 0 {
            return Err(ErrorName::Einval);
        }
        if self.introduced.insert(domid) {
            self.fire_special(&Path::introduce_domain());
        }
        Ok(ok())
    }

    fn release(&mut self, domid: u16) -> Outcome {
        if domid == 0 {
            return Err(ErrorName::Einval);
        }
        self.connected(domid)?;
        self.domain_destroyed(domid);
        Ok(ok())
    }

    fn set_target(&mut self, payload: &[u8]) -> Outcome {
        let [domid, target] = two_strings(payload)?;
        let number = |text: &str| text.parse().map_err(|_| ErrorName::Einval);
        let (domid, target) = (
            self.connected(number(domid)?)?,
            self.connected(number(target)?)?,
        );
        self.targets.insert(domid, target);
        Ok(ok())
    }

    fn connected(&self, domid: u16) -> Result<u16, ErrorName> {
        if self.introduced.contains(&domid) {
            Ok(domid)
        } else {
            Err(ErrorName::Enoent)
        }
    }

    fn control(&self, payload: &[u8]) -> Outcome {
        match strings(payload)?.as_slice() {
            ["quota"] => Ok(nul_ended(&format!(
                "nodes: {}\nwatches: {}",
                self.quotas.nodes_max, self.quotas.watches_max
            ))),
            ["print", ..] => Ok(ok()),
            _ => Err(ErrorName::Einval),
        }
    }

    fn forget_domain(&mut self, domid: u16) {
        let mut view = self.view(0, None);
        view.forget_domain(domid);
        let changes = view.changes;
        self.fire(&changes);
        self.targets.remove(&domid);
        if self.introduced.remove(&domid) {
            self.fire_special(&Path::release_domain());
        }
    }

    fn asker(&self, id: ConnectionId) -> Asker {
        let domid = self
            .connections
            .get(&id)
            .map_or(0, |connection| connection.domid);
        Asker {
            domid,
            target: self.targets.get(&domid).copied(),
        }
    }

    fn is_limited(&self, id: ConnectionId) -> bool {
        !self.asker(id).is_privileged() || self.quotas.apply_to_domain_0
    }

    fn view<'a>(&'a mut self, domid: u16, overlay: Option<&'a mut Overlay>) -> View<'a> {
        self.view_of(
            Asker {
                domid,
                target: None,
            },
            overlay,
        )
    }

    fn view_of<'a>(&'a mut self, asker: Asker, overlay: Option<&'a mut Overlay>) -> View<'a> {
        View {
            nodes: &mut self.nodes,
            overlay,
            asker,
            quotas: self.quotas,
            changes: Vec::new(),
        }
    }

    /// Sends events to all watches that match and have permission.
    fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            for connection in self.connections.values_mut() {
                let domid = connection.domid;
                let asker = Asker {
                    domid,
                    target: self.targets.get(&domid).copied(),
                };
                if change
                    .readable_by
                    .iter()
                    .any(|perms| asker.may(Need::Read, perms))
                {
                    connection.fire(change);
                }
            }
        }
    }

    fn fire_special(&mut self, path: &Path) {
        let readable_by = self
            .nodes
            .by_path
            .get(path)
            .map(|node| node.perms.clone())
            .into_iter()
            .collect();
        self.fire(&[Change {
            path: path.clone(),
            tells_ancestors: false,
            readable_by,
        }]);
    }

    fn reply(&mut self, id: ConnectionId, packet: &Packet, outcome: Outcome) {
        let (kind, payload) = match outcome {
            Ok(payload) if payload.len() > PAYLOAD_MAX => {
                (MessageKind::Error, nul_ended(ErrorName::E2big.name()))
            }
            Ok(payload) => (packet.kind, payload),
            Err(error) => (MessageKind::Error, nul_ended(error.name())),
        };
        let mut bytes = Vec::new();
        // Cannot fail: the length has just been looked at.
        let _ = wire::encode(
            kind,
            packet.request_id,
            packet.transaction_id,
            &payload,
            &mut bytes,
        );
        self.output(id, &bytes);
    }

    fn output(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(bytes);
        }
    }
}

impl Connection {
    fn fire(&mut self, change: &Change) {
        let home = Path::domain(self.domid);
        let matches = |watch: &&Watch| {
            watch.path == change.path
                || change.tells_ancestors && change.path.is_at_or_below(&watch.path)
        };
        let events: Vec<(String, String)> = self
            .watches
            .iter()
            .filter(matches)
            .map(|watch| (watch.shown(&change.path, &home), watch.token.clone()))
            .collect();
        for (path, token) in events {
            self.send_event(&path, &token);
        }
    }

    fn send_event(&mut self, path: &str, token: &str) {
        let payload = [nul_ended(path), nul_ended(token)].concat();
        let mut bytes = Vec::new();
        // xenstored drops events that do not fit in a packet too.
        if wire::encode(MessageKind::WatchEvent, 0, 0, &payload, &mut bytes).is_ok() {
            self.send(&bytes);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if !self.is_closed {
            self.output.extend_from_slice(bytes);
            self.set_signal();
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.watches.clear();
        self.transactions.clear();
        self.set_signal();
    }

    fn set_signal(&self) {
        // Fails only when it is set 2^64 times over.
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }

    fn clear_signal(&self) {
        // Fails only when it is not set.
        let _ = rustix::io::read(&self.signal, &mut [0; 8]);
    }
}

impl Watch {
    fn is_same(&self, other: &Watch) -> bool {
        self.path == other.path && self.token == other.token
    }

    /// The path in an event of this watch.
    fn shown(&self, path: &Path, home: &Path) -> String {
        let relative = path
            .as_str()
            .strip_prefix(home.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        match relative {
            Some(relative) if self.is_relative => relative.to_owned(),
            _ => path.to_string(),
        }
    }
}

fn tree_request(view: &mut View<'_>, packet: &Packet) -> Outcome {
    let (path, rest) = split_path(&packet.payload, view.asker.domid)?;
    let is_alone = rest.is_empty();
    if path.is_special() && !matches!(packet.kind, MessageKind::GetPerms | MessageKind::SetPerms) {
        return Err(ErrorName::Einval);
    }
    match packet.kind {
        MessageKind::Read if is_alone => Ok(view.get(&path, Need::Read)?.value),
        MessageKind::Directory if is_alone => Ok(name_list(&view.get(&path, Need::Read)?)),
        MessageKind::DirectoryPart => directory_part(&view.get(&path, Need::Read)?, rest),
        MessageKind::GetPerms if is_alone => Ok(view.get(&path, Need::Read)?.perms.to_payload()),
        MessageKind::Write => view.write(&path, rest).map(|()| ok()),
        MessageKind::Mkdir if is_alone => view.mkdir(&path).map(|()| ok()),
        MessageKind::Rm if is_alone => view.rm(&path).map(|()| ok()),
        MessageKind::SetPerms => {
            let perms = Perms::from_payload(rest).map_err(|_| ErrorName::Einval)?;
            view.set_perms(&path, perms).map(|()| ok())
        }
        MessageKind::Read
        | MessageKind::Directory
        | MessageKind::GetPerms
        | MessageKind::Mkdir
        | MessageKind::Rm => Err(ErrorName::Einval),
        _ => Err(ErrorName::Enosys),
    }
}

fn name_list(node: &Node) -> Vec<u8> {
    node.children
        .iter()
        .flat_map(|name| nul_ended(name))
        .collect()
}

/// A part of a long list: generation, as many names as fit, and an empty name at the list's end.
fn directory_part(node: &Node, offset: &[u8]) -> Outcome {
    let offset = offset
        .strip_suffix(b"\0")
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let offset: usize = offset
        .and_then(|digits| digits.parse().ok())
        .ok_or(ErrorName::Einval)?;
    let mut reply = nul_ended(&node.generation.to_string());
    let list = name_list(node);
    let Some(rest) = list.get(offset..).filter(|rest| !rest.is_empty()) else {
        reply.push(0);
        return Ok(reply);
    };
    let room = PAYLOAD_MAX - reply.len() - 1;
    if rest.len() <= room {
        reply.extend_from_slice(rest);
        reply.push(0);
        return Ok(reply);
    }
    let fitting = rest
        .get(..room)
        .and_then(|piece| piece.iter().rposition(|&byte| byte == 0))
        .map_or(0, |end| end + 1);
    reply.extend_from_slice(rest.get(..fitting).unwrap_or_default());
    Ok(reply)
}

/// Splits a payload into the path at its start, made absolute, and the rest.
fn split_path(payload: &[u8], domid: u16) -> Result<(Path, &[u8]), ErrorName> {
    let end = payload
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(ErrorName::Einval)?;
    let (path, rest) = payload.split_at(end);
    let path = std::str::from_utf8(path).map_err(|_| ErrorName::Einval)?;
    Ok((absolute(path, domid)?, rest.get(1..).unwrap_or_default()))
}

fn absolute(path: &str, domid: u16) -> Result<Path, ErrorName> {
    let path = Path::new(path).map_err(|_| ErrorName::Einval)?;
    if path.is_absolute() || path.is_special() {
        return Ok(path);
    }
    Path::domain(domid)
        .join(path.as_str())
        .map_err(|_| ErrorName::Einval)
}

fn strings(payload: &[u8]) -> Result<Vec<&str>, ErrorName> {
    let strings = nul_terminated(payload).map_err(|_| ErrorName::Einval)?;
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| ErrorName::Einval);
    strings.into_iter().map(text).collect()
}

fn two_strings(payload: &[u8]) -> Result<[&str; 2], ErrorName> {
    strings(payload)?.try_into().map_err(|_| ErrorName::Einval)
}

fn one_domid(payload: &[u8]) -> Result<u16, ErrorName> {
    match strings(payload)?.as_slice() {
        [domid] => domid.parse().map_err(|_| ErrorName::Einval),
        _ => Err(ErrorName::Einval),
    }
}

fn nul_ended(text: &str) -> Vec<u8> {
    crate::batch::nul_ended(text)
}

/// The payload of a plain success.
fn ok() -> Vec<u8> {
    b"OK\0".to_vec()
}
