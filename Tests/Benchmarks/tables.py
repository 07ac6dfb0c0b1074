# SPDX-License-Identifier: Apache-2.0
"""What tables take and what a lookup costs: the program `table-benchmark` measures, this prints and judges."""

import json
import pathlib
import subprocess

import harness
import machine

PROGRAM = pathlib.Path(harness.SLUICE).parent / "table-benchmark"
QUICK = ["--quick"]


def tables(report, quick, _):
    """Each line of the program's output is an object: what, figure, unit; peer and peer_figure if there is
    somebody to compare with; budget if there is one. Lists of figures are rounds."""
    report.section("tables", "Tables")
    if not PROGRAM.exists():
        report.skip("tables", f"{PROGRAM.name} is not built")
        return
    done = subprocess.run(
        [str(PROGRAM), *(QUICK if quick else [])], stdout=subprocess.PIPE, text=True, timeout=40 if quick else 240,
        preexec_fn=machine.die_with_parent)
    if done.returncode != 0:
        raise AssertionError(f"{PROGRAM.name} ended with {done.returncode}")

    def rounds(value):
        return value if isinstance(value, list) else [] if value is None else [value]

    for line in filter(str.strip, done.stdout.splitlines()):
        entry = json.loads(line)
        report.row(
            entry["what"], rounds(entry["figure"]), entry.get("unit", ""), entry.get("peer", ""),
            rounds(entry.get("peer_figure")), budget=entry.get("budget"), note=entry.get("note", ""))
