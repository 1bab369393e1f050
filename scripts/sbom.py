#!/usr/bin/env python3
"""target/packages/pggit-proxy-VERSION.cdx.json: what the program is made of, as CycloneDX 1.5.

Every crate that is compiled into the program for this machine's kind, from `cargo metadata` and Cargo.lock: name, version, licence, hash, and who needs
whom. Procedural macros are among them; crates that only build scripts or tests need are left out.
"""

import datetime
import json
import os
import pathlib
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output(*command: str | pathlib.Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def target() -> str:
    [host] = [line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host:")]
    return host


def in_the_program(metadata: dict) -> dict[str, list[str]]:
    """Each crate that is reached by normal dependencies, and those that it needs."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    needs: dict[str, list[str]] = {}
    todo = [metadata["resolve"]["root"]]
    while todo:
        crate = todo.pop()
        if crate in needs:
            continue
        normal = [dep["pkg"] for dep in nodes[crate]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        needs[crate] = sorted(normal)
        todo += normal
    return needs


def component(package: dict, hashes: dict[tuple[str, str], str], kind: str) -> dict:
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    found = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if package["license"]:
        # Before SPDX, a slash was an OR.
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if (name, version) in hashes:
        found["hashes"] = [{"alg": "SHA-256", "content": hashes[name, version]}]
    return found


def main() -> None:
    cargo = ROOT / "scripts/cargo"
    metadata = json.loads(output(cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", target()))
    packages = {package["id"]: package for package in metadata["packages"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    hashes = {(entry["name"], entry["version"]): entry["checksum"] for entry in lock if "checksum" in entry}
    needs = in_the_program(metadata)
    root = metadata["resolve"]["root"]
    components = {crate: component(packages[crate], hashes, "application" if crate == root else "library") for crate in needs}
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": components.pop(root),
        },
        "components": sorted(components.values(), key=lambda found: found["purl"]),
        "dependencies": [
            {"ref": f"pkg:cargo/{packages[crate]['name']}@{packages[crate]['version']}",
             "dependsOn": [f"pkg:cargo/{packages[need]['name']}@{packages[need]['version']}" for need in needed]}
            for crate, needed in sorted(needs.items())
        ],
    }
    place = ROOT / "target/packages"
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{packages[root]['name']}-{packages[root]['version']}.cdx.json"
    file.write_text(json.dumps(sbom, indent=1) + "\n")
    print(file.relative_to(ROOT), len(components), "crates")


if __name__ == "__main__":
    main()
