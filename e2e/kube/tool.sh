#!/bin/bash
# tool.sh BINARY ARCHIVE NAME:TAG: packs a program of this repository's tests, and what it loads, as an image archive.
set -euo pipefail
binary=$1 archive=$2 image=$3
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
umask 022
install -D -m 755 "$binary" "$root/tool"
strip --strip-debug "$root/tool"
for library in $(ldd "$binary" | grep -v ':$' | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
    install -D -m 755 "$library" "$root$library"
done
install -d -m 755 "$root/etc"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
"$here/../../image/archive.sh" "$root" "$archive" "$image" /tool
