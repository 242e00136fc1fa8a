#!/bin/sh
# Checks what deploy/ holds, each part by its own linter or a dry run. It needs a built keeper, to hold the
# configurations against. What no machine without a container engine or a cluster can show is not shown here:
# that the image builds, and that a cluster takes the chart.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
tools="$root/.work/deploy"
keeper=${1:-$root/target/debug/statekeeper}
cd "$root"

die() {
    echo "deploy-check: $1" >&2
    exit 1
}

step() {
    echo "deploy-check: $*"
}

install_tools() {
    wanted=$(cksum <tests/deploy/requirements.txt)
    if [ "$(cat "$tools/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Ansible's linter needs Python 3.11 or later"
    step "installing linters"
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
        --requirement tests/deploy/requirements.txt
    echo "$wanted" >"$tools/installed"
}

# systemd's own judge of units; a machine that runs no systemd may still have it.
see_to_systemd() {
    command -v systemd-analyze >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends systemd >/dev/null
    fi
    command -v systemd-analyze >/dev/null || die "systemd-analyze is missing: install systemd 250 or later"
}

promtool() {
    if [ -x "$root/.work/prometheus/usr/bin/promtool" ]; then
        "$root/.work/prometheus/usr/bin/promtool" "$@"
    else
        command promtool "$@"
    fi
}

[ -x "$keeper" ] || die "no keeper at $keeper: build it first"
install_tools
see_to_systemd
PATH="$tools/bin:$PATH"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step "YAML"
yamllint --strict deploy tests/deploy registration.yaml .yamllint

step "the units"
for unit in statekeeper.service statekeeper-backup.service statekeeper-backup.timer; do
    # `verify` wants the program to be there.
    sed "s#/usr/local/bin/statekeeper#$keeper#" "deploy/systemd/$unit" >"$scratch/$unit"
    systemd-analyze verify --man=no "$scratch/$unit"
done
for unit in statekeeper.service statekeeper-backup.service; do
    # Exposure in tenths: 1.0 of 10, where an unhardened service has 9.6.
    systemd-analyze security --no-pager --offline=true --threshold=10 "deploy/systemd/$unit" | tail -n 1
done

step "the container"
hadolint --strict-labels deploy/container/Containerfile
python3 tests/deploy/container.py "$keeper"
promtool check config --syntax-only deploy/container/prometheus.yml >/dev/null

step "the chart"
python3 tests/deploy/helm.py "$keeper"

step "the role"
(cd deploy/ansible && ansible-lint --offline --strict -q --nocolor roles)
for run in first second; do
    ANSIBLE_ROLES_PATH=deploy/ansible/roles ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_NOCOLOR=1 \
        ansible-playbook --inventory localhost, --extra-vars "folder=$scratch" \
        --skip-tags statekeeper-host tests/deploy/ansible.yaml >"$scratch/$run" || {
        cat "$scratch/$run" >&2
        die "the role failed"
    }
done
grep -q 'changed=0 ' "$scratch/second" || die "the role changes something each time it runs"
"$keeper" check --config "$scratch/statekeeper/config/config.yaml"
systemd-analyze verify --man=no "$scratch/matrix-statekeeper.service" 2>"$scratch/unit" ||
    # No container engine here, so its program and its service are unknown.
    ! grep -vE 'docker' "$scratch/unit" >&2 || die "the role's unit is wrong"
echo "deploy-check: all is well"
