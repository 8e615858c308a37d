#!/usr/bin/env bash
# The demo: serves three models of the zoo, sends an open-loop Poisson load over gRPC and
# HTTP at once, checks every answer against the model run by itself, prints a table and
# stops the server. `make demo` builds what it needs first.
#
#   SERVE=1   use the default ports and keep serving after the load, until Ctrl-C
#   FUGATO    the binary (default: the release build)
#
# Everything is written below .fugato/demo; the server's log is serve.log there.

set -euo pipefail
cd "$(dirname "$0")/.."

fugato=${FUGATO:-${CARGO_TARGET_DIR:-target}/release/fugato}
demo=.fugato/demo
models=(squeezenet1_1 mobilenet_v2 bert-tiny)
ready_seconds=120
# Far below what an idle machine reaches (all of it), so that a busy one passes.
attainment=0.9
server=

say() { printf 'demo: %s\n' "$*" >&2; }

fail() {
    say "$*"
    if [ -s "$demo/serve.log" ]; then
        say "the end of the server's log:"
        tail -n 20 "$demo/serve.log" >&2
    fi
    exit 1
}

# Asks the server to stop, waits until it has, and keeps its exit status in $status.
stop_server() {
    status=0
    if [ -n "$server" ]; then
        local pid=$server
        server=
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" || status=$?
    fi
}

trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -x "$fugato" ] || fail "there is no binary at $fugato; run 'make build'"
mkdir -p "$demo"
rm -f "$demo/ready.json" "$demo/serve.log"

say "writing ${models[*]} to $demo/models"
named=()
for model in "${models[@]}"; do named+=(--model "$model"); done
"$fugato" zoo write --out "$demo/models" "${named[@]}"

say "writing what each answers by itself to $demo/expected"
"$fugato" model expect --model-repository "$demo/models" --out "$demo/expected" \
    "${named[@]}" --integers input_ids=30522 >/dev/null

ports=(--http-port 0 --grpc-port 0 --metrics-port 0)
[ "${SERVE:-}" = 1 ] && ports=()
"$fugato" serve --model-repository "$demo/models" --ready-file "$demo/ready.json" \
    ${ports[@]+"${ports[@]}"} >"$demo/serve.log" 2>&1 &
server=$!

tries=$((ready_seconds * 10))
until [ -s "$demo/ready.json" ]; do
    kill -0 "$server" 2>/dev/null || fail "the server stopped before it was ready"
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "the server was not ready after $ready_seconds s"
    sleep 0.1
done

# The address that ready.json gives for a protocol, without a scheme.
address() {
    tr -d '\n' <"$demo/ready.json" | sed -n "s/.*\"$1\" *: *\"\([a-z]*:\/\/\)\{0,1\}\([^\"]*\)\".*/\2/p"
}
http=$(address http)
grpc=$(address grpc)
[ -n "$http" ] && [ -n "$grpc" ] || fail "ready.json does not name the addresses"
say "serving at http://$http and grpc://$grpc"

checks=0
"$fugato" bench --url "grpc://$grpc" --url "http://$http" --workload examples/demo.toml \
    --expect "$demo/expected" --assert-attainment "$attainment" \
    --server-pid "$server" --out "$demo/report.json" || checks=$?

kill -0 "$server" 2>/dev/null || fail "the server stopped under load"
if [ "${SERVE:-}" = 1 ]; then
    say "still serving; Ctrl-C stops"
    wait "$server" || fail "the server ended with status $?"
    server=
    exit "$checks"
fi
stop_server
[ "$status" -eq 0 ] || fail "the server ended with status $status, expected 0"
[ "$checks" -eq 0 ] || fail "the load generator found a fault (status $checks)"
say "every answer was right; the server drained and stopped"
