"""Installs a requirements file into a folder of its own and prints that folder.

    python scripts/install_packages.py KIND REQUIREMENTS [PIP OPTIONS..]

The folder is .fugato/KIND/<key>, where the key is made of these words and of this
Python, so a change of either installs anew and nothing is ever half updated. It is
filled elsewhere and renamed, so where it exists it is complete.

Neither a virtual environment nor the system's packages are touched: some distributions
ship Python without venv, and call their own packages externally managed. Python 3.8 or
later, standard library and pip only.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Older ones do not know the wheels of newer C libraries (manylinux_2_28).
PIP_OLDEST = (21, 0)
# The last one for Python 3.8; by hash, as it is a program that installs programs.
PIP_PINNED = (
    "pip==25.0.1 "
    "--hash=sha256:c46efd13b6aa8279f33f2864459c8ce587ea6a1a59ee20de055868d8f7688f7f\n"
)


def pip_version():
    import pip

    return tuple(int(part) for part in pip.__version__.split(".")[:2])


def pip_install(target, requirements, environment, extra=()):
    command = [
        sys.executable, "-m", "pip", "install",
        "--disable-pip-version-check", "--quiet", "--no-warn-script-location",
        "--only-binary=:all:", "--target", str(target),
        "--requirement", str(requirements),
    ]  # fmt: skip
    command.extend(extra)
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def install(kind, requirements, options=()):
    """Installs `requirements` below .fugato/`kind` unless it is there; returns the folder."""
    text = requirements.read_bytes() + "".join(options).encode()
    key = hashlib.sha256(text + sys.version.encode() + platform.machine().encode())
    home = ROOT / ".fugato" / kind
    final = home / key.hexdigest()[:16]
    if final.is_dir():
        return final
    home.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, PIP_ROOT_USER_ACTION="ignore")
    with tempfile.TemporaryDirectory(prefix=".install-", dir=str(home)) as scratch:
        staged = Path(scratch) / "packages"
        if pip_version() < PIP_OLDEST:
            pinned = Path(scratch) / "pip.txt"
            pinned.write_text(PIP_PINNED)
            newer = Path(scratch) / "pip"
            pip_install(newer, pinned, environment)
            environment["PYTHONPATH"] = str(newer)
        pip_install(staged, requirements, environment, options)
        try:
            os.rename(str(staged), str(final))
        except OSError:
            # Another run may have been first; a folder there is a complete one.
            if not final.is_dir():
                raise
    return final


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    kind, requirements = sys.argv[1], Path(sys.argv[2])
    try:
        print(install(kind, requirements, sys.argv[3:]))
    except subprocess.CalledProcessError as error:
        print(
            "error: pip could not install {} (exit code {})\n\nhint: pip's own words are "
            "above".format(requirements, error.returncode),
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
