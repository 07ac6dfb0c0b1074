# SPDX-License-Identifier: Apache-2.0
"""Every budget measured beside the peers, on this machine, in one run.

    scripts/bench                        all of it, about ten minutes
    scripts/bench --quick                under 90 s; exit code 1 if a budget that is marked as met is missed
    scripts/bench hold drip relay        some parts of: hold drip relay isolation million tables
    scripts/bench --results FILE         writes FILE (Markdown) and FILE.json as well

How to read it. Sluice and its peers run in turn within the run, several rounds; a figure is the median of its
rounds with the least and the most, a ratio is taken round by round. CPU is what the kernel charges to the
server's processes (utime and stime), never the wall's time. On loopback the receiving half of each segment is
charged to the sender, the same for all, so ratios are worth more than microseconds, and only within one
run. The lower bound is floor.c. Budgets, limits and what counts as noise: budgets.py.

How it works. scripts/bench starts this in a network namespace of its own (unshare), with queues and port
range set there, so nothing outside is touched, and the namespace goes with the last process in it. Every
process started here is told to die with this one. Peers hold at most 19,000 connections, because common
hard limits on open files are 20,000; floor.c and the flood need no descriptor for each. A part that cannot
be measured here says why and is skipped: that is no failure.

What the machine must offer: root, Debian packages of the peers, 2 GB free; for a million 10 GB free and a
hard limit of 19,500 open files.
"""

import argparse
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "Integration")]

import harness  # noqa: E402
import holding  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import relaying  # noqa: E402
import tables  # noqa: E402
from report import Report  # noqa: E402

PARTS = {
    "hold": holding.hold, "drip": holding.drip, "relay": relaying.relay, "isolation": relaying.isolation,
    "million": holding.million, "tables": tables.tables,
}


def prepare_network():
    """The namespace's own loopback and queues; refuses to touch those of the machine."""
    own = pathlib.Path("/proc/self/ns/net").readlink()
    outer = pathlib.Path("/proc/1/ns/net")
    try:
        if own == outer.readlink():
            sys.exit("bench: run scripts/bench: this wants a network namespace of its own")
    except OSError:
        pass  # process 1 is not ours to look at
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in (
        ("net.core.somaxconn", "65535"),
        ("net.ipv4.tcp_max_syn_backlog", "65535"),
        ("net.ipv4.ip_local_port_range", "1024 65535"),
    ):
        pathlib.Path("/proc/sys", name.replace(".", "/")).write_text(value)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer connections and rounds; under 90 s")
    parser.add_argument("--results", type=pathlib.Path, help="a Markdown file to write; JSON beside it")
    parser.add_argument("parts", nargs="*", metavar="part", help=" ".join(PARTS))
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {' '.join(unknown)}; there are {' '.join(PARTS)}")
    # An ending by signal unwinds as Ctrl-C does: what was started is stopped. SIGINT too, which a shell makes
    # its background jobs ignore.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    prepare_network()
    harness.raise_descriptor_limit()

    report = Report(options.quick)
    facts = machine.describe()
    # Paths as seen from the project: where it lies on this machine is nobody's business.
    home = f"{pathlib.Path(__file__).resolve().parents[2]}/"
    command = "scripts/bench " + " ".join(word.removeprefix(home) for word in sys.argv[1:])
    started = time.monotonic()
    broken = []
    try:
        with peers.folder() as place:
            floor = peers.build_floor(place)
            # A million is the last word unless it is asked for: --quick holds 100,000 in hold already.
            chosen = options.parts or [part for part in PARTS if not (options.quick and part == "million")]
            for part in chosen:
                began = time.monotonic()
                try:
                    PARTS[part](report, options.quick, floor)
                except (AssertionError, OSError, subprocess.SubprocessError) as failure:
                    broken.append(part)
                    print(f"  {part} could not be measured: {failure}", file=sys.stderr, flush=True)
                    report.skip(part, f"it broke: {str(failure).splitlines()[0][:300]}")
                report.remark(f"{part} took {time.monotonic() - began:.0f} s")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130

    facts["load after"] = machine.read("/proc/loadavg").rsplit(" ", 2)[0]
    facts["seconds"] = f"{time.monotonic() - started:.0f}"
    text = report.markdown(facts, command)
    print("\n" + text)
    print(report.json(facts, command))
    if options.results:
        options.results.write_text(text)
        options.results.with_name(options.results.name + ".json").write_text(report.json(facts, command) + "\n")
    for row in report.failures:
        print(f"MISSED: {row.budget.sentence}: {row.judged:.4g}, the limit is {row.budget.limit:g} "
              f"and {row.budget.noise * report.leniency:.0%} for noise")
    for part in broken:
        print(f"BROKEN: {part}")
    print("bench: " + ("all promises kept" if not report.failures and not broken else "not all promises kept"))
    return 1 if report.failures or broken else 0


if __name__ == "__main__":
    sys.exit(main())
