#!/usr/bin/env python3
"""The manifests in packaging/kubernetes: against Kubernetes' schemas, against each other, and against the program.

No cluster is needed, and none is tested: this holds what a file alone can say.
"""

import pathlib
import re
import subprocess
import sys
import tomllib

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLACE = ROOT / "packaging/kubernetes"
PROGRAM = ROOT / "target/debug/pggit-proxy"
# The oldest that knows the sleep before the end without a feature gate, and a new one.
VERSIONS = ["1.30", "1.34"]

problems: list[str] = []


def hold(what: str, holds: bool) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        problems.append(what)


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|min|h)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "min": 60, "h": 3600}[unit]


def schemas(manifests: dict[str, dict]) -> None:
    for version in VERSIONS:
        for name, manifest in manifests.items():
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
                hold(f"{name} is a {manifest['kind']} of Kubernetes {version}", True)
            except kubernetes_validate.ValidationError as error:
                hold(f"{name} for Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}", False)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def main() -> None:
    manifests = {path.name: yaml.safe_load(path.read_text()) for path in sorted(PLACE.glob("*.yaml"))}
    kustomization = manifests.pop("kustomization.yaml")
    schemas(manifests)
    in_place = manifests.keys() - {"migrate.yaml"}
    hold("each manifest is in the kustomization, but for the migration", set(kustomization["resources"]) == in_place)

    [generated] = kustomization["configMapGenerator"]
    file = PLACE / generated["files"][0]
    config = tomllib.loads(file.read_text())
    checked = subprocess.run([PROGRAM, "check", "--config", file], capture_output=True, text=True, check=False)
    hold(f"pggit-proxy check has no objection to {file.name} {checked.stderr}", checked.returncode == 0)

    deployment = manifests["deployment.yaml"]["spec"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    grace, sleep = pod["terminationGracePeriodSeconds"], container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = seconds(config["limits"]["drain_timeout"])
    hold(f"sleep {sleep} s and drain {drain:.0f} s end 5 s before the grace period of {grace} s does", sleep + drain + 5 <= grace)

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    hold("clients come to listen.address", ports["clients"] == port_of(config["listen"]["address"]))
    hold("probes come to http.address", ports["http"] == port_of(config["http"]["address"]))
    hold("both listen beyond the pod", all(config[one]["address"].startswith("0.0.0.0:") for one in ("listen", "http")))
    hold("the control port does not", config["control"]["address"].startswith("127."))
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")}
    hold("liveness and readiness ask the right things", [probes[name]["path"] for name in probes] == ["/healthz", "/readyz", "/healthz"])
    named = [probe["port"] for probe in probes.values()]
    named += [port["targetPort"] for port in manifests["service.yaml"]["spec"]["ports"]]
    named += [port["port"] for rule in manifests["network.yaml"]["spec"]["ingress"] for port in rule["ports"]]
    hold("every port that is named is a container's", set(named) <= ports.keys())

    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        manifests["service.yaml"]["spec"]["selector"],
        manifests["disruption.yaml"]["spec"]["selector"]["matchLabels"],
        manifests["network.yaml"]["spec"]["podSelector"]["matchLabels"],
    ]
    hold("every selector finds the pods", all(selector.items() <= labels for selector in selectors))
    migration = manifests["migrate.yaml"]["spec"]["template"]["metadata"]["labels"].items()
    hold("the migration's pod is not among them", not selectors[0].items() <= migration)
    hold("more pods than may be away at a time", deployment["replicas"] > manifests["disruption.yaml"]["spec"]["maxUnavailable"])

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    hold("the configuration is the kustomization's", volumes["configuration"]["configMap"]["name"] == generated["name"])
    image = (ROOT / "packaging/container/Containerfile").read_text()
    hold("it is mounted where the image looks", f"PGGIT_CONFIG={mounts['configuration']}/{file.name}" in image)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    [item] = volumes["secrets"]["secret"]["items"]
    hold("the password is where it is looked for", environment["PGGIT_UPSTREAM_PASSWORD_FILE"] == f"{mounts['secrets']}/{item['path']}")

    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for name in ("deployment.yaml", "migrate.yaml"):
        spec = manifests[name]["spec"]["template"]["spec"]
        [one] = spec["containers"]
        hold(f"{name}: the image of this version", one["image"] == f"pggit-proxy:{version}")
        hold(f"{name}: the image's user", f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}\n" in image)
        rights = one["securityContext"]
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        hold(f"{name}: no rights", rights == wanted and spec["securityContext"]["runAsNonRoot"])
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
