#!/bin/sh
# Installs what the end-to-end tests and the demo stand on: Synapse, from PyPI, into a virtual
# environment under .work, and the packages of the JavaScript client. A second run does nothing.
set -eu

synapse_version=1.163.2
root=$(cd "$(dirname "$0")/.." && pwd)
synapse="$root/.work/synapse"
js="$root/tests/clients/js"

die() {
    echo "setup: $1" >&2
    exit 1
}

if [ "$(cat "$synapse/installed" 2>/dev/null)" != "$synapse_version" ]; then
    command -v python3 >/dev/null || die "python3 is missing: install Python 3.10 or later, with venv"
    echo "setup: installing Synapse $synapse_version" >&2
    rm -rf "$synapse"
    python3 -m venv "$synapse" || die "python3 cannot make a virtual environment: install its venv package"
    "$synapse/bin/pip" install --quiet --disable-pip-version-check "matrix-synapse==$synapse_version"
    echo "$synapse_version" >"$synapse/installed"
fi

# The stamp lies inside node_modules, so removing that directory is enough to start over.
lock=$(cksum <"$js/package-lock.json")
if [ "$(cat "$js/node_modules/.installed" 2>/dev/null)" != "$lock" ]; then
    command -v npm >/dev/null || die "npm is missing: install Node.js 20 or later"
    echo "setup: installing matrix-js-sdk" >&2
    (cd "$js" && npm ci --silent --no-audit --no-fund --engine-strict=false)
    echo "$lock" >"$js/node_modules/.installed"
fi
