#!/bin/sh
# Says which of the tools that building and testing stand on are missing, all at once, and where to
# get them.
set -u
missing=0

lacks() {
    echo "missing: $1" >&2
    missing=1
}

# Whether version $1 is at least $2, both as major.minor.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

rust=$(rustc --version 2>/dev/null | cut -d ' ' -f 2)
if ! command -v cargo >/dev/null || ! at_least "${rust:-0}" 1.94; then
    lacks "Rust 1.94 or later (found: ${rust:-none}); install it with https://rustup.rs"
fi

command -v cc >/dev/null ||
    lacks "a C compiler, for SQLite; on Debian and Ubuntu: apt install build-essential"

python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
if ! at_least "${python:-0}" 3.10; then
    lacks "Python 3.10 or later (found: ${python:-none}), which Synapse runs on; on Debian and Ubuntu: apt install python3"
elif ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    lacks "Python's venv module; on Debian and Ubuntu: apt install python3-venv"
fi

node=$(node --version 2>/dev/null | tr -d v)
if ! at_least "${node:-0}" 20.0; then
    lacks "Node.js 20 or later (found: ${node:-none}), which matrix-js-sdk runs on; see https://nodejs.org"
elif ! command -v npm >/dev/null; then
    lacks "npm, which comes with Node.js; see https://nodejs.org"
fi

exit "$missing"
