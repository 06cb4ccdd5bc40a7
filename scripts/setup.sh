#!/bin/sh
# Gets all that `npm run demo` and `npm test` need on Debian 12 or 13: npm packages, Debian packages, the lab's guest and
# QEMUs. Does nothing where all is there.
set -eu
cd "$(dirname "$0")/.."

# npm writes this file when it has installed all.
installed=node_modules/.package-lock.json
if [ ! -e "$installed" ] || [ package-lock.json -nt "$installed" ]; then
  echo "setup: npm packages (npm ci)"
  npm ci --no-audit --no-fund
  touch "$installed"
fi
PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin" # our Node 24 first; mkfs.ext4, ip and tc last

missing=
need() { # need PACKAGE COMMAND-OR-FILE...
  package=$1
  shift
  for thing; do
    case $thing in
      /*) [ -e "$thing" ] || { missing="$missing $package"; return 0; } ;;
      *) command -v "$thing" >/dev/null || { missing="$missing $package"; return 0; } ;;
    esac
  done
}
need gcc gcc
need libc6-dev /usr/include/stdio.h /usr/lib/x86_64-linux-gnu/libc.a
need e2fsprogs mkfs.ext4
need openssl openssl
need dpkg dpkg-deb
need debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
[ "$(id -u)" -ne 0 ] || need iproute2 ip tc # only root may make hosts with a network of their own

if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: the lab needs Debian 12 or 13: there is no apt-get (missing:$missing)" >&2
    exit 1
  elif [ "$(id -u)" -ne 0 ]; then
    echo "setup: Debian packages are missing; as root, run this, then try again:" >&2
    echo "    apt-get update && apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  echo "setup: Debian packages:$missing"
  apt-get install --no-install-recommends --assume-no $missing | grep -E '^(Need to get|After this)' || true
  apt-get -qq install --no-install-recommends -y $missing >/dev/null
fi

exec node lab/prepare.ts
