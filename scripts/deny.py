#!/usr/bin/env python3
"""Licences and sources of all dependencies, as deny.toml allows them.

For where cargo-deny is not installed: it reads the same file and knows what can be known without a network. Advisories and yanked
versions it does not know; `make deny` says so.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def packages(target: str) -> list[dict]:
    command = [ROOT / "scripts/cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["packages"]


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met by these licences alone."""
    # Before SPDX, a slash was an OR.
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def take() -> str:
        nonlocal at
        at += 1
        return words[at - 1]

    def next_is(word: str) -> bool:
        return at < len(words) and words[at] == word

    def either() -> bool:
        met = both()
        while next_is("OR"):
            take()
            # Not `met or both()`: the words have to be read in any case.
            met = both() or met
        return met

    def both() -> bool:
        met = one()
        while next_is("AND"):
            take()
            met = one() and met
        return met

    def one() -> bool:
        if next_is("("):
            take()
            met = either()
            take()
            return met
        name = take()
        if next_is("WITH"):
            name = f"{name} {take()} {take()}"
        return name in allowed

    met = either()
    if at != len(words):
        raise ValueError(f"no SPDX expression: {expression}")
    return met


def main() -> None:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"].get("exceptions", [])}
    found = {package["id"]: package for target in rules["graph"]["targets"] for package in packages(target)}
    problems = set()
    for package in found.values():
        name = f"{package['name']} {package['version']}"
        if not is_allowed(package["license"] or "none", allowed | exceptions.get(package["name"], set())):
            problems.add(f"{name}: licence {package['license']}")
        if package["source"] not in (None, REGISTRY):
            problems.add(f"{name}: comes from {package['source']}")
        if package["source"] is None:
            problems.update(f"{name}: any version of {need['name']}" for need in package["dependencies"] if need["req"] == "*" and not need.get("path"))
    for name in exceptions.keys() - {package["name"] for package in found.values()}:
        problems.add(f"deny.toml has an exception for {name}, which is no dependency")
    for problem in sorted(problems):
        print(problem)
    print(f"{len(found)} packages, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
