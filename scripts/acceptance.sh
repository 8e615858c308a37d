#!/bin/sh
# Runs the acceptance suite: scripts/acceptance.sh [PYTEST ARGS..]
#
# The suite starts the release binary and talks to it with clients that are not ours. The
# part in tests/python/conformance is run once for each version of Triton's client; with
# arguments, only the run with the newest client takes place.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
# Prints the folder of a requirements file; what it holds is installed once.
packages() {
    scripts/python3 scripts/install_packages.py python "$@"
}

newest=$(packages tests/python/requirements.txt)
# The user's own packages must not decide what is tested.
export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
export FUGATO_BINARY="${FUGATO_BINARY:-${CARGO_TARGET_DIR:-$root/target}/release/fugato}"
run() {
    folder=$1
    shift
    PYTHONPATH="$folder" scripts/python3 -m pytest -p no:cacheprovider -rs "$@"
}

FUGATO_PERF_ANALYZER=$(scripts/python3 scripts/perf_analyzer.py) || exit 2
export FUGATO_PERF_ANALYZER
if [ $# -gt 0 ]; then
    run "$newest" tests/python "$@"
    exit
fi
run "$newest" tests/python
if scripts/python3 -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    FUGATO_TRITONCLIENT=2.50.0 run "$(packages tests/python/requirements-2.50.txt)" \
        tests/python/conformance
else
    echo "SKIPPED conformance with tritonclient 2.50.0: what it needs has no wheels for" \
        "this Python; set FUGATO_PYTHON to a Python 3.8 to 3.11"
fi
