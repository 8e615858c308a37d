//! What is said of NVIDIA devices that are found, and of what stands against using one.

use super::*;
use crate::runtime::{Library, Place};
use fugato_device::cuda::{
    CudaLibraries, Found, LibrariesError, LibrariesMissing, LibrariesUnfit, NoDriver, Unfit,
    Unloadable,
};

fn parts(compute_capability: (u32, u32), sms: u32) -> CudaParts {
    CudaParts {
        found: Found {
            ordinal: 0,
            name: "NVIDIA Test".to_owned(),
            compute_capability,
            sms,
            memory: 8 << 30,
            driver: "13.0".to_owned(),
            driver_build: None,
            uuid: None,
        },
        runtime: Library {
            path: PathBuf::from("/lib/libonnxruntime.so"),
            place: Place::Given,
        },
        libraries: CudaLibraries {
            loaded: vec![("libcudart.so.13", None)],
            refused: Vec::new(),
        },
    }
}

#[test]
fn a_card_too_small_to_divide_is_told_with_what_it_lacks() {
    let small = gpu(&parts((12, 0), 14));
    assert_eq!(small.status, Status::Degraded);
    assert!(
        small.found.ends_with(
            "too small to be divided: 14 multiprocessors, expected at least 16, two groups of 8"
        ),
        "{}",
        small.found
    );
    assert_eq!(
        small.instead.as_deref(),
        Some("models share it in time only")
    );
    let large = gpu(&parts((9, 0), 132));
    assert_eq!((large.status, large.instead), (Status::Ok, None));
    assert!(
        large.found.contains("1 libraries of CUDA"),
        "{}",
        large.found
    );
}

/// A library that is there, and what the loader says of it.
fn unloadable(library: &'static str) -> Unloadable {
    Unloadable {
        library,
        folder: Some(PathBuf::from("/opt/cuda")),
        words: "wrong ELF class: ELFCLASS32".to_owned(),
    }
}

#[test]
fn a_library_that_only_some_models_need_is_told_of_where_it_does_not_load() {
    let mut parts = parts((9, 0), 132);
    parts.libraries.refused = vec![unloadable("libcufft.so.12")];
    let check = gpu(&parts);
    assert_eq!(check.status, Status::Ok);
    let told = "; `libcufft.so.12` in /opt/cuda does not load: wrong ELF class: ELFCLASS32";
    assert!(check.found.ends_with(told), "{}", check.found);
}

/// What stands against an NVIDIA device; what `doctor` says of it, and what to do.
fn faults() -> Vec<(NoCuda, &'static str, &'static str)> {
    let unfit = |found: &str, expected: &str| {
        let unfit = Unfit {
            library: "libcudnn.so.9",
            folder: Some(PathBuf::from("/env/nvidia/cudnn/lib")),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        NoCuda::Libraries(LibrariesError::from(LibrariesUnfit(vec![unfit])))
    };
    let missing = LibrariesMissing {
        missing: vec!["libcublas.so.13", "libcudnn.so.9"],
        instead: vec![
            ("libcublas.so.12".to_owned(), None),
            (
                "libcudnn.so.8".to_owned(),
                Some(PathBuf::from("/opt/cudnn")),
            ),
        ],
        looked_in: Vec::new(),
        refused: Vec::new(),
    };
    let refused = LibrariesMissing {
        missing: Vec::new(),
        instead: Vec::new(),
        looked_in: Vec::new(),
        refused: vec![unloadable("libcudnn.so.9")],
    };
    let old = NoDriver::Old {
        found: 12_080,
        least: 13_000,
    };
    vec![
        (
            unfit("built for CUDA 12.9", "one for CUDA 13"),
            "`libcudnn.so.9` in /env/nvidia/cudnn/lib is built for CUDA 12.9, expected one for \
             CUDA 13",
            "nvidia-cudnn-cu13",
        ),
        (
            unfit("cuDNN 8.9.7", "cuDNN 9"),
            "is cuDNN 8.9.7, expected cuDNN 9",
            "cuDNN 9",
        ),
        (
            NoCuda::Libraries(LibrariesError::from(missing)),
            "of other major versions there is `libcublas.so.12`, `libcudnn.so.8` in /opt/cudnn",
            "install CUDA 13 and cuDNN 9",
        ),
        (
            NoCuda::Libraries(LibrariesError::from(refused)),
            "`libcudnn.so.9` in /opt/cuda does not load: wrong ELF class: ELFCLASS32",
            "install CUDA 13 and cuDNN 9",
        ),
        (
            NoCuda::from(old),
            "the NVIDIA driver is of CUDA 12.8, expected at least 13.0",
            "driver 580",
        ),
    ]
}

#[test]
fn each_fault_of_a_device_that_is_there_is_named_with_a_way_out() {
    let cpu = || Check::ok(DEVICE, "cpu: Test");
    for (missing, reason, hint) in faults() {
        let (device, gpu) = unusable(DeviceKind::Cuda, &missing, cpu());
        assert_eq!(
            (device.status, gpu.status),
            (Status::Failed, Status::Failed)
        );
        assert!(gpu.found.contains(reason), "{}", gpu.found);
        assert!(
            gpu.instead.is_some_and(|instead| instead.contains(hint)),
            "{hint}"
        );
        let (device, gpu) = unusable(DeviceKind::Auto, &missing, cpu());
        assert_eq!((device.status, gpu.status), (Status::Ok, Status::Degraded));
        assert!(gpu.found.contains(reason), "{}", gpu.found);
        let instead = gpu.instead.expect("what is used instead");
        assert!(
            instead.starts_with("models run on the CPU; to use it, ") && instead.contains(hint),
            "{instead}"
        );
    }
}

#[test]
fn a_machine_without_a_device_lacks_nothing_under_auto() {
    let none = NoCuda::from(NoDriver::Library);
    let (device, gpu) = unusable(DeviceKind::Auto, &none, Check::ok(DEVICE, "cpu: Test"));
    assert_eq!((device.status, gpu.status), (Status::Ok, Status::Ok));
    assert!(
        gpu.found.starts_with("none: no NVIDIA driver"),
        "{}",
        gpu.found
    );
}
