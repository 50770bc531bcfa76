#!/bin/bash
# images.sh: packs programs of build.sh, and tools of this machine, as image archives; prints the folder that holds them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
if [ -e "$IMAGES/complete" ]; then echo "$IMAGES"; exit 0; fi
"$kube/build.sh" > /dev/null
mkdir -p "$IMAGES"
exec 9> "$cache/$key/lock"
flock 9
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022

empty() {
    rm -rf "$root"
    mkdir -p "$root"/{bin,etc}
    mkdir -m 1777 "$root/tmp"
    echo root:x:0:0:root:/:/bin/sh > "$root/etc/passwd"
    echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
}
add_busybox() { # a static shell and its applets
    for applet in $(/bin/busybox --list); do ln -s busybox "$root/bin/$applet"; done
    cp --remove-destination /bin/busybox "$root/bin/" # the list names busybox, too
}
add_dynamic() { # programs of this machine, with the libraries that they load
    for file in "$@" $(ldd "$@" | grep -v ':$' | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
        mkdir -p "$root${file%/*}"
        cp -L "$file" "$root$file"
    done
}
archive() { "$kube/../../image/archive.sh" "$root" "$IMAGES/$1.tar" "localhost/$2" "${@:3}"; }

empty; cp "$BIN/pause" "$root/"; archive pause pause:3.10 /pause
empty; cp "$BIN/coredns" "$root/"; archive coredns coredns:test /coredns
empty; add_busybox; cp "$BIN/agnhost" "$root/"; archive agnhost agnhost:test /agnhost
# busybox has an `ip` of its own, which its shell would prefer.
empty; add_busybox; rm "$root/bin/ip"; add_dynamic /usr/sbin/nft "$(command -v ip)" "$(command -v curl)"; archive nettools nettools:test
touch "$IMAGES/complete"
echo "$IMAGES"
