//! A file that is no ONNX Runtime, in a process that has loaded none.

use fugato_device::{Runtime, RuntimeErrorKind};

#[test]
fn a_wrong_library_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, b"not a library").expect("a writable folder");
    let error = Runtime::load(&text).expect_err("text is no library");
    assert_eq!(error.kind(), RuntimeErrorKind::NotOnnxRuntime, "{error}");
    // A library, but another one: this very test's allocator has loaded it.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux tells its mappings");
    let libc = maps
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let libc = libc.into_iter().find(|path| path.contains("/libc."));
    let error = Runtime::load(libc.expect("tests link libc")).expect_err("libc is not it");
    assert_eq!(error.kind(), RuntimeErrorKind::NotOnnxRuntime, "{error}");
    assert!(error.to_string().contains("OrtGetApiBase"), "{error}");
}
