use super::*;
use crate::error::ErrorKind;
use std::fs;
use std::path::Path;

fn memory(folder: &Path) -> SharedMemory {
    SharedMemory::new(SharedMemoryOptions {
        folder: folder.to_owned(),
        regions_max: 3,
        input_bytes_max: 64,
    })
}

fn region(name: &str, key: &str, offset: u64, byte_size: u64) -> RegisterRegion {
    RegisterRegion {
        name: name.to_owned(),
        key: key.to_owned(),
        offset,
        byte_size,
    }
}

fn range(region: &str, offset: u64, byte_size: u64) -> RegionRange<'_> {
    RegionRange {
        region,
        offset,
        byte_size,
    }
}

#[test]
fn keys_name_plain_files_of_the_folder_and_nothing_else() {
    let outside = tempfile::tempdir().expect("a folder can be made");
    let folder = outside.path().join("shm");
    fs::create_dir_all(folder.join("sub")).expect("a folder can be made");
    for name in ["shm/file", "secret", "shm/sub/file"] {
        fs::write(outside.path().join(name), [0; 100]).expect("a file can be written");
    }
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(outside.path().join(to), folder.join(name))
            .expect("a link can be made");
    };
    link("secret", "out");
    link("shm/file", "in");
    let socket = std::os::unix::net::UnixListener::bind(folder.join("socket"));
    let _socket = socket.expect("a socket can be made");
    let pipe = std::process::Command::new("mkfifo")
        .arg(folder.join("pipe"))
        .status();
    assert!(pipe.expect("mkfifo runs").success());

    let memory = memory(&folder);
    let long = "k".repeat(256);
    let absolute = outside.path().join("secret").display().to_string();
    for key in [
        "",
        "/",
        ".",
        "..",
        "/..",
        "../secret",
        "/../secret",
        "sub/file",
        "//file",
        "sub",
        "out",
        "in",
        "pipe",
        "socket",
        "nothing",
        "fi\0le",
        &long,
        &absolute,
    ] {
        let error = memory.register(&region("r", key, 0, 10));
        let error = error.expect_err(key);
        assert_eq!(error.kind(), ErrorKind::InvalidRegion, "{key}: {error}");
    }
    assert_eq!(memory.status(None).expect("it is on"), []);
    for (name, key) in [("a", "file"), ("b", "/file")] {
        let registered = memory.register(&region(name, key, 0, 10));
        registered.expect("it is a plain file");
    }
}

#[test]
fn regions_are_registered_once_and_within_limits() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("file"), [0; 100]).expect("a file can be written");
    let memory = memory(folder.path());
    for (name, offset, byte_size) in [
        ("", 0, 10),
        ("r", 0, 0),
        ("r", 0, 101),
        ("r", 100, 1),
        ("r", 91, 10),
        ("r", u64::MAX, 1),
        ("r", 1, u64::MAX),
    ] {
        let error = memory.register(&region(name, "file", offset, byte_size));
        let error = error.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidRegion, "{error}");
    }
    let good = region("r", "file", 90, 10);
    memory.register(&good).expect("it fits");
    let again = memory.register(&good).expect_err("it is there");
    assert_eq!(again.kind(), ErrorKind::RegionExists);
    assert!(again.to_string().contains("10 bytes from 90"), "{again}");
    let status = RegionStatus {
        name: "r".to_owned(),
        key: "file".to_owned(),
        offset: 90,
        byte_size: 10,
    };
    assert_eq!(memory.status(Some("r")).expect("it is there"), [status]);
    for name in ["s", "t"] {
        let registered = memory.register(&region(name, "file", 0, 10));
        registered.expect("three may be there");
    }
    let fourth = memory.register(&region("u", "file", 0, 10));
    let fourth = fourth.expect_err("three may be there");
    assert_eq!(fourth.kind(), ErrorKind::InvalidRegion);
    memory.unregister(Some("r")).expect("it is on");
    memory
        .unregister(Some("r"))
        .expect("a second time is nothing to do");
    let gone = memory.status(Some("r")).expect_err("it is gone");
    assert_eq!(gone.kind(), ErrorKind::UnknownRegion);
    memory.unregister(None).expect("it is on");
    assert_eq!(memory.status(None).expect("it is on"), []);
}

#[test]
fn ranges_lie_within_their_region() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let bytes: Vec<u8> = (0..100).collect();
    fs::write(folder.path().join("file"), bytes).expect("a file can be written");
    let memory = memory(folder.path());
    let registered = memory.register(&region("r", "file", 10, 80));
    registered.expect("it fits");
    for (offset, byte_size) in [
        (0, 0),
        (0, 81),
        (80, 1),
        (79, 2),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let of = range("r", offset, byte_size);
        let error = memory.input(of).expect_err("it is outside");
        assert_eq!(error.kind(), ErrorKind::InvalidRegion, "{error}");
        let error = memory.target(of).expect_err("it is outside");
        assert_eq!(error.kind(), ErrorKind::InvalidRegion, "{error}");
    }
    let large = memory.input(range("r", 0, 65)).expect_err("64 is the most");
    assert_eq!(large.kind(), ErrorKind::TooLarge);
    let error = memory.input(range("s", 0, 1)).expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::UnknownRegion);

    // What a request named stays open when it is unregistered, and when it is deleted.
    let slice = memory.input(range("r", 5, 3)).expect("it is inside");
    let target = memory.target(range("r", 70, 4)).expect("it is inside");
    memory.unregister(None).expect("it is on");
    let kept = fs::File::open(folder.path().join("file")).expect("it is there");
    fs::remove_file(folder.path().join("file")).expect("it is there");
    assert_eq!(&slice.read().expect("it is open")[..], [15, 16, 17]);
    target.write(b"abc").expect("it is open");
    let mut written = [0; 5];
    std::os::unix::fs::FileExt::read_exact_at(&kept, &mut written, 79).expect("it is open");
    assert_eq!(&written, b"\x4fabc\x53");

    // A file that the client shrank is not made longer.
    let short = kept.metadata().map(|metadata| metadata.len());
    assert_eq!(short.expect("it is open"), 100);
    slice.file.set_len(82).expect("it can be cut");
    let error = target.write(b"abc").expect_err("two bytes are left");
    assert_eq!(error.kind(), ErrorKind::RegionShort, "{error}");
    assert_eq!(kept.metadata().expect("it is open").len(), 82);
}

#[test]
fn overlaps_are_found_through_any_name() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("file"), [0; 100]).expect("a file can be written");
    fs::hard_link(folder.path().join("file"), folder.path().join("other"))
        .expect("a link can be made");
    let memory = memory(folder.path());
    for (name, key, offset) in [("a", "file", 0), ("b", "other", 50)] {
        let registered = memory.register(&region(name, key, offset, 50));
        registered.expect("it fits");
    }
    let target = |name, offset, size| memory.target(range(name, offset, size)).expect("inside");
    assert!(!target("a", 0, 50).overlaps(&target("b", 0, 50)));
    assert!(target("a", 0, 10).overlaps(&target("a", 9, 10)));
    let registered = memory.register(&region("c", "file", 40, 60));
    registered.expect("it fits");
    assert!(target("c", 10, 1).overlaps(&target("b", 0, 1)));
    assert!(!target("c", 10, 1).overlaps(&target("b", 1, 1)));
}

#[test]
fn what_is_off_is_refused_by_name() {
    let memory = SharedMemory::off();
    let errors = [
        memory.register(&region("r", "file", 0, 1)),
        memory.unregister(None),
        memory.status(None).map(|_| ()),
        memory.input(range("r", 0, 1)).map(|_| ()),
        memory.target(range("r", 0, 1)).map(|_| ()),
    ];
    for error in errors {
        let error = error.expect_err("it is off");
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.to_string().contains("`server.shared_memory` is off"));
    }
}

#[test]
fn bodies_are_read_and_refused() {
    let read = |body: &str| RegisterRegion::from_json("r".to_owned(), body.as_bytes());
    let plain = read(r#"{"key": "/k", "byte_size": 8}"#).expect("offset is 0 where not said");
    assert_eq!(plain, region("r", "/k", 0, 8));
    for body in [
        "",
        "{}",
        "[]",
        r#"{"key": "k"}"#,
        r#"{"key": "k", "byte_size": -1}"#,
        r#"{"key": "k", "byte_size": 1.5}"#,
        r#"{"key": 7, "byte_size": 8}"#,
        r#"{"key": "k", "byte_size": 8, "offset": "0"}"#,
        r#"{"key": "k", "byte_size": 18446744073709551616}"#,
    ] {
        let error = read(body).expect_err(body);
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{body}: {error}");
    }
}
