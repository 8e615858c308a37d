//! The reference pages are what the program says: they are generated, and this test
//! compares. `make reference` (FUGATO_BLESS=1) writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference")
}

fn check(name: &str, generated: &str) {
    let path = docs().join(name);
    if std::env::var_os("FUGATO_BLESS").is_some() {
        fs::write(&path, generated).expect("the page can be written");
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    let differs = page
        .lines()
        .zip(generated.lines())
        .find(|(left, right)| left != right);
    assert!(
        page == generated,
        "docs/reference/{name} is not what the program says; run `make reference` and review \
         the change. First difference (page, program): {differs:?}"
    );
}

#[test]
fn the_command_line_page_is_the_programs_help() {
    check("cli.md", &fugato::cli::reference::reference());
}

#[test]
fn the_configuration_page_is_the_list_of_settings() {
    check("config.md", &fugato::config::reference());
}
