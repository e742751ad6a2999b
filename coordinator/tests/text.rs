//! Compares help and error texts with snapshots. `TRYCMD=overwrite cargo test --test text` accepts the present output.

#[test]
fn help_and_errors_read_as_they_should() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd").case("tests/cmd/*.toml");
}
