"""Makes Triton's perf_analyzer ready to run and prints the command for it.

    python scripts/perf_analyzer.py

The program is in the wheel of tritonclient 2.50.0. It is linked to libcudart.so.12, which
is a wheel too, and to Debian's libb64.so.0d, which is taken from the system where it is
installed, or else from Debian's package, unpacked into .fugato without root. Where none of
that can be had, the line is `SKIPPED` and the reason. Standard library only.
"""

import ctypes.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from install_packages import ROOT, install

REQUIREMENTS = ROOT / "tests" / "python" / "requirements-perf.txt"
PACKAGE = "libb64-0d"
LIBRARY = "libb64.so.0d"
# Fetching Debian's lists takes seconds; past this the network is at fault.
LISTS_SECONDS = 120


class Unavailable(Exception):
    """Why perf_analyzer cannot be run here."""


def apt(folder, *args):
    """Runs apt-get with all that it writes in `folder`, so that it needs no root."""
    lists = folder / "lists" / "partial"
    archives = folder / "cache" / "archives" / "partial"
    for path in (lists, archives):
        path.mkdir(parents=True, exist_ok=True)
    command = [
        "apt-get", "-qq",
        "-o", "Dir::State::Lists={}".format(lists.parent),
        "-o", "Dir::Cache={}".format(folder / "cache"),
        "-o", "APT::Sandbox::User=",
        "-o", "Debug::NoLocking=1",
    ]  # fmt: skip
    done = subprocess.run(
        command + list(args), cwd=str(folder), timeout=LISTS_SECONDS,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
    )  # fmt: skip
    return done.returncode == 0, done.stdout.strip()


def unpack_library(home):
    """The folder of libb64, from Debian's package; unpacked elsewhere and renamed."""
    final = home / "libb64"
    if not final.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".install-", dir=str(home)) as scratch:
            scratch = Path(scratch)
            try:
                done, said = download(scratch)
                if not done:
                    raise Unavailable("apt-get could not get {}: {}".format(PACKAGE, said))
                (package,) = scratch.glob(PACKAGE + "*.deb")
                command = ["dpkg-deb", "-x", str(package), str(scratch / "root")]
                subprocess.run(command, check=True, stdout=sys.stderr)
            except subprocess.TimeoutExpired:
                raise Unavailable("apt-get did not get {} in time".format(PACKAGE))
            except FileNotFoundError as error:
                raise Unavailable("{} is not here, nor is {}".format(LIBRARY, error.filename))
            (scratch / "root").rename(final)
    (found,) = final.rglob(LIBRARY)
    return found.parent


def download(scratch):
    """Downloads the package: by the lists that the system has, or by new ones."""
    known = subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", PACKAGE],
        cwd=str(scratch), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if known.returncode == 0:
        return True, ""
    done, said = apt(scratch, "update")
    return apt(scratch, "download", PACKAGE) if done else (done, said)


def prepare():
    """The program and the folders its libraries are in."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("perf_analyzer was made for Linux on x86_64")
    packages = install("python", REQUIREMENTS, ["--no-deps"])
    folders = [packages / "nvidia" / "cuda_runtime" / "lib"]
    if ctypes.util.find_library("b64") != LIBRARY:
        folders.append(unpack_library(ROOT / ".fugato" / "perf"))
    return packages / "bin" / "perf_analyzer", folders


def main():
    try:
        program, folders = prepare()
    except Unavailable as reason:
        print("SKIPPED {}".format(reason))
        return 0
    except subprocess.CalledProcessError as error:
        print("error: {} failed\n\nhint: its own words are above".format(error.cmd[0]), file=sys.stderr)
        return 2
    print("LD_LIBRARY_PATH={} {}".format(os.pathsep.join(map(str, folders)), program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
