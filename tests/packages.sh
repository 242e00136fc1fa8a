#!/bin/sh
# Installs the packages that the folder $1 locks from npm, called $2 here. A second run does nothing.
set -eu

# The stamp lies inside node_modules, so removing that directory is enough to start over.
lock=$(cksum <"$1/package-lock.json")
if [ "$(cat "$1/node_modules/.installed" 2>/dev/null)" = "$lock" ]; then
    exit
fi
if ! command -v npm >/dev/null; then
    echo "setup: npm is missing: install Node.js 20 or later" >&2
    exit 1
fi
echo "setup: installing $2" >&2
cd "$1"
npm ci --silent --no-audit --no-fund --engine-strict=false
echo "$lock" >node_modules/.installed
