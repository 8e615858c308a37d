//! What clients are told of a failure: its words, without paths of this machine or places
//! in the source of the runtime. Logs keep the whole.

/// The most bytes of a message. gRPC carries it in a header, which clients limit to 8 KiB or
/// more; what a client named (a shape, a model) may be as long as it liked.
const MESSAGE_MAX_BYTES: usize = 4096;

/// The text with each absolute path in it cut to the name of its file, and without the places
/// in C++ files that the runtime's messages begin with.
pub(crate) fn for_clients(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = path_start(rest) {
        told.push_str(&rest[..start]);
        let ends = |c: char| c.is_whitespace() || "`'\"(),;:|<>".contains(c);
        let length = rest[start..].find(ends).unwrap_or(rest.len() - start);
        let (path, after) = rest[start..].split_at(length);
        rest = match line_of_source(path, after) {
            Some(after) => after,
            None => {
                let name = path.rsplit('/').find(|part| !part.is_empty());
                told.push_str(name.unwrap_or("/"));
                after
            }
        };
    }
    told.push_str(rest);
    told
}

/// Where the first absolute path is: a `/` that begins a word, before something else.
fn path_start(text: &str) -> Option<usize> {
    let slashes = text.match_indices('/').map(|(at, _)| at);
    let mut starts = slashes.filter(|&at| {
        let before = text[..at].chars().next_back();
        let after = text[at + 1..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric() && !"/._-".contains(c))
            && after.is_some_and(|c| c.is_alphanumeric() || "/._-".contains(c))
    });
    starts.next()
}

/// What comes after the line number, where `path` is that of a C++ file and has one.
fn line_of_source<'a>(path: &str, after: &'a str) -> Option<&'a str> {
    let is_source = [".cc", ".cpp", ".h"].iter().any(|end| path.ends_with(end));
    let number = after.strip_prefix(':').filter(|_| is_source)?;
    let rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < number.len()).then(|| rest.trim_start())
}

/// The text, cut where it is longer than a message may be.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_MAX_BYTES {
        let left_out = text.len() - text.floor_char_boundary(MESSAGE_MAX_BYTES);
        text.truncate(text.floor_char_boundary(MESSAGE_MAX_BYTES));
        text.push_str(&format!(".. and {left_out} bytes more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_to_names_and_words_kept() {
        let cases = [
            (
                "model `/srv/models/net/1/model.onnx` cannot be loaded",
                "model `model.onnx` cannot be loaded",
            ),
            (
                "Load model from /var/store/ab/model.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:180 Model() Unsupported IR 99",
                "Load model from model.onnx failed:Model() Unsupported IR 99",
            ),
            (
                "Status Message: /onnxruntime_src/core/providers/cpu/tensor/gather.h:12 Run() index 3/4",
                "Status Message: Run() index 3/4",
            ),
            ("no /srv/my.d/x.h: gone", "no x.h: gone"),
            ("in /srv/models/", "in models"),
            ("a / b, 3/4 of net/1 at //x", "a / b, 3/4 of net/1 at x"),
            ("(/a/b), '/c/d'", "(b), 'd'"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(for_clients(text), expected, "{text}");
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = format!("x{}", "\u{e9}".repeat(MESSAGE_MAX_BYTES));
        let told = cut(text);
        assert!(told.ends_with("\u{e9}.. and 4098 bytes more"), "{told}");
        assert!(told.len() < MESSAGE_MAX_BYTES + 32);
        assert_eq!(cut("short".to_owned()), "short");
    }
}
