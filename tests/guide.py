#!/usr/bin/env python3
"""Follows the guides word for word, as a new operator would.

    tests/guide.py [KEEPER]

Every `sh` block is run as it stands, in one shell; every `file:` block is written as it stands; what a `text` block shows
has to be in the output of the commands before it. It all happens in name spaces of its own: /etc, /usr/local, /var/lib and
/var/backups are laid over with memory, and the network has nothing but its loopback. So the machine stays as it is, and
the guides' ports and paths are the guides' own.

What is not as on an operator's machine, and why:
- Blocks marked `before the test` are not run: the keeper is built already, and there is nobody to type a password.
- `sudo` and `systemctl` are stand-ins (below). A machine under test may have neither sudo nor a running systemd. The
  stand-in starts what the installed unit says, as the user that it says, and waits for READY=1 where it says `notify`, or
  for the end where it says `oneshot`. A timer is looked at and no more. The
  unit's sandbox is not put up: `make deploy-check` has systemd's own tools look at that.
- Synapse is the one from PyPI and runs as root, started by the stand-in with Debian's folders and arguments. That its user
  can read the registration is looked at.
"""

import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDES = ["docs/guides/production.md", "docs/guides/upgrade.md", "docs/guides/backup.md"]
INSIDE = "STATEKEEPER_GUIDE"
PASSWORD = "a password for this test alone"
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL)

SUDO = """#!/bin/sh
if [ "$1" = -u ]; then
    user=$2
    shift 2
    exec runuser -u "$user" -- "$@"
fi
exec "$@"
"""

SYSTEMCTL = """#!/bin/sh
exec python3 {script} systemctl "$@"
"""

HOMESERVER = """
server_name: example.org
public_baseurl: http://127.0.0.1:8008/
pid_file: /var/lib/matrix-synapse/homeserver.pid
listeners:
  - port: 8008
    type: http
    bind_addresses: ["127.0.0.1"]
    resources: [{ names: [client], compress: false }]
database: { name: sqlite3, args: { database: /var/lib/matrix-synapse/homeserver.db } }
media_store_path: /var/lib/matrix-synapse/media
signing_key_path: /etc/matrix-synapse/homeserver.signing.key
registration_shared_secret: for this test alone
macaroon_secret_key: for this test alone
bcrypt_rounds: 4
trusted_key_servers: []
report_stats: false
"""

RUN = pathlib.Path("/run/guide")
LAID_OVER = ("/etc", "/usr/local", "/var/lib", "/var/backups")


def blocks(guide):
    for found in BLOCK.finditer((ROOT / guide).read_text()):
        yield found["mark"] or "", found["kind"], found["body"]


def script(out):
    """One shell script of all guides; what the n-th block says goes to the file n in `out`."""
    lines = ["set -euo pipefail", "exec 3>&1 4>&2"]
    expected = []
    number = 0
    for guide in GUIDES:
        counts = {"run": 0, "expect": 0}
        for mark, kind, body in blocks(guide):
            if mark == "before the test":
                continue
            if mark.startswith("file: "):
                path = mark.removeprefix("file: ")
                lines.append(f"cat >{path} <<'END_OF_FILE'\n{body}END_OF_FILE")
            elif kind == "sh":
                number += 1
                counts["run"] += 1
                title = f"{guide}, block {number}"
                lines.append(f"echo 'guide: {title}' >&3")
                lines.append(f"trap 'cat {out}/{number} >&4; echo \"guide: {title} failed\" >&4' ERR")
                lines.append(f"exec >{out}/{number} 2>&1\n{body}exec >&3 2>&4")
            elif kind == "text":
                counts["expect"] += 1
                expected.append((guide, number, body.strip()))
        if not all(counts.values()):
            sys.exit(f"guide: {guide} has nothing to run or nothing to see: {counts}")
    return "\n".join(lines) + "\n", expected


def enter(keeper):
    """Starts this script again where nothing that it does is seen outside."""
    if os.geteuid() != 0:
        sys.exit(f"guide: run this as root: it lays over {', '.join(LAID_OVER)}, for itself alone")
    for tool in ("unshare", "runuser", "openssl", "curl"):
        if shutil.which(tool) is None:
            sys.exit(f"guide: {tool} is missing; it is in Debian's package util-linux, openssl or curl")
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    environment = {**os.environ, INSIDE: "1"}
    done = subprocess.run([*command, sys.executable, __file__, keeper], env=environment, check=False)
    sys.exit(done.returncode)


def lay_over():
    def mount(*arguments):
        subprocess.run(["mount", *arguments], check=True)

    mount("-t", "tmpfs", "tmpfs", "/run")
    RUN.mkdir()
    for folder in LAID_OVER:
        upper = RUN / "layers" / folder.replace("/", "-")
        work = upper.with_name(upper.name + ".work")
        upper.mkdir(parents=True)
        work.mkdir()
        mount("-t", "overlay", "overlay", "-o", f"lowerdir={folder},upperdir={upper},workdir={work}", folder)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def furnish(keeper):
    """What an operator has before the first step: Synapse with a user of its own, and a checkout with a build in it."""
    stand_ins = RUN / "bin"
    stand_ins.mkdir()
    for name, text in (("sudo", SUDO), ("systemctl", SYSTEMCTL.format(script=__file__))):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    promtool = ROOT / ".work/prometheus/usr/bin/promtool"
    if promtool.exists():
        (stand_ins / "promtool").symlink_to(promtool)
    subprocess.run(["useradd", "--system", "matrix-synapse"], check=True)
    pathlib.Path("/etc/matrix-synapse/conf.d").mkdir(parents=True)
    pathlib.Path("/etc/matrix-synapse/homeserver.yaml").write_text(HOMESERVER)
    pathlib.Path("/var/lib/matrix-synapse").mkdir()
    pathlib.Path("/etc/systemd/system").mkdir(parents=True, exist_ok=True)
    synapse = ROOT / ".work/synapse/bin/python"
    configs = ["-c", "/etc/matrix-synapse/homeserver.yaml", "-c", "/etc/matrix-synapse/conf.d"]
    subprocess.run(
        [synapse, "-m", "synapse.app.homeserver", *configs, "--generate-keys"], check=True, stdout=subprocess.DEVNULL
    )
    checkout = RUN / "checkout"
    (checkout / "target/release").mkdir(parents=True)
    shutil.copy(keeper, checkout / "target/release/statekeeper")
    shutil.copytree(ROOT / "deploy", checkout / "deploy")
    os.chdir(checkout)
    os.environ["PATH"] = f"{stand_ins}:{os.environ['PATH']}"
    os.environ["PASSWORD"] = PASSWORD
    systemctl(["start", "matrix-synapse"])
    register = ROOT / ".work/synapse/bin/register_new_matrix_user"
    account = ["-u", "you", "-p", PASSWORD, "--no-admin", "-c", "/etc/matrix-synapse/homeserver.yaml"]
    subprocess.run([register, *account, "http://127.0.0.1:8008"], check=True, stdout=subprocess.DEVNULL)


def follow():
    out = RUN / "out"
    out.mkdir()
    text, expected = script(out)
    (RUN / "guide.sh").write_text(text)
    done = subprocess.run(["bash", RUN / "guide.sh"], check=False, stdin=subprocess.DEVNULL, timeout=300)
    if done.returncode != 0:
        for log in sorted(RUN.glob("*.log")):
            print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-30:]), file=sys.stderr)
        sys.exit("guide: a command of the guide failed")
    for guide, number, shown in expected:
        said = (out / str(number)).read_text()
        if shown not in said:
            sys.exit(f"guide: {guide} shows {shown!r}, and block {number} said {said!r}")
    print(f"guide: {len(list(out.iterdir()))} blocks were run, {len(expected)} outputs are as shown")


# --- The stand-in for systemctl.


def systemctl(arguments):
    verb, *rest = arguments
    names = [name for name in rest if not name.startswith("-")]
    if verb == "daemon-reload":
        return
    (name,) = names
    name = name.removesuffix(".service")
    if name.endswith(".timer"):
        # It will start its service some day: the guide does so by hand.
        if not pathlib.Path(f"/etc/systemd/system/{name}").exists():
            sys.exit(f"guide: {name} is not installed")
        return
    if "Type=oneshot\n" in unit_text(name):
        run_once(name)
        return
    if verb in ("stop", "restart"):
        stop(name)
    if verb in ("start", "restart") or (verb == "enable" and "--now" in rest):
        start(name)
    if verb == "reload":
        os.kill(int((RUN / f"{name}.pid").read_text()), 1)


def unit_text(name):
    file = pathlib.Path(f"/etc/systemd/system/{name}.service")
    return file.read_text() if file.exists() else ""


def run_once(name):
    """The commands of a oneshot unit, one after the other, with systemd's own marks resolved (systemd.service(5))."""
    lines = [line.split("=", 1) for line in unit_text(name).splitlines() if "=" in line and not line.startswith("#")]
    unit = dict(lines)
    known = dict(value.split("=", 1) for key, value in lines if key == "Environment")
    for key, value in lines:
        if key != "ExecStart":
            continue
        words = [re.sub(r"\$\{(\w+)\}", lambda name: known[name[1]], word) for word in shlex.split(value)]
        words = [word.replace("$$", "$").replace("%%", "%") for word in words]
        command = ["setpriv", f"--reuid={unit['User']}", f"--regid={unit['Group']}", "--clear-groups", *words]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def unit_of(name):
    """The settings of a unit's [Service] that the stand-in knows."""
    if name == "matrix-synapse":
        python = ROOT / ".work/synapse/bin/python"
        configs = "--config-path=/etc/matrix-synapse/homeserver.yaml --config-path=/etc/matrix-synapse/conf.d/"
        return {"ExecStart": f"{python} -m synapse.app.homeserver {configs}", "WorkingDirectory": "/var/lib/matrix-synapse"}
    pairs = [line.split("=", 1) for line in unit_text(name).splitlines() if "=" in line and not line.startswith("#")]
    return dict(pairs)


def start(name):
    unit = unit_of(name)
    user = unit.get("User", "root")
    if folder := unit.get("StateDirectory"):
        path = pathlib.Path("/var/lib") / folder
        path.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(path, user, unit["Group"])
    if name == "matrix-synapse":
        for path in pathlib.Path("/etc/matrix-synapse").glob("statekeeper.yaml"):
            subprocess.run(["runuser", "-u", name, "--", "cat", path], check=True, stdout=subprocess.DEVNULL)
    environment = dict(os.environ)
    told = None
    if unit.get("Type") == "notify":
        path = RUN / f"{name}.notify"
        path.unlink(missing_ok=True)
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        told.bind(str(path))
        path.chmod(0o777)
        RUN.chmod(0o755)
        told.settimeout(60)
        environment["NOTIFY_SOCKET"] = str(path)
    command = ["setpriv", f"--reuid={user}", f"--regid={unit.get('Group', 'root')}", "--clear-groups", *unit["ExecStart"].split()]
    with (RUN / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=unit["WorkingDirectory"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )
    (RUN / f"{name}.pid").write_text(str(process.pid))
    if told is not None:
        while told.recv(256) != b"READY=1":
            pass
    else:
        url = "http://127.0.0.1:8008/health"
        retry = ["--retry", "120", "--retry-delay", "1", "--retry-all-errors"]
        subprocess.run(["curl", "-fsS", *retry, url], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(name):
    file = RUN / f"{name}.pid"
    if not file.exists():
        return
    pid = int(file.read_text())
    os.kill(pid, 15)
    deadline = time.monotonic() + 60
    while lives(pid):
        if time.monotonic() > deadline:
            sys.exit(f"guide: {name} does not end")
        time.sleep(0.05)
    file.unlink()


def lives(pid):
    """Whoever started it may be gone, or may not have heard of its end: what counts is the process itself."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main():
    if sys.argv[1:2] == ["systemctl"]:
        systemctl(sys.argv[2:])
        return
    keeper = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/statekeeper").resolve())
    if not pathlib.Path(keeper).exists():
        sys.exit(f"guide: no keeper at {keeper}: build it first")
    if INSIDE not in os.environ:
        enter(keeper)
    lay_over()
    furnish(keeper)
    follow()


main()
