//! Checks that generated pages of the documentation match the program's lists.
//!
//! `MUSTER_DOCS=write` updates the pages.

use std::fs;
use std::path::Path;

use coordinator::plan::schema;
use coordinator::store::schema::columns;

fn page(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var("MUSTER_DOCS").is_ok_and(|what| what == "write") {
        fs::write(&path, text).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "docs/{name} is not what the program says; run this test with MUSTER_DOCS=write");
}

#[test]
fn keys_of_a_plan() {
    page("keys.md", &schema::reference());
}

#[test]
fn columns_of_the_summary() {
    page("columns.md", &columns::reference());
}
