//! The generated table of faults says what is in the sources: every row has a test that bears its number, or a reason.

#[path = "faults/table.rs"]
#[allow(dead_code)]
mod table;

use std::path::Path;

use table::{Outcome, Rows, Test, faults, outcomes, page, rows_of};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_row_has_a_test_or_a_reason_and_every_test_a_row() {
    let (rows, tests) = (table::rows(root()).expect("rows"), table::tests(root()).expect("sources"));
    assert_eq!(rows.titles.len(), 67);
    let wrong = faults(&rows, &tests);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_page_is_the_one_that_would_be_made_now() {
    let (rows, tests) = (table::rows(root()).expect("rows"), table::tests(root()).expect("sources"));
    let committed = std::fs::read_to_string(root().join(table::PAGE)).expect("the page");
    assert!(
        committed == page(&rows, &tests, None),
        "tests/FAULTS.md is not of these sources: cargo run --example fault-table"
    );
}

#[test]
fn rows_are_read_from_names() {
    assert_eq!(rows_of("fault_07_a_reset"), [7]);
    assert_eq!(rows_of("fault_24_fault_25_cut_at_every_offset"), [24, 25]);
    assert_eq!(rows_of("fault_36_37_out_of_descriptors"), [36, 37]);
    assert_eq!(rows_of("fault_19_and_20_no_false_death_at_5_percent"), [19, 20]);
    assert_eq!(rows_of("fault_18_300_peers"), [18]);
    // Neither is a row's name: told, not passed over.
    assert_eq!(rows_of("fault_9_an_end"), [0]);
    assert_eq!(rows_of("fault_of_another_kind"), [0]);
    assert_eq!(rows_of("a_test"), [0; 0]);
}

fn example() -> (Rows, Vec<Test>) {
    let titles = [(1, "one".to_owned()), (2, "two".to_owned()), (3, "three".to_owned())];
    let rows = Rows { titles: titles.into(), ..Rows::default() };
    let test = |name: &str| Test { name: name.into(), rows: rows_of(name), file: "tests/x.rs".into(), ignored: None };
    (rows, vec![test("fault_01_a"), test("fault_01_b"), test("fault_02_c")])
}

#[test]
fn what_is_wrong_is_told() {
    let (mut rows, mut tests) = example();
    assert_eq!(faults(&rows, &tests), ["row 03 has neither a test nor a reason why not"]);
    rows.cannot_run.insert(3, "no such hardware".into());
    assert_eq!(faults(&rows, &tests), [""; 0]);
    rows.cannot_run.insert(2, "it can".into());
    rows.exempt.insert("fault_01_z".into(), "gone".into());
    tests.push(Test { name: "fault_9_d".into(), rows: rows_of("fault_9_d"), file: "src/y.rs".into(), ignored: None });
    tests.push(Test { name: "fault_01_a".into(), rows: vec![1], file: "src/y.rs".into(), ignored: None });
    assert_eq!(
        faults(&rows, &tests),
        [
            "row 02 has a test, and a reason why it cannot have one",
            "src/y.rs: `fault_9_d` bears no row's number",
            "`fault_01_a` is in tests/x.rs and in src/y.rs",
            "[exempt] names `fault_01_z`, which is no test",
        ]
    );
}

#[test]
fn results_are_those_of_the_log() {
    let (rows, tests) = example();
    let log = "     Running tests/x.rs (target/debug/deps/x-1)\n\
               test module::fault_01_a ... ok\ntest fault_01_b ... FAILED\n\ntest fault_02_c ... ignored, slow\n\
               test result: FAILED. 1 passed\n";
    let results = outcomes(log);
    assert_eq!(results["fault_01_a"], Outcome::Ok);
    assert_eq!(results["fault_01_b"], Outcome::Failed);
    let page = page(&rows, &tests, Some(&results));
    assert!(
        page.contains("| 01 | one | tests/x.rs: `fault_01_a`<br>tests/x.rs: `fault_01_b` | ok<br>**FAILED** |"),
        "{page}"
    );
    assert!(page.contains("| 02 | two | tests/x.rs: `fault_02_c` | not run |"), "{page}");
    assert!(
        page.contains("3 rows, 2 of them with tests, 0 that cannot be run here; 3 tests. 1 ok, 1 failed, 1 not run.")
    );
}
