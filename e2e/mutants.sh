#!/usr/bin/env bash
# Replays one-line mutations: each must turn its test red. A mutation is FILE, a sed expression that changes exactly one
# line, and the cargo arguments of the test that must notice. The work tree must be clean; every file is put back.
# `mutants.sh WORD` replays only the lines that hold WORD, say a crate's folder.
set -euo pipefail
cd "$(dirname "$0")/.."
list="e2e/mutants.tsv"
only="${1:-}"
[ -z "$(git status --porcelain -- '*.rs')" ] || { echo "mutants: commit or stash your changes first"; exit 1; }
survived=0 count=0
while IFS=$'\t' read -r file expression arguments; do
  case "$file" in ''|'#'*) continue ;; esac
  case "$file $expression $arguments" in *"$only"*) ;; *) continue ;; esac
  count=$((count + 1))
  cp "$file" "$file.orig"
  sed -i -E "$expression" "$file"
  if [ "$(diff "$file.orig" "$file" | grep -c '^>')" != 1 ]; then
    mv "$file.orig" "$file"
    echo "STALE    $file  $expression"
    survived=$((survived + 1))
    continue
  fi
  # A test from outside builds the binary itself: what does not compile must not look like a red test.
  build=true
  case "$arguments" in *meshfed-e2e*) build="cargo build --quiet --workspace --bins" ;; esac
  # shellcheck disable=SC2086
  if ! $build >/dev/null 2>&1 || ! cargo test --quiet --no-run $arguments >/dev/null 2>&1; then
    echo "BROKEN   $file  $expression"
    survived=$((survived + 1))
  elif cargo test --quiet $arguments >/dev/null 2>&1; then
    echo "SURVIVED $file  $expression"
    survived=$((survived + 1))
  else
    echo "noticed  $file  $expression"
  fi
  mv "$file.orig" "$file"
  touch "$file"
done < "$list"
echo "$count mutations, $survived not noticed"
[ "$survived" = 0 ]
