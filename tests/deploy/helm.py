"""Lints the Helm chart, renders it with Helm's own engine, and holds what comes out against Kubernetes' schemas.

No cluster is asked. Two things a cluster knows and this does not: whether the image can be pulled, and the custom
resource of the ServiceMonitor, of which only the fields that the chart sets are looked at.
"""

import copy
import pathlib
import subprocess
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/statekeeper"
KUBERNETES = "1.33"
SMALLEST = {"existingSecret": "statekeeper"}

# Values that the chart has to refuse, each with a word of why.
REFUSED = {
    "no secret": {},
    "a key that does not exist": {**SMALLEST, "replicas": 2},
    "a store of one's own": {**SMALLEST, "config": {"store": {"url": "sqlite:/elsewhere.db"}}},
    "a size that is none": {**SMALLEST, "persistence": {"size": "much"}},
    "another port": {**SMALLEST, "config": {"admin": {"listen": "0.0.0.0:80"}}},
}


def render(values):
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="keeper", namespace="matrix")
    manifests = []
    for path, text in rendered.items():
        if path.endswith(".yaml"):
            manifests += [manifest for manifest in yaml.safe_load_all(text) if manifest]
    return {manifest["kind"]: manifest for manifest in manifests}


def lint(values):
    report = helm_python.lint(CHART, values, strict=True)
    # A missing icon is all that a chart without one is told.
    found = [message for message in report["messages"] if message["severity"] > 1]
    assert not found and not report["errors"], report


def check_refusals():
    for why, values in REFUSED.items():
        try:
            helm_python.Chart.load(CHART).render(values, name="keeper")
        except helm_python.HelmError:
            continue
        sys.exit(f"helm: the chart takes {why}")


def check_manifests(manifests):
    for kind, manifest in manifests.items():
        if kind == "ServiceMonitor":
            endpoint = manifest["spec"]["endpoints"][0]
            ports = {port["name"] for port in manifests["Service"]["spec"]["ports"]}
            assert endpoint["port"] in ports, endpoint
            selector = manifest["spec"]["selector"]["matchLabels"].items()
            assert selector <= manifests["Service"]["metadata"]["labels"].items()
            continue
        kubernetes_validate.validate(copy.deepcopy(manifest), KUBERNETES, strict=True)


def check_pod(manifests):
    spec = manifests["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports, probe
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]} | claims


def check_configuration(manifests, binary):
    """What the chart writes has to be what the keeper takes."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        secret = folder / "secret"
        secret.mkdir()
        (secret / "passphrase").write_text("a passphrase for this check alone\n")
        (secret / "passphrase").chmod(0o600)
        text = manifests["ConfigMap"]["data"]["config.yaml"]
        text = text.replace("/etc/statekeeper/secret/", f"{secret}/").replace("sqlite:/data/", f"sqlite:{folder}/")
        config = folder / "config.yaml"
        config.write_text(text)
        run = [binary, "registration", "--config", config, "--out", secret / "registration.yaml"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        said = subprocess.run([binary, "check", "--config", config], check=True, capture_output=True, text=True)
        assert said.stdout == "configuration is good\n", said


def main(binary):
    everything = yaml.safe_load((CHART / "ci/everything.yaml").read_text())
    for values in (SMALLEST, everything):
        lint(values)
        manifests = render(values)
        check_manifests(manifests)
        check_pod(manifests)
        check_configuration(manifests, binary)
    assert set(manifests) == {"ConfigMap", "NetworkPolicy", "Service", "ServiceMonitor", "StatefulSet"}, set(manifests)
    check_refusals()


main(sys.argv[1])
