//! Help and error texts, word for word. `TRYCMD=overwrite cargo test --test text` takes over what the program says.

#[test]
fn help_and_errors_read_as_they_should() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd").case("tests/cmd/*.toml");
}
