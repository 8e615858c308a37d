//! Bearer tokens: who may call.
//!
//! Tokens come from a file, since a command line and an environment are seen by others.
//! **Invariant:** no token is ever in a log line, an error or a `Debug` text.

use crate::error::{Fault, InferError};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq as _};

/// The shortest token that is taken, in bytes. 16 random bytes cannot be guessed over a
/// network; a shorter one is more likely a mistake.
pub const TOKEN_MIN_BYTES: usize = 16;

/// The longest token, in bytes; it must fit a request's headers.
pub const TOKEN_MAX_BYTES: usize = 4096;

/// The most tokens. Each request is compared with all of them.
pub const TOKENS_MAX: usize = 64;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// The file cannot be read.
    #[error("the token file `{}` cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no token.
    #[error(
        "the token file `{}` holds no token\n\nhint: write one a line, such as the output of \
         `openssl rand -hex 32`", path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file holds more than [`TOKENS_MAX`].
    #[error("the token file `{}` holds {found} tokens, expected at most {TOKENS_MAX}", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// How many.
        found: usize,
    },
    /// A line is not a token.
    #[error(
        "line {line} of the token file `{}` is not a token, expected {TOKEN_MIN_BYTES} to \
         {TOKEN_MAX_BYTES} characters of ASCII letters, digits and `- . _ ~ + / =`", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1. What it says is not shown.
        line: usize,
    },
}

/// The tokens that are let in.
#[derive(Clone)]
pub struct Tokens(Arc<[Box<[u8]>]>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} not shown)", self.0.len())
    }
}

impl Tokens {
    /// Reads a file of tokens, one a line. Empty lines, and those that begin with `#`, say
    /// nothing.
    ///
    /// # Errors
    /// [`TokenFileError`]: unreadable, without a token, or with a line that is none.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = fs::read_to_string(path).map_err(|source| TokenFileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let token = line.trim();
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            if !is_token(token) {
                return Err(TokenFileError::Malformed {
                    path: path.to_owned(),
                    line: index + 1,
                });
            }
            tokens.push(token.as_bytes().into());
        }
        let path = path.to_owned();
        match tokens.len() {
            0 => Err(TokenFileError::Empty { path }),
            found if found > TOKENS_MAX => Err(TokenFileError::TooMany { path, found }),
            _ => Ok(Self(tokens.into())),
        }
    }

    /// Checks that a request's headers carry one of the tokens.
    ///
    /// # Errors
    /// `Unauthenticated`, saying what the header lacks and nothing of the tokens.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), InferError> {
        let refuse = |problem| Err(Fault::Unauthenticated { problem }.into());
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return refuse("has no header `authorization`"),
            (Some(_), Some(_)) => return refuse("has more than one header `authorization`"),
            (Some(value), None) => value.as_bytes(),
        };
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else {
            return refuse("has another authorization than `Bearer`");
        };
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return refuse("has another authorization than `Bearer`");
        }
        if self.holds(token.trim_ascii()) {
            return Ok(());
        }
        refuse("has a token that is not known here")
    }

    /// Whether `token` is one of them. Takes as long for every token of a length, so that
    /// time tells nothing of how much of it was right.
    fn holds(&self, token: &[u8]) -> bool {
        let known = self.0.iter();
        let found = known.fold(Choice::from(0), |found, known| found | known.ct_eq(token));
        found.into()
    }
}

const SCHEME: &[u8] = b"Bearer ";

/// The characters of RFC 6750's `b64token`.
fn is_token(text: &str) -> bool {
    (TOKEN_MIN_BYTES..=TOKEN_MAX_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "fedcba9876543210==";

    fn read(text: &str) -> Result<Tokens, TokenFileError> {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("tokens");
        fs::write(&path, text).expect("a file");
        Tokens::read(&path)
    }

    #[test]
    fn files_of_tokens_are_read_strictly() {
        let tokens = read(&format!("# two\n{ONE}\n\n  {TWO}\r\n")).expect("two tokens");
        assert!(tokens.holds(ONE.as_bytes()) && tokens.holds(TWO.as_bytes()));
        assert_eq!(format!("{tokens:?}"), "Tokens(2 not shown)");
        let many = format!("{ONE}\n").repeat(TOKENS_MAX + 1);
        let cases = [
            ("", "no token"),
            ("# nothing\n\n", "no token"),
            ("short\n", "line 1"),
            ("0123456789abcdef\nhas a space in it\n", "line 2"),
            ("0123456789abcd\u{e9}f\n", "line 1"),
            (&many, "65 tokens"),
        ];
        for (text, expected) in cases {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?} gave {error}");
            assert!(!error.contains("short"), "{error}");
        }
        let error = Tokens::read(Path::new("no/such")).expect_err("there is none");
        assert!(error.to_string().contains("`no/such`"), "{error}");
    }

    #[test]
    fn only_one_header_with_a_known_token_is_let_in() {
        let tokens = read(&format!("{ONE}\n{TWO}")).expect("two tokens");
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().expect("a value"));
            }
            tokens.check(&headers)
        };
        for value in [format!("Bearer {ONE}"), format!("bearer  {TWO}")] {
            check(&[&value]).expect("a known token");
        }
        let one = format!("Bearer {ONE}");
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &[ONE],
            &["Bearer 0123456789abcde"],
            &["Bearer 0123456789abcdef0"],
            &["Basic 0123456789abcdef"],
            &[&one, &one],
        ] {
            let error = check(values).expect_err("not let in");
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{values:?}");
            assert!(!error.to_string().contains(ONE), "{error}");
        }
    }
}
