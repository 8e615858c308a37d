#!/bin/sh
# Checks the dependencies by the rules of deny.toml.
#
# Licences, sources and duplicates are judged from Cargo.lock and must pass. Advisories
# need a database that is fetched from a repository of its own; where that cannot be
# reached the check says so instead of failing for it, and where it can, it must pass.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scripts/tool cargo-deny check --hide-inclusion-graph bans licenses sources

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if scripts/tool cargo-deny fetch db >"$log" 2>&1; then
    scripts/tool cargo-deny check --disable-fetch advisories
else
    echo "deny: SKIPPED advisories, whose database could not be fetched:"
    tail -n 2 "$log"
fi
