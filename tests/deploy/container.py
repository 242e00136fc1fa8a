"""Holds the compose file against its specification, and the image against what it promises.

No engine builds the image here. What can be known without one: the build's context holds what Cargo needs, the
services are shut in, the keeper takes the configuration, and no path in the compose file leads nowhere.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import compose_spec
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy/container"
# Made by the operator, as the guide says.
OPERATORS = {"./synapse", "./keeper", "./keeper/registration.yaml"}


def check_compose():
    text = (HERE / "compose.yaml").read_text()
    compose = compose_spec.PyCompose.from_yaml(text)
    compose.validate()
    compose.to_spec()
    services = yaml.safe_load(text)["services"]
    keeper = services["statekeeper"]
    assert keeper["user"] == "65532:65532" and keeper["read_only"] is True
    for name in ("statekeeper", "prometheus"):
        assert services[name]["cap_drop"] == ["ALL"], name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
    assert "ports" not in keeper, "nobody but the homeserver and Prometheus reaches the keeper"
    assert (HERE / keeper["build"]["context"] / keeper["build"]["dockerfile"]).is_file()
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith(".") and source not in OPERATORS:
                assert (HERE / source).exists(), source
            bound = [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
            assert not bound, bound


def check_context():
    """What `.dockerignore` lets in has to be all that Cargo needs."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    with tempfile.TemporaryDirectory() as folder:
        for name in let_in:
            source, target = ROOT / name, pathlib.Path(folder) / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    copied = [line.split()[1:-1] for line in (HERE / "Containerfile").read_text().splitlines() if line.startswith("COPY ")]
    named = {name for names in copied for name in names if not name.startswith(("--", "/"))}
    assert named == set(let_in), (named, let_in)


def check_configuration(binary):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = shutil.copy(HERE / "config.yaml", folder / "config.yaml")
        (folder / "passphrase").write_text("a passphrase for this check alone\n")
        (folder / "passphrase").chmod(0o600)
        run = [binary, "registration", "--config", config, "--out", folder / "registration.yaml"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([binary, "check", "--config", config], check=True, stdout=subprocess.DEVNULL)


check_compose()
check_context()
check_configuration(sys.argv[1])
