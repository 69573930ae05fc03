//! What is done in a transaction has the same outcome as when it is done outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use proptest::prelude::*;
use xenstore::mem::MemStore;
use xenstore::{Access, Batch, Path, Perms, Tree};

#[derive(Clone, Debug)]
enum Step {
    Write(Path, Vec<u8>),
    Mkdir(Path),
    Rm(Path),
    Close(Path),
}

fn any_path() -> impl Strategy<Value = Path> {
    "(/[abc]){1,4}".prop_map(|text| Path::new(&text).unwrap())
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any_path(), proptest::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(path, value)| Step::Write(path, value)),
        any_path().prop_map(Step::Mkdir),
        any_path().prop_map(Step::Rm),
        any_path().prop_map(Step::Close),
    ]
}

fn batch_of(steps: &[Step]) -> Batch {
    let mut batch = Batch::new();
    for step in steps {
        match step {
            Step::Write(path, value) => batch.write(path, value),
            Step::Mkdir(path) => batch.mkdir(path),
            Step::Rm(path) => batch.rm(path),
            Step::Close(path) => {
                batch.mkdir(path);
                batch.set_perms(path, &Perms::owned_by(1).with(2, Access::Both))
            }
        };
    }
    batch
}

/// Each node but the root is listed by the one above it, exactly once.
fn assert_is_a_tree(store: &MemStore) {
    let nodes = store.nodes();
    let mut client = store.client(0).unwrap();
    let mut listed = 0;
    for path in nodes.keys().filter(|path| path.is_absolute()) {
        for name in client.directory(path).unwrap() {
            assert!(
                nodes.contains_key(&path.join(&name).unwrap()),
                "{path}/{name}"
            );
            listed += 1;
        }
    }
    assert_eq!(
        listed,
        nodes.keys().filter(|path| path.is_absolute()).count() - 1
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn inside_and_outside_give_the_same_tree(
        before in proptest::collection::vec(any_step(), 0..8),
        steps in proptest::collection::vec(any_step(), 0..16),
    ) {
        let [inside, outside, dropped] = [MemStore::new(), MemStore::new(), MemStore::new()];
        for store in [&inside, &outside, &dropped] {
            store.client(0).unwrap().run(&batch_of(&before)).unwrap();
        }
        let untouched = dropped.nodes();
        let batch = batch_of(&steps);
        outside.client(0).unwrap().run(&batch).unwrap();
        inside.client(0).unwrap().transaction(|transaction| transaction.run(&batch)).unwrap();
        prop_assert_eq!(inside.nodes(), outside.nodes());
        assert_is_a_tree(&inside);
        assert_is_a_tree(&outside);

        let result = dropped.client(0).unwrap().transaction(|transaction| {
            transaction.run(&batch)?;
            transaction.read(&Path::new("/not-there")?).map(drop)
        });
        prop_assert!(result.is_err());
        prop_assert_eq!(dropped.nodes(), untouched);
    }

    #[test]
    fn two_at_once_are_as_if_one_after_the_other(
        first in proptest::collection::vec(any_step(), 1..6),
        second in proptest::collection::vec(any_step(), 1..6),
    ) {
        let [store, forth, back] = [MemStore::new(), MemStore::new(), MemStore::new()];
        let (first, second) = (batch_of(&first), batch_of(&second));
        let (mut one, mut other) = (store.client(0).unwrap(), store.client(0).unwrap());
        let mut is_first_try = true;
        one.transaction(|transaction| {
            transaction.run(&first)?;
            if std::mem::take(&mut is_first_try) {
                other.transaction(|transaction| transaction.run(&second))?;
            }
            Ok(())
        })
        .unwrap();
        for (store, order) in [(&forth, [&first, &second]), (&back, [&second, &first])] {
            for batch in order {
                store.client(0).unwrap().run(batch).unwrap();
            }
        }
        prop_assert!(store.nodes() == forth.nodes() || store.nodes() == back.nodes());
        assert_is_a_tree(&store);
    }
}
