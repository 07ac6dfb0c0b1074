# SPDX-License-Identifier: Apache-2.0
"""What a held connection takes and what a dripped byte costs: the sections hold, drip and million."""

import math
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import time

import harness
import machine
import peers
from peers import Flood

SLOTS = 19_000
"""Connections of one worker: a ring's table is limited by the limit on open files, often 20,000."""

HOST_SHORT = "mx.example"
HOST_LONG = "mx1." + "a-name-that-is-long-because-its-banner-has-to-last." * 2 + "example"


def banner_bytes(host):
    return len(f"220 {host} ESMTP ready\r\n")


def limits(workers, count=None):
    """Room for a little more than is held: a full shield sends the worst away, which is not the subject.

    count: so many are held, evenly on all workers; without it each worker has `SLOTS`.
    """
    return {
        "workers": workers,
        "limits": {
            "connections": (count or workers * SLOTS) + 100 * workers, "sessions": max(400, 32 * workers),
            "downstream_connections": max(200, 24 * workers), "buckets": 16_384, "sources": 16_384,
            "journal": 512, "receive_buffers": 64 if workers > 16 else 256,
        },
    }


def waiting(workers, count=None):
    """Everybody is suspicious and waits 25 s for a banner: the longest that there is."""
    return harness.merged(limits(workers, count), {"hostname": HOST_SHORT, "delays": {"banner": {"suspicious": "25s"}}})


def dripping(workers, interval, host=HOST_LONG):
    """Everybody is bad and hears a banner of which one byte comes every `interval` seconds."""
    whole = round(banner_bytes(host) * interval * 1000)
    return harness.merged(
        limits(workers), {"hostname": host, "delays": {"banner": {"bad": f"{min(whole, 280_000)}ms"}}})


def each_worker_alike(count):
    """How many workers a count needs, and what makes the flood load them evenly."""
    workers = math.ceil(count / SLOTS)
    return workers, ("--spread-over", workers)


# Hold.

def empty_bytes(config):
    """Own memory of a daemon with that configuration but no room for connections.

    The user memory of a held connection counts from here. From the start of the daemon that holds them it
    would miss what that one had touched already.
    """
    none = {"limits": {"connections": config["limits"]["sessions"]}}  # there cannot be fewer
    with peers.sluice(config=harness.merged(config, none)) as peer:
        time.sleep(1)
        return machine.memory(peer.pid)[0]


def held_bytes(peer, count, *options, own_before=None):
    """User and kernel bytes of a connection, of both ends by slab, and the resident bytes with all held."""
    machine.settle()
    if own_before is None:
        own_before, _ = machine.memory(peer.pid)
    with machine.KernelMemory(peer.pid) as kernel:
        with Flood(peer, count, *options, ramp=60) as flood:
            # Polls are armed and pages counted a little after the accept.
            time.sleep(2)
            own, rss = machine.memory(peer.pid)
            group, slabs = kernel.grown()
            counts = flood.counts()
            held = int(counts["held"])
            if held < 0.95 * count:
                raise AssertionError(f"{peer.name} holds {held} of {count}: {counts}")
    return {
        "user": (own - own_before) / held, "kernel": group / held if group is not None else None,
        "slabs": slabs / held, "rss": rss, "heard": counts["greeted"], "held": held,
    }


def hold(report, quick, floor):
    # As many in a quick run: what a process takes once is not to be shared by fewer.
    count = 100_000
    rounds = 1 if quick else 2
    workers, evenly = each_worker_alike(count)
    report.section("hold", f"Hold: {count:,} silent connections")
    found = {"ours": [], "floor": []}
    empty = empty_bytes(waiting(workers, count))
    for _ in range(rounds):
        with peers.sluice(config=waiting(workers, count), access="127.0.0.0/8 suspicious\n") as peer:
            found["ours"].append(held_bytes(peer, count, *evenly, own_before=empty))
        with peers.floor(floor, SLOTS + 500, workers) as peer:
            found["floor"].append(held_bytes(peer, count))
    ours, least = found["ours"], found["floor"]
    spoke = max(one["heard"] for one in ours)
    if spoke:
        report.remark(f"{int(spoke)} connections had heard their banner when memory was read: the ramp took too long")

    def column(rows, name):
        return [row[name] for row in rows]

    report.row("user memory of a connection", column(ours, "user"), "B", budget="hold.user",
               note="beyond a daemon with as many workers and no room for connections")
    report.row("resident memory, all held", [rss / 1e6 for rss in column(ours, "rss")], "MB",
               note=f"{workers} workers; {empty / 1e6:.1f} MB without room for connections")
    if None not in column(ours + least, "kernel"):
        report.row("kernel memory of a connection (cgroup)", column(ours, "kernel"), "B", "floor in C",
                   column(least, "kernel"))
        report.row(
            "user and kernel memory of a connection",
            [row["user"] + row["kernel"] for row in ours], "B", "floor in C",
            [row["user"] + row["kernel"] for row in least], budget="hold.total")
    else:
        report.remark("no memory cgroup can be made here: kernel memory is by the growth of all slabs, "
                      "half of the floor's taken for the client's end")
        ends = [row["slabs"] / 2 for row in least]
        report.row(
            "user and kernel memory of a connection",
            [row["user"] + row["slabs"] - end for row, end in zip(ours, ends)], "B", "floor in C",
            [row["user"] + end for row, end in zip(least, ends)], budget="hold.total")
    report.row("slabs of a connection, both ends", column(ours, "slabs"), "B", "floor in C", column(least, "slabs"))
    if not quick:
        hold_peers(report, statistics.median(column(ours, "user")), ours)


def hold_peers(report, our_user, ours):
    our_kernel = [row["kernel"] for row in ours if row["kernel"] is not None]
    for name, count, start in (
        ("endlessh", 10_000, lambda: peers.endlessh(10_000, SLOTS)),
        ("nginx mail", 10_000, lambda: peers.nginx(holding=True)),
        ("HAProxy", 9_000, lambda: peers.haproxy(holding=True)),
        ("postscreen", 2_000, lambda: peers.postscreen(5_000)),
    ):
        try:
            with start() as peer:
                found = held_bytes(peer, count, "--burst", 64)
        except (AssertionError, OSError, subprocess.SubprocessError) as failure:
            report.skip(f"hold, {name}", str(failure).splitlines()[0][:200])
            continue
        report.row("user memory of a connection", [our_user], "B", name, [found["user"]],
                   note=f"{name}: {found['held']:,} held")
        if found["kernel"] is not None and our_kernel:
            report.row("user and kernel memory of a connection", [our_user + our_kernel[0]], "B", name,
                       [found["user"] + found["kernel"]])


# Drip.

def cost(peer, count, interval, seconds, *options, octets=1):
    """CPU microseconds of the peer for a drip, when each of `count` gets one every `interval` seconds.

    The number of drips is the nominal one; what the flood has read must bear it out. Reading is by sweeps of
    2 s, which the window is a multiple of, so that the server is not charged for waking the reader.
    """
    machine.settle()
    with Flood(peer, count, "--sweep", 2, *options, ramp=60) as flood:
        time.sleep(max(1.0, interval / 2))
        before = flood.counts()
        stats = peers.counters(peer) if peer.shield else None
        spent, started = peer.cpu, time.monotonic()
        time.sleep(seconds)
        spent, took = peer.cpu - spent, time.monotonic() - started
        stats = peers.counters(peer, since=stats) if stats else None
        after = flood.counts()
    drips = after["held"] * took / interval
    seen = (after["bytes"] - before["bytes"]) / octets
    if after["held"] < 0.95 * count or not 0.75 < seen / drips < 1.35:
        raise AssertionError(
            f"{peer.name}: {after['held']:.0f} of {count} held, {seen:.0f} drips seen where {drips:.0f} are due")
    return {"cpu": spent / drips * 1e6, "drips": drips, "stats": stats, "seconds": took}


def drip(report, quick, floor):
    count = SLOTS
    seconds = 4 if quick else 8
    rounds = 1 if quick else 3
    report.section("drip", f"Drip: a byte a second for each of {count:,} held")
    found = {"Sluice": [], "floor": [], "endlessh": []}
    for _ in range(rounds):
        with peers.sluice(config=dripping(1, 1), access="127.0.0.0/8 bad\n") as peer:
            found["Sluice"].append(cost(peer, count, 1, seconds))
        with peers.floor(floor, SLOTS + 500, interval=1000) as peer:
            found["floor"].append(cost(peer, count, 1, seconds))
        with peers.endlessh(1000, SLOTS) as peer:
            found["endlessh"].append(cost(peer, count, 1, seconds, "--burst", 128, octets=3))
    cpu = {name: [one["cpu"] for one in rows] for name, rows in found.items()}
    report.row(f"CPU of a drip, {count:,} held", cpu["Sluice"], "µs", "floor in C", cpu["floor"],
               budget="drip.floor.19k")
    report.row(f"CPU of a drip, {count:,} held", cpu["Sluice"], "µs", "endlessh", cpu["endlessh"],
               budget="drip.endlessh", note="endlessh: 3 octets, the least that it sends")

    many, rows = count, found["Sluice"]
    if not quick:
        many = 100_000
        workers, evenly = each_worker_alike(many)
        rows, least = [], []
        for _ in range(2):
            with peers.sluice(config=dripping(workers, 1), access="127.0.0.0/8 bad\n") as peer:
                rows.append(cost(peer, many, 1, seconds, *evenly))
            with peers.floor(floor, SLOTS + 500, workers, interval=1000) as peer:
                least.append(cost(peer, many, 1, seconds))
        report.row(f"CPU of a drip, {many:,} held", [row["cpu"] for row in rows], "µs", "floor in C",
                   [row["cpu"] for row in least], budget="drip.floor.100k",
                   note=f"{workers} workers, as many processes")
    # The budget is for 100,000 bytes/s: with fewer bytes there are not fewer enters.
    report.row(
        f"ring enters of a dripped byte at {many:,} bytes/s",
        [row["stats"]["enters"] / max(row["stats"]["drips"], 1) for row in rows],
        budget=None if quick else "drip.enters")
    report.row("ring enters a second", [row["stats"]["enters"] / row["seconds"] for row in rows], "/s")

    with peers.sluice(config=dripping(1, 1), access="127.0.0.0/8 bad\n") as peer:
        late = lateness(peer, count, seconds)
    report.row("lateness of a dripped byte, p99.9", [late["late_p999_us"] / 1000], "ms", budget="drip.lateness",
               note=f"{late['gaps']:.0f} gaps")
    report.row("deviation of the gap between two bytes, p50", [late["gap_p50_us"] / 1000], "ms")
    report.row("deviation of the gap between two bytes, p99.9", [late["gap_p999_us"] / 1000], "ms")
    if not quick:
        with peers.floor(floor, SLOTS + 500, interval=1000) as peer:
            least = lateness(peer, count, seconds)
        report.row("lateness of a dripped byte, p99.9", [late["late_p999_us"] / 1000], "ms", "floor in C",
                   [least["late_p999_us"] / 1000])
        instructions(report)


def lateness(peer, count, seconds):
    """By the kernel's time stamps of arrival, from 500 connections among `count` that drip."""
    machine.settle()
    with Flood(peer, count, "--sweep", 2, "--lateness", 1) as flood:
        time.sleep(seconds if seconds < 8 else 2 * seconds)
        return flood.stop()["LATENESS"]


def instructions(report):
    """User instructions of a drip, by callgrind: the real driver on one thread, in runs of two lengths.

    Their difference is what the drips cost and what a tick costs for all of them; the start is in both.
    """
    program = pathlib.Path(harness.SLUICE).parent / "drip-benchmark"
    if not shutil.which("valgrind") or not program.exists():
        report.skip("instructions of a drip", f"valgrind or {program.name} is not there")
        return
    counts, drips, held = [], [], 1_000
    with peers.folder() as place:
        # Valgrind of Debian 12 gives up at the debugging information that Swift writes.
        subprocess.run(["strip", "--strip-debug", "-o", place / program.name, program], check=True)
        for wanted in (20_000, 80_000):
            done = subprocess.run(
                ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", place / program.name, str(held),
                 str(wanted)], capture_output=True, text=True, timeout=120, preexec_fn=machine.die_with_parent)
            count = re.search(r"Collected : (\d+)", done.stderr)
            dripped = re.search(r"drips=(\d+)", done.stdout)
            if not count or not dripped:
                report.skip("instructions of a drip", (done.stdout + done.stderr)[-200:])
                return
            counts.append(int(count.group(1)))
            drips.append(int(dripped.group(1)))
    report.row("user instructions of a drip", [(counts[1] - counts[0]) / (drips[1] - drips[0])],
               budget="drip.instructions", note=f"callgrind, {held:,} held, all hear the same text")


# A million.

def million(report, quick, floor):
    count = 100_000 if quick else 1_000_000
    report.section("million", f"{count:,} held in one process, beside good mail")
    missing = cannot(count)
    if missing:
        report.skip(f"{count:,} held", missing)
        return
    workers, evenly = each_worker_alike(count)
    # In the tarpit, for nothing else lets a connection wait as long as opening a million takes.
    config = dripping(workers, 280 / banner_bytes(HOST_SHORT), HOST_SHORT)
    one = empty_bytes(dripping(1, 1))
    with peers.smtp_sink() as sink:
        access = "127.0.0.0/16 trusted\n127.0.0.0/8 bad\n"
        with peers.sluice(sink.port, config=config, access=access, orderly=False) as peer:
            with Flood(peer, count, "--sweep", 30, *evenly, ramp=240) as flood:
                ready = flood.ready
                own, rss = machine.memory(peer.pid)
                messages, sent = 200 if quick else 2_000, 0
                try:
                    # One source, one worker: its share of the sessions is what this can use.
                    rate, _ = peers.send_mail(peer.port, messages, 1024, reuse=True, sessions=5)
                    sent = messages
                except (AssertionError, subprocess.SubprocessError) as failure:
                    report.remark(f"good mail failed: {str(failure).strip().splitlines()[0][:300]}")
                counts = flood.counts()
                _, rss_after = machine.memory(peer.pid)
    name = "held, of those asked for" if quick else "held in one process"
    report.row(name, [counts["held"]], budget=None if quick else "million.held", note=f"{workers} workers")
    report.row("resident memory with all of them held", [max(rss, rss_after) / 1e6], "MB",
               budget=None if quick else "million.rss")
    report.row("user memory of a connection, rings and workers included",
               [(own - one) / counts["held"]], "B", budget=None if quick else "million.user",
               note=f"beyond a daemon with one worker and no room for connections, {one / 1e6:.1f} MB")
    report.row("good mail delivered beside them / sent", [sent / messages], budget="million.mail")
    if sent:
        report.row("messages/s beside them, 1 KB, sessions reused", [rate], "/s")
    report.row("accepted a second while opening", [ready["connected"] / ready["t"]], "/s")


def cannot(count):
    """What this machine lacks for so many connections, both ends of them; None if nothing."""
    need = count * 9_500 + (500 << 20)
    if machine.available() < need:
        return (f"both ends of {count:,} connections take {need / 1e9:.1f} GB of memory, most of it the kernel's, "
                f"and {machine.available() / 1e9:.1f} GB are free")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < SLOTS + 500:
        return f"the hard limit on open files is {hard}, and a ring's table of {SLOTS} needs {SLOTS + 500}"
    most = int(machine.read("/proc/sys/fs/file-max", "0"))
    if most < 2.1 * count:
        return f"fs.file-max is {most}; both ends take {2.1 * count:.0f} files: sysctl -w fs.file-max=..."
    return None
