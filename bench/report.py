"""What was measured, as Markdown."""

import argparse
import datetime
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

import servers

MODES = ("simple", "extended", "prepared")
FSYNC = ("on", "off")


def clients_of(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"


class Figures:
    def __init__(self):
        self.taken: dict[tuple[str, str], list[dict[str, float]]] = {}

    def add(self, what: str, target: str, figures: dict[str, float]) -> None:
        self.taken.setdefault((what, target), []).append(figures)

    def median(self, what: str, target: str, key: str) -> float | None:
        taken = self.taken.get((what, target), [])
        return statistics.median(each[key] for each in taken) if taken else None

    def ratio(self, what: str, target: str, to: str, key: str, base: str | None = None) -> float | None:
        """The median of the rounds' ratios: what disturbs a whole round cancels out."""
        pairs = zip(self.taken.get((what, target), []), self.taken.get((base or what, to), []))
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs if theirs[key]]
        return statistics.median(ratios) if ratios else None

    def row(self, names: list[str], title: str, what: str, key: str, unit: str, digits: int) -> str:
        cells = []
        for name in names:
            value = self.median(what, name, key)
            if value is None or (key == "cpu" and name == "direct"):
                cells.append("")
                continue
            relation = None
            if key != "cpu" and name != "direct":
                relation = self.ratio(what, name, "direct", key)
            cells.append(f"{value:,.{digits}f} {unit}" + (f" ({relation:.2f}x)" if relation else ""))
        return f"| {title} | " + " | ".join(cells) + " |"

    def table(self, names: list[str]) -> list[str]:
        """One column for each target; in brackets the relation to direct."""
        lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        variants = [(mode, clients) for mode in MODES for clients in (1, 32)]
        for mode, clients in variants:
            title = f"`pgbench -S -M {mode}`, {clients_of(clients)}"
            lines.append(self.row(names, title, f"{mode} c{clients}", "tps", "tps", 0))
        lines.append(self.row(names, "`pgbench -S -C`: connect, ask, leave", "connect", "tps", "tps", 0))
        for clients in (1, 32):
            lines.append(self.row(names, f"`pgbench -S -M prepared`, {clients_of(clients)}, `sslmode=require`", f"TLS c{clients}", "tps", "tps", 0))
        lines.append(self.row(names, "`pgbench -S -C`, `sslmode=require`", "TLS connect", "tps", "tps", 0))
        for mode, clients in variants:
            title = f"CPU per 100,000 transactions, {mode}, {clients_of(clients)}"
            lines.append(self.row(names, title, f"{mode} c{clients}", "cpu", "s", 2))
        for title, what, key, unit, digits in (
            ("CPU per 100,000 connections", "connect", "cpu", "s", 1),
            ("CPU per 100,000 transactions, prepared, 1 client, `sslmode=require`", "TLS c1", "cpu", "s", 2),
            ("CPU per 100,000 transactions, prepared, 32 clients, `sslmode=require`", "TLS c32", "cpu", "s", 2),
            ("CPU per 100,000 connections, `sslmode=require`", "TLS connect", "cpu", "s", 1),
            ("drain of a large result", "drain", "mbs", "MB/s", 0),
            ("CPU of the drain", "drain", "cpu", "s/GB", 2),
            ("`COPY FROM STDIN`", "copy in", "mbs", "MB/s", 0),
            ("CPU of the COPY", "copy in", "cpu", "s/GB", 2),
            ("memory of an idle client", "idle", "kib", "KiB", 1),
            ("memory of an idle client, `sslmode=require`", "idle, TLS", "kib", "KiB", 1),
        ):
            lines.append(self.row(names, title, what, key, unit, digits))
        for fsync in FSYNC:
            for what, title in (("create table", "`CREATE TABLE`"), ("schema changes", "one of four schema changes")):
                for capture, how in (("plain", "no pggit schema"), ("trigger", "recorded by triggers"), ("inject", "recorded by added calls")):
                    measured = f"{what}, {capture}, fsync {fsync}"
                    lines.append(self.row(names, f"{title}, fsync {fsync}, {how}", measured, "ms", "ms", 2))
                    if fsync == "on":
                        lines.append(self.row(names, f"the first of a session, {how}", measured, "first", "ms", 1))
        return lines

    def goals(self) -> list[str]:
        """The goals of this stage and whether they are met."""
        lines = ["| goal | measured | |", "|---|---|---|"]

        def goal(title: str, value: float | None, at_most: float = 0, at_least: float = 0, unit: str = "x") -> None:
            if value is not None:
                met = (not at_most or value <= at_most) and value >= at_least
                lines.append(f"| {title} | {value:.2f} {unit} | {'met' if met else '**missed**'} |")

        ours = "pggit-proxy"
        for mode in MODES:
            what = f"{mode} c32"
            goal(f"{mode}, 32 clients: CPU per transaction at most 1.2 x HAProxy's",
                 self.ratio(what, ours, "HAProxy", "cpu"), at_most=1.2)
            goal(f"{mode}, 32 clients: throughput at least 0.9 x HAProxy's",
                 self.ratio(what, ours, "HAProxy", "tps"), at_least=0.9)
        goal("drain at least 0.9 x direct", self.ratio("drain", ours, "direct", "mbs"), at_least=0.9)
        goal("COPY at least 0.9 x direct", self.ratio("copy in", ours, "direct", "mbs"), at_least=0.9)
        goal("connections at least 0.75 x direct", self.ratio("connect", ours, "direct", "tps"), at_least=0.75)
        goal("idle client at most 64 KiB", self.median("idle", ours, "kib"), at_most=64, unit="KiB")
        for fsync in FSYNC:
            for what, capture, factor in (("create table", "trigger", 2), ("schema changes", "trigger", 1.5), ("schema changes", "inject", 2)):
                recorded, plain = f"{what}, {capture}, fsync {fsync}", f"{what}, plain, fsync {fsync}"
                goal(f"{recorded}: at most {factor} x direct without the pggit schema",
                     self.ratio(recorded, ours, "direct", "ms", base=plain), at_most=factor)
        return lines


def machine(options: argparse.Namespace, bin_directory: pathlib.Path) -> list[str]:
    """Where and how it was measured."""

    def find(path: str, pattern: str) -> str:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.M)
        return found.group(1).strip() if found else "unknown"

    def first_line(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0].strip()
        except (OSError, IndexError):
            return f"{command[0]}: not there"

    memory = int(find("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / 1024 / 1024
    processor = find("/proc/cpuinfo", r"^model name\s*:\s*(.*)$")
    commit = first_line("git", "-C", str(servers.ROOT), "describe", "--always", "--dirty")
    arguments = " ".join(sys.argv[1:])
    return [
        f"- {datetime.date.today()}, commit {commit}, command `make bench{f' ARGS={arguments!r}' if arguments else ''}`",
        f"- {os.cpu_count()} cores ({processor}), {memory:.0f} GiB, Linux {platform.release()}; pgbench, the server and "
        "what stands between share the cores, all over loopback",
        f"- {first_line(str(bin_directory / 'postgres'), '--version')}; {first_line('/usr/sbin/haproxy', '-v')}; "
        f"{first_line('/usr/sbin/pgbouncer', '--version')}",
        f"- pggit-proxy and HAProxy with {options.threads} threads, pgbouncer with its one; {options.rounds} interleaved "
        f"rounds, pgbench {options.seconds} s each, result and COPY of {options.megabytes} and about "
        f"{options.megabytes} MB, {options.idle} idle clients, {options.tables} tables; medians, and in brackets the "
        "median of the rounds' relations to direct",
    ]
