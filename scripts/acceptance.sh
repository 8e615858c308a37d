#!/bin/sh
# Runs the acceptance suite: scripts/acceptance.sh [PYTEST ARGS..]
#
# The suite starts the release binary and talks to it with clients that are not ours.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
packages=$(scripts/python3 scripts/install_packages.py python tests/python/requirements.txt)
# The user's own packages must not decide what is tested.
export PYTHONNOUSERSITE=1 PYTHONPATH="$packages" PYTHONDONTWRITEBYTECODE=1
export FUGATO_BINARY="${FUGATO_BINARY:-${CARGO_TARGET_DIR:-$root/target}/release/fugato}"
exec scripts/python3 -m pytest -p no:cacheprovider tests/python "$@"
