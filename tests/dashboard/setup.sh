#!/bin/sh
# Installs what the dashboard is looked at with: Chromium, as Debian has it, and from npm what drives it and the rules
# of accessibility. A second run does nothing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

# CHROMIUM names one that is not on PATH.
has_chromium() {
    if [ -n "${CHROMIUM:-}" ]; then
        [ -x "$CHROMIUM" ]
        return
    fi
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}

# It needs dozens of libraries, so it is installed and not unpacked.
if ! has_chromium && [ -z "${CHROMIUM:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing Chromium" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium >/dev/null
fi
if ! has_chromium; then
    echo "setup: Chromium is missing: run 'apt install chromium' as root, or name one with CHROMIUM=/path/to/it" >&2
    exit 1
fi
"$here/../packages.sh" "$here" "axe-core and puppeteer"
