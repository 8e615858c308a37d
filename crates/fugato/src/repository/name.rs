//! What a model may be called.

/// The longest name of a model, in bytes: what a folder's name may be on Linux.
pub const MODEL_NAME_MAX_BYTES: usize = 255;

/// A text that cannot be a model's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model name `{}` {problem}", name.escape_debug())]
pub struct ModelNameError {
    /// The text, shortened.
    pub name: String,
    /// What is wrong with it, and what is expected.
    pub problem: &'static str,
}

/// Checks that `name` can be a model's: 1 to 255 bytes of ASCII letters, digits and
/// `. _ - + @ : =`, the first a letter, a digit or `_`.
///
/// Names stand in URLs, metric labels, log lines and paths, so nothing that means
/// something in one of them is let in: no separator, no `..` (a leading dot is refused),
/// no control character, no space.
///
/// # Errors
/// [`ModelNameError`], saying which rule is broken.
pub fn check_model_name(name: &str) -> Result<(), ModelNameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+@:=".contains(c);
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MODEL_NAME_MAX_BYTES {
        "is longer than 255 bytes"
    } else if name.contains(['/', '\\']) {
        "holds a path separator"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        "begins with neither a letter, a digit nor `_`"
    } else if !name.chars().all(allowed) {
        "holds a character other than ASCII letters, digits and `. _ - + @ : =`"
    } else {
        return Ok(());
    };
    Err(ModelNameError {
        // Enough to recognise it; a name may come from a client.
        name: name.chars().take(64).collect(),
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_tricks_are_refused_by_name() {
        for name in ["resnet50", "bert-base_v2.1", "_x", "a:b", "0", "A=1@b+c"] {
            assert_eq!(check_model_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(256);
        let cases = [
            ("", "is empty"),
            ("..", "begins with"),
            (".hidden", "begins with"),
            ("-rf", "begins with"),
            ("../x", "path separator"),
            ("a/b", "path separator"),
            ("a\\b", "path separator"),
            ("/etc", "path separator"),
            ("a\0b", "control character"),
            ("a\nb", "control character"),
            ("a b", "other than ASCII"),
            ("a%2fb", "other than ASCII"),
            ("mod\u{e8}le", "other than ASCII"),
            (&long, "longer than 255"),
        ];
        for (name, problem) in cases {
            let error = check_model_name(name).expect_err(name).to_string();
            assert!(error.contains(problem), "{name:?} gave {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
