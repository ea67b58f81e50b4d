#!/usr/bin/env bash
# The providers of cryptography that rustls can have, side by side: ring and aws-lc-rs, on this machine and for 64-bit ARM.
#
#   tests/providers.sh
#
# For each: whether and in how much processor time it builds, the size of a stripped program that does nothing but TLS 1.3 with
# certificates on both sides (tests/providers), and what that program measures in SECONDS_EACH (5) seconds of a processor: a
# handshake of client and server together, and bulk data sealed and opened. ARM needs the compiler that
# `k3s/build-arm.sh --target aarch64 proxy` unpacks; its program runs in qemu-user, which translates instruction by instruction:
# those times tell only one provider from the other, roughly.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${SECONDS_EACH:-5}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
rust="$PWD/target/arm/rust/rustc"
builds="$PWD/target/providers"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
key "$work/root-key.pem"
openssl req -x509 -new -key "$work/root-key.pem" -days 2 -subj /CN=root -out "$work/roots.pem" -addext 'keyUsage=critical,keyCertSign' 2>/dev/null
key "$work/a-key.pem"
openssl req -new -key "$work/a-key.pem" -subj / -out "$work/a.csr" 2>/dev/null
openssl x509 -req -in "$work/a.csr" -CA "$work/roots.pem" -CAkey "$work/root-key.pem" -CAcreateserial -days 2 -out "$work/a.pem" \
    -extfile <(printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n') 2>/dev/null

# measure PROVIDER PROCESSOR RUNNER... : what was built into $builds/PROVIDER is in $program
measure() {
    local provider="$1" processor="$2" program="$3"; shift 3
    read -r handshake rate < <("$@" "$program" "$work" "$seconds")
    printf '| %s | %s | %s | %s | %s | %s |\n' "$provider" "$processor" "$cpu" "$(stat -c %s "$program")" "$handshake" "$rate"
}
# build PROVIDER ARGUMENTS... : sets $cpu to the seconds of processor time that it took
build() {
    local provider="$1"; shift
    rm -rf "$builds/$provider"
    TIMEFORMAT='%U %S'
    { time cargo build -q --release --manifest-path tests/providers/Cargo.toml --target-dir "$builds/$provider" --features "$provider" "$@" 2>"$work/log"; } 2>"$work/time" \
        || { cat "$work/log" >&2; return 1; }
    cpu="$(awk '{print int($1 + $2)}' "$work/time")"
}

printf '| provider | processor | build, s of a core | bytes | handshake, µs | MB/s |\n|---|---|---|---|---|---|\n'
for provider in ring aws-lc; do
    build "$provider"
    measure "$provider" "$(uname -m)" "$builds/$provider/release/isobar-providers"
    [ -x "$rust" ] || continue
    triple=aarch64-unknown-linux-gnu
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    RUSTC="$rust" RUSTFLAGS='-C target-feature=+crt-static' build "$provider" --target "$triple" || continue
    measure "$provider" 'aarch64, qemu-user' "$builds/$provider/$triple/release/isobar-providers" qemu-aarch64-static
done
