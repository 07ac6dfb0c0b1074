# SPDX-License-Identifier: Apache-2.0
# Functions the other scripts share: installing what is missing, finding Swift, building. Sourced, not run.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# as_root COMMAND...: runs it as root, by sudo if need be.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "must be root, or have sudo, to run: $*"
  fi
}

# need_packages NAME...: installs the Debian packages that are not here yet. Services of new packages are
# kept from starting: Postfix must not begin to listen because a test needed its programs.
need_packages() {
  local missing=() name
  for name in "$@"; do
    if ! dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed'; then
      missing+=("$name")
    fi
  done
  [ ${#missing[@]} = 0 ] && return 0
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  echo "installing: ${missing[*]}" >&2
  local policy=/usr/sbin/policy-rc.d made=0 failed=0
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    made=1
  fi
  install_now "${missing[@]}" || failed=1
  if [ "$failed" = 1 ]; then
    # The lists of a fresh machine are empty or old.
    failed=0
    as_root apt-get update -qq >&2 || true
    install_now "${missing[@]}" || failed=1
  fi
  if [ "$made" = 1 ]; then as_root rm -f "$policy"; fi
  # Not at the next boot either. Only if it is new here: an MTA that was in use before stays as it is.
  if [[ " ${missing[*]} " == *" postfix "* ]] && command -v systemctl >/dev/null; then
    as_root systemctl disable -q postfix.service >/dev/null 2>&1 || true
  fi
  if [ "$failed" = 1 ]; then die "apt-get could not install: ${missing[*]}"; fi
}

install_now() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

# unpack_package NAME: the package and what of its dependencies is not here, in .build/mail-servers/NAME, unpacked
# and not installed: Debian has room for one mail server, and that is Postfix. No root is needed.
unpack_package() {
  local name="$1" place="$root/.build/mail-servers/$1" list
  [ -e "$place/complete" ] && return 0
  echo "unpacking: $name" >&2
  rm -rf "$place"
  mkdir -p "$place/packages" "$place/root"
  list="$(would_install "$name")"
  if [ -z "$list" ]; then
    as_root apt-get update -qq >&2 || true
    list="$(would_install "$name")"
  fi
  # Names of packages hold nothing that a shell would take apart.
  # shellcheck disable=SC2086
  (cd "$place/packages" && apt-get download -qq $list >&2) || return 1
  for list in "$place"/packages/*.deb; do dpkg -x "$list" "$place/root" || return 1; done
  rm -rf "$place/packages"
  touch "$place/complete"
}

# would_install NAME: it and all that apt would install with it.
would_install() {
  apt-get install -s -qq --no-install-recommends "$1" 2>/dev/null |
    sed -n 's/^Inst \([^ ]*\) .*/\1/p' || true
}

# find_swift: puts swift on the PATH if it is in one of the usual places.
find_swift() {
  local place
  if ! command -v swift >/dev/null; then
    for place in /opt/swift/usr/bin /usr/share/swift/usr/bin "$HOME/.local/share/swiftly/bin"; do
      if [ -x "$place/swift" ]; then
        export PATH="$place:$PATH"
        break
      fi
    done
  fi
  command -v swift >/dev/null || die "Swift 6.3 is needed: https://www.swift.org/install/linux/"
}

# What every build needs beside Swift: the ring library, OpenSSL, c-ares, and git for the package's dependencies.
need_build_packages() {
  need_packages git ca-certificates pkg-config liburing-dev libssl-dev libc-ares-dev
  find_swift
}

# build_release: .build/release/sluice. The build's output goes to standard error.
build_release() {
  need_build_packages
  swift build -c release --product sluice >&2
}

# build_tests: the debug build with all unit tests.
build_tests() {
  need_build_packages
  swift build --build-tests >&2
}
