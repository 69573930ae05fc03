//! docs/operations.md says what the code does: its tables are the code's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use xyl_engine::operation::{Kind, steps_table, xenstore_nodes};

/// The tables with the marks that they stand between in the page.
fn tables() -> Vec<(String, String)> {
    let states = ("states".to_owned(), xyl_saga::state::table());
    let steps = Kind::ALL.map(|kind| (kind.word().to_owned(), steps_table(kind)));
    let nodes = ("xenstore nodes".to_owned(), xenstore_nodes::table());
    [vec![states, nodes], steps.to_vec()].concat()
}

/// The page with each table as the code has it.
fn with_tables(page: &str) -> String {
    let mut page = page.to_owned();
    for (name, table) in tables() {
        let (begin, end) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let start = page.find(&begin).expect(&begin) + begin.len();
        let stop = page.find(&end).expect(&end);
        page.replace_range(start..stop, &table);
    }
    page
}

/// `XYL_WRITE_DOCS=1 cargo test -p xyl-engine --test documentation` writes them.
#[test]
fn the_tables_of_operations_are_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let wanted = with_tables(&page);
    if std::env::var_os("XYL_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(
        page == wanted,
        "docs/operations.md: its tables are not those of the code; XYL_WRITE_DOCS=1 writes them"
    );
}
