#!/usr/bin/env bash
# Static programs for ARM, made on Debian x86-64 out of Debian's own packages.
#
#   k3s/build-arm.sh [--target aarch64|armv7]... [--out DIR] [proxy|controller|cli]...
#
# By default both targets and all three programs; they are laid down as DIR/TARGET/PROGRAM (DIR: target/arm/out).
#
# rustup has no ARM standard library to give where only Debian's archive is reached, so the compiler is Debian's rustc-web, unpacked
# (not installed) beside the build. Debian ships its standard library for arm64; armv7's is built once from rust-web-src. The C library is
# glibc, linked statically: simplest, and cheapest per connection. What is unpacked stays in ISOBAR_ARM_TOOLCHAIN (target/arm/rust)
# and is used again.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=()
programs=()
out=target/arm/out
while [ $# -gt 0 ]; do
  case "$1" in
    --target) targets+=("${2:?--target needs aarch64 or armv7}"); shift 2 ;;
    --out) out="${2:?--out needs a directory}"; shift 2 ;;
    proxy | controller | cli) programs+=("$1"); shift ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=(aarch64 armv7)
[ ${#programs[@]} -gt 0 ] || programs=(proxy controller cli)

rust="$(realpath -m "${ISOBAR_ARM_TOOLCHAIN:-target/arm/rust}")"
builds="$(realpath -m target/arm/build)"
apt() { apt-get -o DPkg::Lock::Timeout=600 -qq "$@" >/dev/null; }

triple() {
  case "$1" in
    aarch64) echo aarch64-unknown-linux-gnu ;;
    armv7) echo armv7-unknown-linux-gnueabihf ;;
    *) echo "build-arm.sh: --target is $1, must be aarch64 or armv7" >&2; exit 2 ;;
  esac
}
linker() {
  case "$1" in
    aarch64) echo aarch64-linux-gnu-gcc ;;
    armv7) echo arm-linux-gnueabihf-gcc ;;
  esac
}

# The packages that a target needs, unless they are there.
install_linker() {
  command -v "$(linker "$1")" >/dev/null && return
  case "$1" in
    aarch64) apt install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
    armv7) apt install -y --no-install-recommends gcc-arm-linux-gnueabihf libc6-dev-armhf-cross ;;
  esac
}

# A cross compiler of GCC takes another linker only by the name `ld`, from a directory that it is told of.
install_lld() {
  command -v ld.lld >/dev/null || apt install -y --no-install-recommends lld
  mkdir -p "$rust/linker"
  ln -sf "$(command -v ld.lld)" "$rust/linker/ld"
}

unpack_rust() {
  [ -e "$rust/complete" ] && return
  dpkg --print-foreign-architectures | grep -qx arm64 || dpkg --add-architecture arm64
  apt update
  apt install -y --no-install-recommends libz3-4 libedit2 libxml2
  local version std packages llvm
  packages="$(mktemp -d)"
  version="$(apt-cache policy rustc-web | awk '/Candidate/{print $2}')"
  std="libstd-rust-web-${version%%.0+*}"
  llvm="$(apt-cache show "$std=$version" | grep -o 'libllvm[0-9]*' | head -1)"
  chmod 755 "$packages"
  (cd "$packages" && apt -o APT::Sandbox::User=root download "rustc-web=$version" "rust-web-src=$version" "$std=$version" \
    "libstd-rust-web-dev:amd64=$version" "libstd-rust-web-dev:arm64=$version" "$llvm")
  rm -rf "$rust" && mkdir -p "$rust"
  for package in "$packages"/*.deb; do dpkg -x "$package" "$rust"; done
  rm -rf "$packages"
  # rustc looks for its parts, and for the standard library, from where its driver library lies.
  for library in "$rust"/usr/lib/x86_64-linux-gnu/librustc_driver-*.so "$rust"/usr/lib/x86_64-linux-gnu/libLLVM.so.*; do
    ln -sf "x86_64-linux-gnu/${library##*/}" "$rust/usr/lib/"
  done
  # The packages expect to lie under /usr.
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$rust/usr/lib" "$rust/usr/bin/rustc" >"$rust/rustc"
  chmod +x "$rust/rustc"
  touch "$rust/complete"
}

# Builds the standard library for a target that Debian has none for. RUSTC_BOOTSTRAP: building std is unstable in cargo, its result is the
# same release as the compiler.
build_std() {
  local target work
  target="$(triple "$1")"
  compgen -G "$rust/usr/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null && return
  work="$(mktemp -d)"
  mkdir "$work/src"
  printf '#![no_std]\n' >"$work/src/lib.rs"
  cat >"$work/Cargo.toml" <<'TOML'
cargo-features = ["profile-rustflags"]
[package]
name = "std-only"
version = "0.1.0"
edition = "2021"
[profile.release.package.panic_abort]
rustflags = ["-Cpanic=abort"]
TOML
  (cd "$work" && RUSTC="$rust/rustc" RUSTFLAGS="-C embed-bitcode=yes" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$work/build" \
    cargo build -q --release -Zbuild-std=std,panic_abort,panic_unwind --target "$target")
  mkdir -p "$rust/usr/lib/rustlib/$target/lib"
  cp "$work/build/$target"/release/deps/*.rlib "$rust/usr/lib/rustlib/$target/lib/"
  rm -f "$rust/usr/lib/rustlib/$target/lib"/libstd_only-*.rlib
  rm -rf "$work"
}

package_of() {
  case "$1" in
    proxy) echo isobar-edge-proxy isobar-proxy ;;
    controller) echo isobar-controller isobar-controller ;;
    cli) echo isobar-cli isobar ;;
  esac
}

# Little is taken into its callers beyond what asks for it, functions that came out alike are kept once, and relocations are packed:
# 1 MB less than without, for 1.5 % more instructions per request (docs/decisions/0009-cost-per-request.md).
flags=(
  -C target-feature=+crt-static
  -C llvm-args=-inline-threshold=20
  -C "link-arg=-B$rust/linker"
  -C link-arg=-Wl,--icf=all,--pack-dyn-relocs=relr
)

for name in "${targets[@]}"; do triple "$name" >/dev/null; done
unpack_rust
install_lld
for name in "${targets[@]}"; do
  target="$(triple "$name")"
  install_linker "$name"
  build_std "$name"
  variable="${target//-/_}"
  export "CARGO_TARGET_${variable^^}_LINKER=$(linker "$name")"
  export "CARGO_TARGET_${variable^^}_RUSTFLAGS=${flags[*]}"
  mkdir -p "$out/$name"
  for program in "${programs[@]}"; do
    read -r package binary <<<"$(package_of "$program")"
    RUSTC="$rust/rustc" CARGO_TARGET_DIR="$builds" \
      cargo build -q --locked --profile dist --target "$target" -p "$package" --bin "$binary"
    install -m 755 "$builds/$target/dist/$binary" "$out/$name/$binary"
    printf '%s %s bytes\n' "$out/$name/$binary" "$(stat -c %s "$out/$name/$binary")"
  done
done
