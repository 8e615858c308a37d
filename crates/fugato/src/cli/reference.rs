//! The reference page of the command line, made from clap's own definition.

use super::Cli;
use clap::CommandFactory;

const HEAD: &str = "\
# Command line reference

Generated from the program's own help; `make reference` writes it anew.

Data goes to standard output, messages to standard error. Exit codes: 0 all is well, 1 a
check failed, 2 wrong usage or an error. Every flag under *Settings* can also be set by an
environment variable or in the configuration file: see [config.md](config.md).
";

/// The page as Markdown: the help of every command.
pub fn reference() -> String {
    // A fixed width, so that the page does not depend on the terminal.
    let mut root = Cli::command().term_width(92);
    root.build();
    let mut page = HEAD.to_owned();
    write_command(&mut page, &mut root, "fugato");
    page
}

fn write_command(page: &mut String, command: &mut clap::Command, path: &str) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    page.push_str(&format!(
        "\n## `{path}`\n\n```text\n{}\n```\n",
        lines.join("\n")
    ));
    for child in command.get_subcommands_mut() {
        if child.get_name() != "help" {
            let path = format!("{path} {}", child.get_name());
            write_command(page, child, &path);
        }
    }
}
