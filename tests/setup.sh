#!/bin/sh
# Installs what the tests and the demo stand on: Prometheus, Synapse and what the Python client is
# built on, from PyPI, each into a virtual environment under .work, and the packages of the
# JavaScript client. A second run does nothing.
set -eu

synapse_version=1.163.2
vodozemac_version=0.10.0
root=$(cd "$(dirname "$0")/.." && pwd)

die() {
    echo "setup: $1" >&2
    exit 1
}

# A virtual environment at $1 with the package $2 in version $3, called $4 here.
environment() {
    if [ "$(cat "$1/installed" 2>/dev/null)" = "$3" ]; then
        return
    fi
    command -v python3 >/dev/null || die "python3 is missing: install Python 3.10 or later, with venv"
    echo "setup: installing $4 $3" >&2
    rm -rf "$1"
    python3 -m venv "$1" || die "python3 cannot make a virtual environment: install its venv package"
    "$1/bin/pip" install --quiet --disable-pip-version-check "$2==$3"
    echo "$3" >"$1/installed"
}

environment "$root/.work/synapse" matrix-synapse "$synapse_version" Synapse
# Away from Synapse's, so that neither is held to what the other depends on.
environment "$root/.work/python-client" vodozemac "$vodozemac_version" "vodozemac for Python"

# Prometheus and promtool from Debian's package, unpacked and not installed: nothing is started on this
# machine, and whoever has its package lists needs no root.
fetch_prometheus() {
    apt-get download -qq prometheus 2>/dev/null && return
    [ "$(id -u)" = 0 ] || return
    apt-get update -qq && apt-get download -qq prometheus
}

prometheus() {
    if [ -x "$root/.work/prometheus/usr/bin/promtool" ]; then
        return
    fi
    if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
        return
    fi
    command -v apt-get >/dev/null || die "prometheus and promtool are missing: install Prometheus 2.42 or later"
    echo "setup: fetching Prometheus" >&2
    rm -rf "$root/.work/prometheus" "$root/.work/prometheus.new"
    mkdir -p "$root/.work/prometheus.new"
    (cd "$root/.work/prometheus.new" && fetch_prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb) ||
        die "Prometheus could not be fetched: run 'apt install prometheus' as root"
    mv "$root/.work/prometheus.new" "$root/.work/prometheus"
}

prometheus

tests="$root/tests"
"$tests/packages.sh" "$tests/clients/js" matrix-js-sdk
