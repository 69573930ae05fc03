//! The nodes of the in-memory xenstored, their permissions, and transactions on them.

use super::Quotas;
use crate::path::Path;
use crate::perms::{Access, Perms};
use crate::wire::ErrorName;
use std::collections::{BTreeMap, BTreeSet};

/// A node with its value, permissions and children.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Vec<u8>,
    pub perms: Perms,
    /// In the order of their creation.
    pub children: Vec<String>,
    /// Counter that grows with each change of the tree. It shows whether the node has changed.
    pub generation: u64,
}

impl Node {
    pub fn new(perms: Perms) -> Self {
        Self {
            value: Vec::new(),
            perms,
            children: Vec::new(),
            generation: 0,
        }
    }

    fn size_bytes(&self) -> usize {
        let names: usize = self.children.iter().map(|name| name.len() + 1).sum();
        self.value.len() + names + 8 * (1 + self.perms.grants.len())
    }
}

/// All nodes of the store, by path.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub by_path: BTreeMap<Path, Node>,
    pub generation: u64,
}

/// The nodes that a transaction has read and changed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    touched: BTreeMap<Path, Touched>,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Touched {
    /// Generation when first touched; none if the node was absent.
    seen: Option<u64>,
    node: Option<Node>,
    is_changed: bool,
}

/// A change that watches may report.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub path: Path,
    /// Does it concern watches of the nodes above too, or only those of the very node (below a removed one)?
    pub tells_ancestors: bool,
    /// Permissions before and after the change, of the node and its parent. A domain that may read by one of them
    /// gets the event.
    pub readable_by: Vec<Perms>,
}

/// The domain that sends a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub domid: u16,
    /// Domain whose rights the connection also has.
    pub target: Option<u16>,
}

/// The right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Read,
    Write,
    Own,
}

impl Asker {
    pub fn is_privileged(self) -> bool {
        self.domid == 0
    }

    fn is(self, domid: u16) -> bool {
        self.domid == domid || self.target == Some(domid)
    }

    pub fn may(self, need: Need, perms: &Perms) -> bool {
        if self.is_privileged() || self.is(perms.owner) {
            return true;
        }
        let access: Access = perms
            .grants
            .iter()
            .find(|grant| self.is(grant.domid))
            .map_or(perms.others, |grant| grant.access);
        match need {
            Need::Read => access.can_read(),
            Need::Write => access.can_write(),
            Need::Own => false,
        }
    }
}

/// The tree as one request sees it, inside a transaction or outside.
pub(super) struct View<'a> {
    pub nodes: &'a mut Nodes,
    pub overlay: Option<&'a mut Overlay>,
    pub asker: Asker,
    pub quotas: Quotas,
    /// Changes outside a transaction that watches must report.
    pub changes: Vec<Change>,
}

impl View<'_> {
    /// Reads a node that the asker needs to be allowed to read, write or own.
    pub fn get(&mut self, path: &Path, need: Need) -> Result<Node, ErrorName> {
        match self.node(path) {
            Some(node) if self.asker.may(need, &node.perms) => Ok(node),
            Some(_) => Err(ErrorName::Eacces),
            None if self.may_know_absence(path, need) => Err(ErrorName::Enoent),
            None => Err(ErrorName::Eacces),
        }
    }

    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), ErrorName> {
        let mut node = match self.get(path, Need::Write) {
            Err(ErrorName::Enoent) => self.create(path)?,
            result => result?,
        };
        node.value = value.to_vec();
        let perms = node.perms.clone();
        self.put(path, node)?;
        self.changed(path, true, vec![perms]);
        Ok(())
    }

    pub fn mkdir(&mut self, path: &Path) -> Result<(), ErrorName> {
        match self.get(path, Need::Write) {
            Err(ErrorName::Enoent) => {
                let node = self.create(path)?;
                self.changed(path, true, vec![node.perms]);
                Ok(())
            }
            result => result.map(drop),
        }
    }

    pub fn set_perms(&mut self, path: &Path, perms: Perms) -> Result<(), ErrorName> {
        if self.is_limited() && 1 + perms.grants.len() > self.quotas.perms_max {
            return Err(ErrorName::Enospc);
        }
        let mut node = self.get(path, Need::Own)?;
        if !self.asker.is_privileged() && perms.owner != node.perms.owner {
            return Err(ErrorName::Eperm);
        }
        let before = std::mem::replace(&mut node.perms, perms.clone());
        self.put(path, node)?;
        self.changed(path, true, vec![before, perms]);
        Ok(())
    }

    pub fn rm(&mut self, path: &Path) -> Result<(), ErrorName> {
        let parent = path.parent();
        match self.get(path, Need::Write) {
            Err(ErrorName::Enoent) => {
                let parent_exists = parent.is_some_and(|parent| self.node(&parent).is_some());
                return if parent_exists {
                    Ok(())
                } else {
                    Err(ErrorName::Enoent)
                };
            }
            result => result.map(drop)?,
        }
        let parent = parent.ok_or(ErrorName::Einval)?;
        self.remove_subtree(path, true);
        let mut above = self.node(&parent).ok_or(ErrorName::Einval)?;
        above.children.retain(|child| child != path.name());
        self.put_unchecked(&parent, Some(above));
        Ok(())
    }

    /// Removes everything of a domain that has ended: its nodes, and its rights to others.
    pub fn forget_domain(&mut self, domid: u16) {
        let owned = |node: &Node| node.perms.owner == domid;
        let paths: Vec<Path> = self
            .nodes
            .by_path
            .iter()
            .filter(|(_, node)| owned(node))
            .map(|(path, _)| path.clone())
            .collect();
        for path in paths {
            // The node may be gone already, with its parent.
            let _ = self.rm(&path);
        }
        for node in self.nodes.by_path.values_mut() {
            node.perms.grants.retain(|grant| grant.domid != domid);
        }
    }

    /// The node; a transaction notes that it has been looked at.
    fn node(&mut self, path: &Path) -> Option<Node> {
        let stored = self.nodes.by_path.get(path);
        let Some(overlay) = &mut self.overlay else {
            return stored.cloned();
        };
        let first_look = || Touched {
            seen: stored.map(|node| node.generation),
            node: stored.cloned(),
            is_changed: false,
        };
        overlay
            .touched
            .entry(path.clone())
            .or_insert_with(first_look)
            .node
            .clone()
    }

    /// May the asker learn that a node does not exist? The nearest node above decides.
    fn may_know_absence(&mut self, path: &Path, need: Need) -> bool {
        let mut above = path.parent();
        while let Some(path) = above {
            if let Some(node) = self.node(&path) {
                return self.asker.may(need, &node.perms);
            }
            above = path.parent();
        }
        false
    }

    /// Creates a node and its missing parents. It inherits its parent's permissions; unprivileged domains own their
    /// nodes.
    fn create(&mut self, path: &Path) -> Result<Node, ErrorName> {
        let parent_path = path.parent().ok_or(ErrorName::Einval)?;
        let mut parent = match self.node(&parent_path) {
            Some(parent) => parent,
            None => self.create(&parent_path)?,
        };
        let mut node = Node::new(parent.perms.clone());
        if !self.asker.is_privileged() {
            node.perms.owner = self.asker.domid;
        }
        if self.is_limited() && self.owned_count(node.perms.owner) >= self.quotas.nodes_max {
            return Err(ErrorName::Enospc);
        }
        parent.children.push(path.name().to_owned());
        self.put(&parent_path, parent)?;
        self.put(path, node.clone())?;
        Ok(node)
    }

    fn remove_subtree(&mut self, path: &Path, tells_ancestors: bool) {
        let Some(node) = self.node(path) else { return };
        for child in &node.children {
            if let Ok(child) = path.join(child) {
                self.remove_subtree(&child, false);
            }
        }
        self.changed(path, tells_ancestors, vec![node.perms]);
        self.put_unchecked(path, None);
    }

    fn put(&mut self, path: &Path, node: Node) -> Result<(), ErrorName> {
        if self.is_limited() && node.size_bytes() > self.quotas.node_size_max_bytes {
            return Err(ErrorName::Enospc);
        }
        self.put_unchecked(path, Some(node));
        Ok(())
    }

    fn put_unchecked(&mut self, path: &Path, node: Option<Node>) {
        match &mut self.overlay {
            Some(overlay) => overlay.put(self.nodes, path, node),
            None => self.nodes.put(path, node),
        }
    }

    fn changed(&mut self, path: &Path, tells_ancestors: bool, mut readable_by: Vec<Perms>) {
        if let Some(parent) = path.parent().and_then(|parent| self.node(&parent)) {
            readable_by.push(parent.perms);
        }
        let change = Change {
            path: path.clone(),
            tells_ancestors,
            readable_by,
        };
        match &mut self.overlay {
            Some(overlay) => overlay.note(change),
            None => self.changes.push(change),
        }
    }

    fn is_limited(&self) -> bool {
        !self.asker.is_privileged() || self.quotas.apply_to_domain_0
    }

    /// Number of nodes that a domain owns, as this request sees them.
    fn owned_count(&self, domid: u16) -> usize {
        let no_touched = BTreeMap::new();
        let touched = self
            .overlay
            .as_ref()
            .map_or(&no_touched, |overlay| &overlay.touched);
        let paths: BTreeSet<&Path> = self.nodes.by_path.keys().chain(touched.keys()).collect();
        let node = |path: &Path| match touched.get(path) {
            Some(touched) => touched.node.as_ref(),
            None => self.nodes.by_path.get(path),
        };
        paths
            .into_iter()
            .filter_map(node)
            .filter(|node| node.perms.owner == domid)
            .count()
    }
}

impl Nodes {
    fn put(&mut self, path: &Path, node: Option<Node>) {
        self.generation += 1;
        match node {
            Some(node) => {
                self.by_path.insert(
                    path.clone(),
                    Node {
                        generation: self.generation,
                        ..node
                    },
                );
            }
            None => {
                self.by_path.remove(path);
            }
        }
    }

    /// Applies the changes of a transaction. Applies none if a node that it touched has changed since.
    pub fn commit(&mut self, overlay: Overlay) -> Option<Vec<Change>> {
        let generation = |path: &Path| self.by_path.get(path).map(|node| node.generation);
        if overlay
            .touched
            .iter()
            .any(|(path, touched)| touched.seen != generation(path))
        {
            return None;
        }
        for (path, touched) in overlay.touched {
            if touched.is_changed {
                self.put(&path, touched.node);
            }
        }
        Some(overlay.changes)
    }
}

impl Overlay {
    fn put(&mut self, nodes: &Nodes, path: &Path, node: Option<Node>) {
        let seen = nodes.by_path.get(path).map(|stored| stored.generation);
        let touched = self.touched.entry(path.clone()).or_insert(Touched {
            seen,
            node: None,
            is_changed: true,
        });
        touched.node = node;
        touched.is_changed = true;
    }

    /// Records one event for each path, at the commit.
    fn note(&mut self, change: Change) {
        match self
            .changes
            .iter_mut()
            .find(|known| known.path == change.path)
        {
            Some(known) => known.tells_ancestors |= change.tells_ancestors,
            None => self.changes.push(change),
        }
    }
}
