//! docs/operations.md and docs/soft-reset.md say what the code does: their tables are the code's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use xyl_engine::operation::{Kind, steps_table, xenstore_nodes};

/// A table with the mark that it stands behind in its page.
type Table = (String, String);

/// The pages with their tables. That of a soft reset has a page of its own.
fn pages() -> [(&'static str, Vec<Table>); 2] {
    let states = ("states".to_owned(), xyl_saga::state::table());
    let nodes = ("xenstore nodes".to_owned(), xenstore_nodes::table());
    let steps = |kind: Kind| (kind.word().to_owned(), steps_table(kind));
    let others = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::SoftReset);
    let operations = [states, nodes].into_iter().chain(others.map(steps));
    [
        ("operations.md", operations.collect()),
        ("soft-reset.md", vec![steps(Kind::SoftReset)]),
    ]
}

/// The page with each table as the code has it.
fn with_tables(page: &str, tables: &[Table]) -> String {
    let mut page = page.to_owned();
    for (name, table) in tables {
        let (begin, end) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let start = page.find(&begin).expect(&begin) + begin.len();
        let stop = page.find(&end).expect(&end);
        page.replace_range(start..stop, table);
    }
    page
}

/// `XYL_WRITE_DOCS=1 cargo test -p xyl-engine --test documentation` writes them.
#[test]
fn the_tables_of_operations_are_the_codes() {
    for (name, tables) in pages() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs")
            .join(name);
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = with_tables(&page, &tables);
        if std::env::var_os("XYL_WRITE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
            continue;
        }
        assert!(
            page == wanted,
            "docs/{name}: its tables are not those of the code; XYL_WRITE_DOCS=1 writes them"
        );
    }
}
