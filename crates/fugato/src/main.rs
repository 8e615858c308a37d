//! The command line of Fugato.
fn main() {}
