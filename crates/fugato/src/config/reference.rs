//! The reference page of the configuration, made from [`SETTINGS`].

use super::schema::SETTINGS;
use std::fmt::Write as _;

const HEAD: &str = "\
# Configuration reference

Generated from `crates/fugato/src/config/schema.rs`; `make reference` writes it anew.

A value comes from the first of these that has it: a flag of the command line, the
environment variable, the file given by `--config`, the default. `fugato config show`
prints every value and where it came from. An unknown key is an error.

Lengths of time carry their unit (`250us`, `25ms`, `1.5s`); sizes may (`64MiB`).
";

const MODEL: &str = "
## `[model.NAME]`

The settings of `[defaults]`, for the model `NAME` alone; what is not said is as in
`[defaults]`. Only in the file.

```toml
[model.resnet50]
slo = \"50ms\"
max_batch_size = 8
```
";

/// The page as Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for (section, settings) in SETTINGS {
        write_section(&mut page, section, settings).expect("a String takes all that is written");
        if section == "defaults" {
            page.push_str(MODEL);
        }
    }
    page
}

fn write_section(
    page: &mut String,
    section: &str,
    settings: &[super::Setting],
) -> Result<(), std::fmt::Error> {
    writeln!(page, "\n## `[{section}]`\n")?;
    writeln!(page, "| key | takes | default | variable | meaning |")?;
    writeln!(page, "|---|---|---|---|---|")?;
    for setting in settings {
        let doc: Vec<&str> = setting.doc.lines().map(str::trim).collect();
        writeln!(
            page,
            "| `{}` | {} | {} | `{}` | {} |",
            setting.key,
            setting.kind,
            (setting.default)(),
            setting.variable(),
            doc.join(" "),
        )?;
    }
    Ok(())
}
