//! The client against the in-memory xenstored: each operation, batches, transactions, watches, faults, counts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use xenstore::mem::{Fault, MemStore, Quotas};
use xenstore::transport::Limits;
use xenstore::{
    Access, Batch, Client, Error, ErrorName, MessageKind, Path, Perms, QuotaKind, RetryPolicy,
    Settings, Stats, Tree, WatchEvent,
};

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

fn event(at: &str, token: &str) -> WatchEvent {
    WatchEvent {
        path: path(at),
        token: token.to_owned(),
    }
}

/// A store in which no time passes, and a client of domain 0.
fn fresh() -> (MemStore, Client) {
    let store = MemStore::new();
    store.set_keeps_time(false);
    let client = store.client(0).unwrap();
    (store, client)
}

fn events(client: &mut Client) -> Vec<WatchEvent> {
    std::iter::from_fn(|| client.try_next_event().unwrap()).collect()
}

#[test]
fn values_are_written_read_and_removed() {
    let (_store, mut client) = fresh();
    let node = path("/vm/some/name");
    assert_eq!(client.read_opt(&node).unwrap(), None);
    assert!(client.read(&node).unwrap_err().is_not_found());
    client.write(&node, b"bin\0ary\xff").unwrap();
    assert_eq!(client.read(&node).unwrap(), b"bin\0ary\xff");
    assert!(matches!(
        client.read_text(&node),
        Err(Error::NotText { .. })
    ));
    client.write(&node, b"text").unwrap();
    assert_eq!(client.read_text(&node).unwrap(), "text");
    assert_eq!(client.read(&path("/vm/some")).unwrap(), b"");
    assert!(client.exists(&path("/vm/some")).unwrap());
    client.mkdir(&path("/vm/empty")).unwrap();
    assert_eq!(client.directory(&path("/vm")).unwrap(), ["some", "empty"]);
    client.rm(&path("/vm/some")).unwrap();
    assert_eq!(client.directory(&path("/vm")).unwrap(), ["empty"]);
    assert!(!client.exists(&node).unwrap());
}

#[test]
fn removing_what_is_not_there_succeeds() {
    let (_store, mut client) = fresh();
    client.rm(&path("/absent")).unwrap();
    client.rm(&path("/absent/below")).unwrap();
}

#[test]
fn removing_the_root_is_refused_in_words() {
    let (_store, mut client) = fresh();
    let error = client.rm(&Path::root()).unwrap_err();
    assert!(matches!(
        error,
        Error::Refused {
            operation: MessageKind::Rm,
            reason: ErrorName::Einval,
            ..
        }
    ));
}

#[test]
fn permissions_are_inherited_set_and_obeyed() {
    let (store, mut control) = fresh();
    let mut guest = store.client(5).unwrap();
    let home = Path::domain(5);
    let secret = home.join("secret").unwrap();
    let data = home.join("data").unwrap();
    control.mkdir(&home).unwrap();
    control.set_perms(&home, &"n0,r5".parse().unwrap()).unwrap();
    control.write(&secret, b"s").unwrap();
    control.set_perms(&secret, &Perms::owned_by(0)).unwrap();
    control.mkdir(&data).unwrap();
    control.set_perms(&data, &Perms::owned_by(5)).unwrap();

    assert_eq!(control.get_perms(&home).unwrap().to_string(), "n0,r5");
    assert!(matches!(guest.read(&secret), Err(Error::Permission { .. })));
    assert!(matches!(
        guest.write(&home, b"x"),
        Err(Error::Permission { .. })
    ));
    guest.write(&path("data/x"), b"x").unwrap();
    assert_eq!(control.read(&data.join("x").unwrap()).unwrap(), b"x");
    assert_eq!(
        guest.get_perms(&path("data/x")).unwrap(),
        Perms::owned_by(5)
    );
    assert!(matches!(
        guest.set_perms(&data, &Perms::owned_by(0)),
        Err(Error::Permission { .. })
    ));
    // Absence is told only to those who may read the node above.
    assert!(
        guest
            .read(&home.join("absent").unwrap())
            .unwrap_err()
            .is_not_found()
    );
    assert!(matches!(
        guest.read(&path("/vm/absent")),
        Err(Error::Permission { .. })
    ));
    // The device model's domain gets the rights of its target.
    let mut stub = store.client(6).unwrap();
    control.introduce(5, 1, 1).unwrap();
    control.introduce(6, 1, 1).unwrap();
    assert!(stub.read(&data).is_err());
    control.set_target(6, 5).unwrap();
    stub.write(&data, b"from the device model").unwrap();
}

#[test]
fn a_batch_takes_one_round_trip_and_keeps_order() {
    let (_store, mut client) = fresh();
    let home = Path::domain(7);
    let mut batch = Batch::new();
    batch.mkdir(&home);
    batch.set_perms(&home, &Perms::owned_by(0).with(7, Access::Read));
    batch.write(&home.join("name").unwrap(), b"guest");
    let name = batch.read(&home.join("name").unwrap());
    let absent = batch.read_opt(&home.join("absent").unwrap());
    batch.rm(&home.join("name").unwrap());
    let removed = batch.read_opt(&home.join("name").unwrap());
    let before = client.stats();
    let replies = client.run(&batch).unwrap();
    assert_eq!(replies.value(name), Some(b"guest".as_slice()));
    assert_eq!(replies.value(absent), None);
    assert_eq!(replies.value(removed), None);
    assert_eq!(replies.value(99), None);
    let after = client.stats();
    assert_eq!(after.round_trips - before.round_trips, 1);
    assert_eq!(after.requests - before.requests, batch.len() as u64);
}

#[test]
fn an_empty_batch_asks_nothing() {
    let (_store, mut client) = fresh();
    client.run(&Batch::new()).unwrap();
    assert_eq!(client.stats(), Stats::default());
}

#[test]
fn large_batches_are_cut_by_number_and_by_size() {
    let (_store, mut client) = fresh();
    let round_trips = |client: &mut Client, count: usize, size: usize| {
        let mut batch = Batch::new();
        for number in 0..count {
            batch.write(&path(&format!("/big/{number}")), &vec![b'x'; size]);
        }
        let before = client.stats().round_trips;
        client.run(&batch).unwrap();
        client.stats().round_trips - before
    };
    assert_eq!(round_trips(&mut client, 64, 1), 1);
    assert_eq!(round_trips(&mut client, 65, 1), 2);
    assert_eq!(round_trips(&mut client, 17, 4000), 3);
}

#[test]
fn over_a_device_there_is_one_request_at_a_time() {
    let store = MemStore::new();
    let limits = Limits {
        requests_in_flight_max: 1,
        payload_max_bytes: 4080,
    };
    let transport = store.connect(0).unwrap().with_limits(limits);
    let mut client = Client::new(Box::new(transport), Settings::default());
    let mut batch = Batch::new();
    for number in 0..5 {
        batch.write(&path(&format!("/n/{number}")), b"");
    }
    client.run(&batch).unwrap();
    assert_eq!(client.stats().round_trips, 5);
    let error = client.write(&path("/n"), &[b'x'; 4078]).unwrap_err();
    assert!(matches!(
        error,
        Error::TooLarge {
            size_bytes: 4081,
            limit_bytes: 4080,
            ..
        }
    ));
    client.write(&path("/n"), &[b'x'; 4077]).unwrap();
}

#[test]
fn the_first_failing_request_of_a_batch_is_named() {
    let (_store, mut client) = fresh();
    let mut batch = Batch::new();
    batch.write(&path("/ok"), b"");
    batch.read(&path("/missing-one"));
    batch.read(&path("/missing-two"));
    let error = client.run(&batch).unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { operation: MessageKind::Read, object } if object == "/missing-one")
    );
    // The connection is in step still.
    assert_eq!(client.read(&path("/ok")).unwrap(), b"");
}

#[test]
fn too_large_a_value_is_refused_before_anything_is_sent() {
    let (_store, mut client) = fresh();
    let mut batch = Batch::new();
    batch.write(&path("/ok"), b"");
    batch.write(&path("/big"), &[0; 4096]);
    let error = client.run(&batch).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { object, size_bytes: 4101, .. } if object == "/big"));
    assert_eq!(client.stats(), Stats::default());
    client.write(&path("/big"), &[0; 4096 - 5]).unwrap();
}

#[test]
fn lists_too_long_for_a_packet_are_read_in_pieces() {
    let (_store, mut client) = fresh();
    let names: Vec<String> = (0..3000).map(|number| format!("child-{number}")).collect();
    let mut batch = Batch::new();
    for name in &names {
        batch.mkdir(&path("/many").join(name).unwrap());
    }
    client.run(&batch).unwrap();
    assert_eq!(client.directory(&path("/many")).unwrap(), names);
}

#[test]
fn a_list_that_changes_between_pieces_is_begun_again() {
    let (store, mut client) = fresh();
    let mut batch = Batch::new();
    for number in 0..2000 {
        batch.mkdir(&path(&format!("/many/{number}")));
    }
    client.run(&batch).unwrap();
    // The second piece comes with another generation, once.
    let pieces = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&pieces);
    store.set_fault_hook(move |request| {
        if request.packet.kind == MessageKind::DirectoryPart {
            *seen.lock().unwrap() += 1;
            if *seen.lock().unwrap() == 2 {
                // Generation 0 is never that of a node that was changed.
                let payload = b"0\0stale\0\0";
                let mut reply = Vec::new();
                xenstore::wire::encode(
                    request.packet.kind,
                    request.packet.request_id,
                    0,
                    payload,
                    &mut reply,
                )
                .unwrap();
                return Some(Fault::Garble(reply));
            }
        }
        None
    });
    assert_eq!(client.directory(&path("/many")).unwrap().len(), 2000);
    assert!(*pieces.lock().unwrap() > 2);
}

#[test]
fn an_old_xenstored_without_pieces_is_told_so() {
    let (store, mut client) = fresh();
    store.set_fault_hook(|request| match request.packet.kind {
        MessageKind::Directory => Some(Fault::Refuse(ErrorName::E2big)),
        MessageKind::DirectoryPart => Some(Fault::Refuse(ErrorName::Enosys)),
        _ => None,
    });
    let error = client.directory(&Path::root()).unwrap_err();
    assert!(matches!(
        error,
        Error::Refused {
            reason: ErrorName::Enosys,
            ..
        }
    ));
}

#[test]
fn a_transaction_shows_its_changes_all_at_once() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    let length = client
        .transaction(|transaction| {
            transaction.write(&path("/a"), b"1")?;
            transaction.write(&path("/b"), b"2")?;
            assert_eq!(transaction.read(&path("/a"))?, b"1");
            assert_eq!(other.read_opt(&path("/a"))?, None);
            Ok(transaction.directory(&Path::root())?.len())
        })
        .unwrap();
    assert_eq!(length, 3);
    assert_eq!(other.read(&path("/b")).unwrap(), b"2");
}

#[test]
fn a_transaction_with_a_batch_takes_three_round_trips() {
    let (_store, mut client) = fresh();
    let mut batch = Batch::new();
    for number in 0..40 {
        batch.write(&path(&format!("/tree/{number}")), b"x");
    }
    client
        .transaction(|transaction| transaction.run(&batch))
        .unwrap();
    assert_eq!(client.stats().round_trips, 3);
    assert_eq!(client.stats().requests, 42);
    assert_eq!(client.stats().transactions, 1);
}

#[test]
fn a_failing_body_leaves_nothing_behind() {
    let (store, mut client) = fresh();
    let before = store.nodes();
    let result: Result<(), Error> = client.transaction(|transaction| {
        transaction.write(&path("/a"), b"1")?;
        transaction.read(&path("/missing")).map(drop)
    });
    assert!(result.unwrap_err().is_not_found());
    assert_eq!(store.nodes(), before);
    assert_eq!(client.stats().requests, 4);
}

#[test]
fn a_body_may_have_errors_of_its_own() {
    #[derive(Debug)]
    enum Own {
        Store,
        Refused(&'static str),
    }
    impl From<Error> for Own {
        fn from(_: Error) -> Self {
            Own::Store
        }
    }
    let (_store, mut client) = fresh();
    let result: Result<(), Own> = client.try_transaction(|_| Err(Own::Refused("no")));
    assert!(matches!(result, Err(Own::Refused("no"))));
    let result: Result<Vec<u8>, Own> =
        client.try_transaction(|transaction| Ok(transaction.read(&path("/missing"))?));
    assert!(matches!(result, Err(Own::Store)));
}

#[test]
fn a_conflict_is_tried_again_until_it_succeeds() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    client.write(&path("/counter"), b"0").unwrap();
    let mut tries = 0;
    client
        .transaction(|transaction| {
            tries += 1;
            let value: u32 = transaction.read_text(&path("/counter"))?.parse().unwrap();
            if tries < 4 {
                other.write(&path("/counter"), (value + 10).to_string().as_bytes())?;
            }
            transaction.write(&path("/counter"), (value + 1).to_string().as_bytes())
        })
        .unwrap();
    assert_eq!(tries, 4);
    assert_eq!(client.read(&path("/counter")).unwrap(), b"31");
    assert_eq!(client.stats().conflicts, 3);
    assert_eq!(client.stats().transactions, 4);
}

#[test]
fn changes_elsewhere_are_no_conflict() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    client.mkdir(&path("/mine")).unwrap();
    client.mkdir(&path("/theirs")).unwrap();
    client
        .transaction(|transaction| {
            other.write(&path("/theirs/x"), b"1")?;
            transaction.write(&path("/mine/x"), b"1")
        })
        .unwrap();
    assert_eq!(client.stats().conflicts, 0);
}

#[test]
fn conflict_for_ever_ends_with_the_number_of_tries() {
    let (store, mut client) = fresh();
    client.set_settings(Settings {
        retry: RetryPolicy {
            attempts_max: 5,
            ..RetryPolicy::default()
        },
        ..Settings::default()
    });
    store.set_fault_hook(|request| {
        let is_commit =
            request.packet.kind == MessageKind::TransactionEnd && request.packet.payload == b"T\0";
        is_commit.then_some(Fault::Refuse(ErrorName::Eagain))
    });
    let mut tries = 0;
    let error = client
        .transaction(|transaction| {
            tries += 1;
            transaction.write(&path("/a"), b"1")
        })
        .unwrap_err();
    assert!(
        matches!(error, Error::ConflictExhausted { attempts: 5, .. }),
        "{error}"
    );
    assert_eq!(tries, 5);
    assert!(!store.nodes().contains_key(&path("/a")));
}

#[test]
fn a_quota_is_told_by_kind_and_path() {
    let (store, mut client) = fresh();
    for (reason, kind) in [
        (ErrorName::Enospc, QuotaKind::Count),
        (ErrorName::Equota, QuotaKind::Count),
        (ErrorName::Edquot, QuotaKind::Count),
        (ErrorName::E2big, QuotaKind::Size),
        (ErrorName::Enomem, QuotaKind::Memory),
    ] {
        let refuse = reason.clone();
        store.set_fault_hook(move |_| Some(Fault::Refuse(refuse.clone())));
        let error = client.write(&path("/a/b"), b"x").unwrap_err();
        assert!(
            matches!(&error, Error::Quota { kind: got, reason: why, object, .. } if *got == kind && *why == reason && object == "/a/b"),
            "{error}"
        );
    }
}

#[test]
fn quotas_of_the_store_hold_for_guests() {
    let (store, mut control) = fresh();
    let mut guest = store.client(5).unwrap();
    store.set_quotas(Quotas {
        nodes_max: 3,
        node_size_max_bytes: 100,
        watches_max: 1,
        transactions_max: 1,
        ..Quotas::default()
    });
    control.mkdir(&Path::domain(5)).unwrap();
    control
        .set_perms(&Path::domain(5), &Perms::owned_by(5))
        .unwrap();
    let is_over = |result: Result<(), Error>| {
        matches!(
            result,
            Err(Error::Quota {
                reason: ErrorName::Enospc,
                ..
            })
        )
    };
    assert!(is_over(guest.write(&path("big"), &[b'x'; 101])));
    guest.rm(&path("big")).unwrap();
    guest.write(&path("a"), b"").unwrap();
    guest.write(&path("b"), b"").unwrap();
    assert!(is_over(guest.write(&path("c"), b"")));
    assert!(is_over(
        guest.transaction(|transaction| transaction.write(&path("c"), b""))
    ));
    guest.watch(&path("a"), "t").unwrap();
    assert!(is_over(guest.watch(&path("b"), "t")));
    let five = "n5,r1,r2,r3,r4,r6".parse().unwrap();
    assert!(is_over(guest.set_perms(&path("a"), &five)));
    // Domain 0 is exempt, unless a test wants to see it refused.
    control.write(&path("/x/y/z/w"), &[b'x'; 3000]).unwrap();
    store.set_quotas(Quotas {
        nodes_max: 3,
        apply_to_domain_0: true,
        ..Quotas::default()
    });
    assert!(is_over(control.write(&path("/one-more"), b"")));
}

#[test]
fn watches_tell_of_what_is_at_and_below() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    client.watch(&path("/a"), "token").unwrap();
    assert_eq!(events(&mut client), [event("/a", "token")]);
    other.write(&path("/a/b/c"), b"1").unwrap();
    other.write(&path("/ab"), b"1").unwrap();
    other.set_perms(&path("/a"), &Perms::owned_by(3)).unwrap();
    assert_eq!(
        events(&mut client),
        [event("/a/b/c", "token"), event("/a", "token")]
    );
    assert!(matches!(
        client.watch(&path("/a"), "token"),
        Err(Error::Refused {
            reason: ErrorName::Eexist,
            ..
        })
    ));
    client.unwatch(&path("/a"), "token").unwrap();
    other.write(&path("/a"), b"2").unwrap();
    assert_eq!(events(&mut client), []);
    assert!(
        client
            .unwatch(&path("/a"), "token")
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn removing_above_a_watched_node_is_told() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    other.write(&path("/a/b/c"), b"1").unwrap();
    client.watch(&path("/a/b"), "token").unwrap();
    events(&mut client);
    other.rm(&path("/a")).unwrap();
    assert_eq!(events(&mut client), [event("/a/b", "token")]);
}

#[test]
fn transactions_tell_watches_at_the_commit() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    client.watch(&path("/a"), "token").unwrap();
    events(&mut client);
    other
        .transaction(|transaction| {
            transaction.write(&path("/a/x"), b"1")?;
            transaction.write(&path("/a/x"), b"2")?;
            assert_eq!(events(&mut client), []);
            Ok(())
        })
        .unwrap();
    assert_eq!(events(&mut client), [event("/a/x", "token")]);
}

#[test]
fn relative_watches_tell_relative_paths() {
    let (store, mut control) = fresh();
    let mut guest = store.client(5).unwrap();
    control.mkdir(&Path::domain(5)).unwrap();
    control
        .set_perms(&Path::domain(5), &Perms::owned_by(0).with(5, Access::Read))
        .unwrap();
    guest.watch(&path("device"), "token").unwrap();
    assert_eq!(events(&mut guest), [event("device", "token")]);
    control
        .write(&path("/local/domain/5/device/vbd"), b"")
        .unwrap();
    assert_eq!(events(&mut guest), [event("device/vbd", "token")]);
}

#[test]
fn watches_do_not_tell_what_may_not_be_read() {
    let (store, mut control) = fresh();
    let mut guest = store.client(5).unwrap();
    guest.watch(&path("/secret"), "token").unwrap();
    events(&mut guest);
    control.write(&path("/secret/x"), b"1").unwrap();
    assert_eq!(events(&mut guest), []);
}

#[test]
fn events_between_replies_are_kept() {
    let (_store, mut client) = fresh();
    client.watch(&path("/a"), "token").unwrap();
    let mut batch = Batch::new();
    for number in 0..10 {
        batch.write(&path(&format!("/a/{number}")), b"");
        batch.read(&path(&format!("/a/{number}")));
    }
    client.run(&batch).unwrap();
    let got = events(&mut client);
    assert_eq!(got.len(), 11);
    assert_eq!(got[10], event("/a/9", "token"));
    assert_eq!(client.stats().watch_events, 11);
}

#[test]
fn special_paths_tell_of_domains() {
    let (store, mut client) = fresh();
    client.watch(&Path::introduce_domain(), "in").unwrap();
    client.watch(&Path::release_domain(), "out").unwrap();
    assert_eq!(
        events(&mut client),
        [
            event("@introduceDomain", "in"),
            event("@releaseDomain", "out")
        ]
    );
    assert!(!client.is_introduced(9).unwrap());
    client.introduce(9, 0x1234, 3).unwrap();
    assert!(client.is_introduced(9).unwrap());
    assert_eq!(events(&mut client), [event("@introduceDomain", "in")]);
    store.domain_shut_down(9);
    assert_eq!(events(&mut client), [event("@releaseDomain", "out")]);
    client.resume(9).unwrap();
    client.write(&path("/local/domain/9/data"), b"").unwrap();
    client
        .set_perms(&path("/local/domain/9/data"), &Perms::owned_by(9))
        .unwrap();
    client.release(9).unwrap();
    assert!(!client.is_introduced(9).unwrap());
    assert!(!client.exists(&path("/local/domain/9/data")).unwrap());
    assert!(client.exists(&path("/local/domain/9")).unwrap());
    assert_eq!(events(&mut client), [event("@releaseDomain", "out")]);
    assert!(client.release(9).unwrap_err().is_not_found());
    assert_eq!(client.get_domain_path(9).unwrap(), Path::domain(9));
    let mut guest = store.client(5).unwrap();
    assert!(matches!(
        guest.introduce(6, 1, 1),
        Err(Error::Permission { .. })
    ));
}

#[test]
fn reset_ends_all_watches() {
    let (store, mut client) = fresh();
    let mut other = store.client(0).unwrap();
    for token in ["one", "two"] {
        client.watch(&path("/a"), token).unwrap();
    }
    client.reset_watches().unwrap();
    other.write(&path("/a"), b"1").unwrap();
    assert_eq!(events(&mut client), []);
    client.watch(&path("/a"), "one").unwrap();
}

#[test]
fn a_token_with_a_nul_byte_is_refused() {
    let (_store, mut client) = fresh();
    assert!(matches!(
        client.watch(&path("/a"), "a\0b"),
        Err(Error::NulByte { .. })
    ));
    assert!(matches!(
        client.control(&["a\0b"]),
        Err(Error::NulByte { .. })
    ));
}

#[test]
fn control_gives_the_answer_as_text() {
    let (_store, mut client) = fresh();
    assert!(client.control(&["quota"]).unwrap().contains("nodes: 1000"));
}

#[test]
fn the_descriptor_becomes_readable_with_an_event() {
    let store = MemStore::new();
    let mut client = store.client(0).unwrap();
    let mut other = store.client(0).unwrap();
    client.watch(&path("/a"), "token").unwrap();
    events(&mut client);
    let is_readable = |client: &Client| {
        let fd = client.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(
            &mut fds,
            Some(&rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    };
    assert!(!is_readable(&client));
    other.write(&path("/a"), b"1").unwrap();
    assert!(is_readable(&client));
    assert_eq!(events(&mut client), [event("/a", "token")]);
    assert!(!is_readable(&client));
}

#[test]
fn waiting_for_an_event_ends_with_the_event_or_the_deadline() {
    let store = MemStore::new();
    let mut client = store.client(0).unwrap();
    client.watch(&path("/a"), "token").unwrap();
    events(&mut client);
    assert_eq!(
        client
            .next_event(Instant::now() + Duration::from_millis(5))
            .unwrap(),
        None
    );
    let writer = std::thread::spawn({
        let store = store.clone();
        move || store.client(0).unwrap().write(&path("/a"), b"1").unwrap()
    });
    let got = client
        .next_event(Instant::now() + Duration::from_secs(60))
        .unwrap();
    assert_eq!(got, Some(event("/a", "token")));
    writer.join().unwrap();
}

#[test]
fn a_request_without_an_answer_closes_the_connection() {
    let (store, mut client) = fresh();
    for fault in [Fault::Ignore, Fault::LoseReply] {
        let fault = fault.clone();
        store.set_fault_hook(move |_| Some(fault.clone()));
        let error = client.write(&path("/a"), b"1").unwrap_err();
        assert!(error.is_connection_lost());
        assert!(
            matches!(&error, Error::NotAnswering { object, .. } if object == "/a"),
            "{error}"
        );
        store.clear_fault_hook();
        assert!(matches!(
            client.read(&path("/a")),
            Err(Error::Closed { .. })
        ));
        assert!(matches!(client.try_next_event(), Err(Error::Closed { .. })));
        client = store.client(0).unwrap();
    }
    assert_eq!(client.read(&path("/a")).unwrap(), b"1");
}

#[test]
fn the_first_unanswered_request_of_a_batch_is_named() {
    let (store, mut client) = fresh();
    store.set_fault_hook(|request| (request.number == 3).then_some(Fault::Disconnect));
    let mut batch = Batch::new();
    for name in ["/one", "/two", "/three", "/four"] {
        batch.write(&path(name), b"");
    }
    let error = client.run(&batch).unwrap_err();
    assert!(
        matches!(&error, Error::Disconnected { object, .. } if object == "/three"),
        "{error}"
    );
}

#[test]
fn a_lost_commit_reply_is_no_conflict() {
    let (store, mut client) = fresh();
    store.set_fault_hook(|request| {
        (request.packet.kind == MessageKind::TransactionEnd).then_some(Fault::LoseReply)
    });
    let mut tries = 0;
    let error = client
        .transaction(|transaction| {
            tries += 1;
            transaction.write(&path("/a"), b"1")
        })
        .unwrap_err();
    assert!(matches!(
        error,
        Error::NotAnswering {
            operation: MessageKind::TransactionEnd,
            ..
        }
    ));
    assert_eq!(tries, 1);
}

#[test]
fn every_request_of_a_create_like_transaction_may_fail() {
    let (store, mut client) = fresh();
    let mut batch = Batch::new();
    for number in 0..6 {
        batch.write(&path(&format!("/tree/{number}")), b"x");
    }
    let before = store.nodes();
    for failing in 1..=8 {
        store.set_fault_hook(move |request| {
            (request.number == failing).then_some(Fault::Refuse(ErrorName::Eio))
        });
        let error = client
            .transaction(|transaction| transaction.run(&batch))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Refused {
                    reason: ErrorName::Eio,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(store.nodes(), before, "request {failing}");
    }
    store.clear_fault_hook();
    client
        .transaction(|transaction| transaction.run(&batch))
        .unwrap();
    assert_eq!(client.directory(&path("/tree")).unwrap().len(), 6);
}
