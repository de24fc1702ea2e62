#!/usr/bin/env bash
# Builds the guests: the WebAssembly modules beside this script, and manifest.toml, which says from what.
#
#   build.sh            build with $CLANG and replace the modules and the manifest
#   build.sh --check    change nothing; rebuild in a temporary folder and compare with what is committed:
#                       the compiler that the manifest names must give the same bytes; any other one
#                       must give modules with the same trees over corpus/ (runs `cargo test`).
#
# Needs clang and wasm-ld with the wasm32 target (Debian: clang-19 lld-19) and cargo, which fetches the
# sources that sources/Cargo.lock pins. A build of the crate itself needs none of this.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
clang=${CLANG:-clang-19}
linker=${WASM_LD:-wasm-ld-19}
check=false
case "${1:-}" in
  "") ;;
  --check) check=true ;;
  *) echo "usage: build.sh [--check]" >&2; exit 2 ;;
esac

target_flags=(--target=wasm32-unknown-unknown -nostdlibinc -ffreestanding
  -mcpu=mvp -mbulk-memory -mmutable-globals -msign-ext)
compile_flags=(-std=c11 -O2 -fvisibility=hidden -w
  -DTREE_SITTER_WASM_STDLIB -DTREE_SITTER_HIDE_SYMBOLS '-DTS_WASM_EXPORT(n)=')
link_flags=(--no-entry --import-memory --strip-all --gc-sections --stack-first
  -z stack-size=1048576 --max-memory=1073741824)

cargo fetch --quiet --locked --manifest-path "$here/sources/Cargo.toml"
metadata=$(cargo metadata --locked --offline --format-version 1 --manifest-path "$here/sources/Cargo.toml")

# source NAME: the folder in which cargo unpacked that package.
source_of() {
  local found
  found=$(grep -oE "\"manifest_path\":\"[^\"]*/$1-[0-9][^/\"]*/Cargo\.toml\"" <<<"$metadata" | cut -d'"' -f4)
  [ "$(wc -l <<<"$found")" = 1 ] && [ -f "$found" ] || { echo "no single source of $1" >&2; exit 1; }
  dirname "$found"
}
runtime=$(source_of tree-sitter)
headers=$(source_of tree-sitter-language)/wasm/include

compiler_version=$("$clang" --version | head -n 1)
linker_version=$("$linker" --version | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/out"

# guest NAME PACKAGE FOLDER SYMBOL: one grammar, one module.
guest() {
  local name=$1 package=$2 symbol=$4 root folder objects=() file
  root=$(source_of "$package")
  folder=$root/$3
  # No path of this machine may reach the module: assertions carry the names of their files.
  local flags=("${target_flags[@]}" "${compile_flags[@]}" -isystem "$headers"
    "-ffile-prefix-map=$runtime=tree-sitter" "-ffile-prefix-map=$root=grammar"
    "-ffile-prefix-map=$headers=include" "-ffile-prefix-map=$here=guest")
  for file in "$runtime/src/lib.c" "$here/shim.c" "$folder/parser.c" "$folder/scanner.c"; do
    local object
    object="$work/$name.$(basename "$file").o"
    case "$file" in
      "$folder"/*) "$clang" "${flags[@]}" -I "$folder" -c "$file" -o "$object" ;;
      *) "$clang" "${flags[@]}" -I "$runtime/include" -I "$runtime/src" "-DGRAMMAR=$symbol" -c "$file" -o "$object" ;;
    esac
    objects+=("$object")
  done
  "$linker" "${link_flags[@]}" "${objects[@]}" -o "$work/out/$name.wasm"
}

guest javascript tree-sitter-javascript src tree_sitter_javascript
guest python tree-sitter-python src tree_sitter_python
guest rust tree-sitter-rust src tree_sitter_rust
guest tsx tree-sitter-typescript tsx/src tree_sitter_tsx
guest typescript tree-sitter-typescript typescript/src tree_sitter_typescript

{
  echo "# Written by build.sh: what the modules beside this file were made with."
  echo "compiler = \"$compiler_version\""
  echo "linker = \"$linker_version\""
  echo "flags = \"${target_flags[*]} ${compile_flags[*]}\""
  echo "link_flags = \"${link_flags[*]}\""
  echo
  echo "[sources]"
  for package in tree-sitter tree-sitter-language tree-sitter-javascript tree-sitter-python tree-sitter-rust tree-sitter-typescript; do
    folder=$(basename "$(source_of "$package")")
    echo "$package = \"${folder#"$package"-}\""
  done
  for module in "$work"/out/*.wasm; do
    echo
    echo "[modules.$(basename "$module" .wasm)]"
    echo "bytes = $(stat -c %s "$module")"
    echo "sha256 = \"$(sha256sum "$module" | cut -d' ' -f1)\""
  done
} >"$work/out/manifest.toml"

if ! $check; then
  install -m 644 "$work"/out/* "$here/"
  echo "built with $compiler_version"
  exit 0
fi

# What is committed must first agree with its own manifest, whatever compiler is at hand.
for module in "$here"/*.wasm; do
  hash=$(sha256sum "$module" | cut -d' ' -f1)
  grep -q "^sha256 = \"$hash\"$" "$here/manifest.toml" || { echo "$module is not the one in manifest.toml" >&2; exit 1; }
done

if [ "$(sed -n '2,3p' "$here/manifest.toml")" = "$(sed -n '2,3p' "$work/out/manifest.toml")" ]; then
  for file in "$work"/out/*; do
    cmp "$file" "$here/$(basename "$file")" || { echo "guests: a rebuild with the same compiler gave other bytes" >&2; exit 1; }
  done
  echo "guests: rebuilt with the same compiler ($compiler_version), same bytes"
  exit 0
fi

# Another compiler: the crate's own corpus test runs in a copy of the crate that holds the rebuilt modules.
crate=$(cd "$here/../../../.." && pwd)
target=$(cargo metadata --no-deps --format-version 1 --manifest-path "$crate/Cargo.toml" |
  grep -oE '"target_directory":"[^"]*"' | cut -d'"' -f4)
mkdir "$work/crate"
tar -C "$crate" --exclude=target --exclude=.git -cf - . | tar -C "$work/crate" -xf -
cp "$work"/out/*.wasm "$work/crate/src/ast/wasm/guests/"
# A name that no test bears any more would pass as well: the one that compares has to have run.
cargo test --locked --features wasm --lib --manifest-path "$work/crate/Cargo.toml" \
  --target-dir "$target" -- ast::wasm::corpus 2>&1 | tee "$work/tests.txt"
grep -q '^test ast::wasm::corpus::the_trees_of_the_corpus_are_those_that_are_committed \.\.\. ok$' "$work/tests.txt" ||
  { echo "guests: the test of the corpus did not run" >&2; exit 1; }
echo "guests: rebuilt with another compiler ($compiler_version), same trees over the corpus"
