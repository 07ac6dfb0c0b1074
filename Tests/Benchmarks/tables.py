# SPDX-License-Identifier: Apache-2.0
"""What tables take and what a lookup costs. The program `table-benchmark` measures; this runs and judges it.

Its peers are twins in the test tree: a linear scan, and poptrie (Asai and Ohara, SIGCOMM 2015).
"""

import json
import pathlib
import re
import subprocess
import tempfile

import harness
import machine

PROGRAM = pathlib.Path(harness.SLUICE).parent / "table-benchmark"
MIXES = (("bgp", "routes"), ("blocklist", "block list"))


def run(*arguments, wrap=(), timeout=90):
    """The figures of one command by their names."""
    done = subprocess.run(
        [*wrap, str(PROGRAM), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=timeout, preexec_fn=machine.die_with_parent)
    if done.returncode != 0:
        raise AssertionError(f"{PROGRAM.name} {' '.join(map(str, arguments))} ended with {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    figures = {}
    for line in lines:
        figures.setdefault(line["what"], line["value"])
    return figures, done.stderr


def instructions(*arguments):
    """Of one lookup or decision: the difference of two counts, so that building the table does not count."""
    counts = []
    # valgrind 3.19 cannot read the debug information that Swift writes.
    with tempfile.TemporaryDirectory() as place:
        bare = pathlib.Path(place) / "table-benchmark"
        subprocess.run(["strip", "--strip-debug", "-o", bare, PROGRAM], check=True)
        name = "--lookups" if arguments[0] == "lookup" else "--decisions"
        for count in (500_000, 1_500_000):
            done = subprocess.run(
                ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", bare, *map(str, arguments),
                 name, str(count)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120,
                preexec_fn=machine.die_with_parent)
            found = re.search(r"Collected : (\d+)", done.stderr)
            if not found:
                raise AssertionError(f"callgrind counted nothing: {done.stderr[-200:]}")
            counts.append(int(found.group(1)))
    return (counts[1] - counts[0]) / 1_000_000


def tables(report, quick, _):
    report.section("tables", "Tables: 1,000,000 IPv4 or 200,000 IPv6 networks, 10,000,000 sources")
    if not PROGRAM.exists():
        report.skip("tables", f"{PROGRAM.name} is not built")
        return
    for family in (4, 6):
        for mix, name in MIXES:
            of = ("--mix", mix, "--family", family)
            found, _ = run("memory", *of, "--order", "random")
            report.row(f"bytes of a network, IPv{family} {name}", [found["bare table, bytes per prefix"]], "B", "poptrie",
                       [found["poptrie, bytes per prefix"]], budget=f"tables.ipv{family}.bytes")
            report.row(f"the same as an access table, with the line of each rule, IPv{family} {name}",
                       [found["access table in serve, bytes per prefix"]], "B", budget=f"tables.ipv{family}.whole",
                       note="rules in random order")
            if quick:
                continue
            rounds = {which: [run("lookup", "--table", which, *of)[0]["ns per lookup"] for _ in range(3)]
                      for which in ("ours", "poptrie")}
            report.row(f"lookup, IPv{family} {name}", rounds["ours"], "ns", "poptrie", rounds["poptrie"])
            naive, _ = run("lookup", "--table", "naive", *of)
            report.row(f"lookup, IPv{family} {name}", rounds["ours"][:1], "ns", "linear scan", [naive["ns per lookup"]])
            counts = [instructions("lookup", "--table", which, *of, "--prefixes", 100_000) for which in ("ours", "poptrie")]
            report.row(f"instructions of a lookup, IPv{family} {name}, 100,000 networks", counts[:1], "", "poptrie",
                       counts[1:])
            loaded, _ = run("load", *of)
            report.row(f"loading the file, IPv{family} {name}", [loaded["load time"]], "ms")
    if quick:
        return
    swapped, _ = run("swap", "--mix", "blocklist", "--swaps", 8)
    report.row("longest swap under lookups, the old table freed", [swapped["longest swap, the old table freed"] / 1000], "ms")
    report.row("longest gap between lookups that kept the processor, while swapping",
               [swapped["longest gap without losing the processor, swapping"] / 1000], "ms", "without swaps",
               [swapped["longest gap without losing the processor, only loading"] / 1000])
    for table, name in (("buckets", "token buckets"), ("reputation", "reputation")):
        found, _ = run("sources", "--table", table)
        report.row(f"bytes of a tracked source, {name}", [found["bytes per tracked source"]], "B",
                   budget="tables.source.bytes", note=f"{found['sources still there']:,} of 10,000,000 still there")
        known = found.get("ns per decision, known source", found.get("ns per question, known source"))
        report.row(f"a decision, {name}", [known], "ns")
        report.row(f"instructions of a decision, {name}, 100,000 sources",
                   [instructions("sources", "--table", table, "--sources", 100_000)])
    replay, _ = run("replay")
    report.row("sources limited though under their rate, of all that an exact model allowed",
               [replay["limited though under the rate"]], budget="tables.replay",
               note=f"{replay['decisions compared with the exact model']:,} decisions, table full")
    for more in ((), ("--capacity", 10_000_000, "--offenders", 1_000_000)):
        attack, _ = run("attack", *more)
        report.row("sources over their limits still limited after an attack by 1,000,000 addresses",
                   [attack["still limited after the attack"] / attack["sources over their limits"]],
                   budget="tables.attack", note=f"of {attack['sources over their limits']:,}")
