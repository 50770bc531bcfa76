#!/bin/bash
# root.sh BINARY FOLDER: lays out the image's files: the binary, nft for `meshfed proxy init`, and only what these two
# load. No shell, no package manager, nothing that is written at run time.
set -euo pipefail
binary=$1 root=$2
umask 022
nft=$(PATH=$PATH:/usr/sbin:/sbin command -v nft) || { echo "image: nft is not here; it comes with the package nftables" >&2; exit 1; }

libraries() { # what a program loads, its loader included
    local out; out=$(ldd "$1") || { echo "image: $1 is not a dynamic program: $out" >&2; return 1; }
    if grep -q 'not found' <<< "$out"; then echo "image: $1 misses a library: $out" >&2; return 1; fi
    grep -o '/[^ ]*\.so[^ ]*' <<< "$out"
}
install -D -m 755 "$binary" "$root/meshfed"
# Lines of source for a backtrace would be most of the image.
strip --strip-debug "$root/meshfed"
install -D -m 755 "$nft" "$root/usr/sbin/nft"
wanted=$(libraries "$binary"; libraries "$nft")
while read -r library; do
    [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
done <<< "$wanted"
# Names: first the kubelet's /etc/hosts, then DNS.
install -d -m 755 "$root/etc"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
