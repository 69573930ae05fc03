//! Whatever a client sends to the in-memory xenstored: it stands, and its nodes form a tree.
#![no_main]

use std::time::Instant;
use xenstore::mem::MemStore;
use xenstore::transport::Transport;
use xenstore::{Perms, Tree};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let store = MemStore::new();
    store.set_keeps_time(false);
    let mut control = store.client(0).unwrap();
    let home = xenstore::Path::domain(5);
    control.mkdir(&home).unwrap();
    control.set_perms(&home, &Perms::owned_by(5)).unwrap();
    // The first byte says who sends the rest: domain 0 or a guest.
    if let Some((sender, requests)) = data.split_first() {
        let mut transport = store.connect(if sender % 2 == 0 { 0 } else { 5 }).unwrap();
        let _ = transport.send(requests, Instant::now());
    }
    let nodes = store.nodes();
    for path in nodes.keys().filter(|path| path.is_absolute()) {
        for name in control.directory(path).unwrap() {
            assert!(nodes.contains_key(&path.join(&name).unwrap()));
        }
        assert!(path.parent().is_none_or(|parent| nodes.contains_key(&parent)));
    }
});
