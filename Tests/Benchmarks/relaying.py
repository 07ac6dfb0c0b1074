# SPDX-License-Identifier: Apache-2.0
"""What passing mail on costs, and what is left for it beside the tarpit: the sections relay and isolation."""

import contextlib
import re
import shutil
import socket
import statistics
import subprocess
import time

import harness
import machine
import peers
from holding import SLOTS
from peers import Flood

SIZES = (("1k", "1 KB", 1024), ("50k", "50 KB", 51_200), ("1m", "1 MB", 1_048_576))

ONE_WORKER = {"workers": 1, "limits": {"connections": 4_000, "sessions": 1_000, "downstream_connections": 1_000}}


def relay(report, quick, _):
    report.section("relay", "Relay: smtp-source through each into one smtp-sink, 20 sessions")
    sizes = SIZES[:1] if quick else SIZES
    rounds = 3
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(peers.smtp_sink())
        targets = {"no proxy": None, "Sluice": stack.enter_context(peers.sluice(sink.port, ONE_WORKER))}
        targets["HAProxy"] = stack.enter_context(peers.haproxy(sink.port))
        if not quick:
            try:
                targets["nginx mail"] = stack.enter_context(peers.nginx(sink.port, connections=4_000))
            except (AssertionError, OSError) as failure:
                report.skip("relay, nginx mail", str(failure).splitlines()[0][:200])
        for key, size, length in sizes:
            for reuse in (True, False):
                cell(report, targets, sink, key, size, length, reuse, rounds)
        calls(report, targets["Sluice"], targets["HAProxy"], quick)


def cell(report, targets, sink, key, size, length, reuse, rounds):
    """One size, reused or not: every target in turn, several times."""
    messages = {"1k": 6_000, "50k": 2_000, "1m": 400}[key] // (1 if reuse else 2)
    rates = {name: [] for name in targets}
    costs = {name: [] for name in targets}
    for attempt in range(rounds):
        for name, peer in list(targets.items()):
            before = peer.cpu if peer else 0
            try:
                rate, _ = peers.send_mail((peer or sink).port, messages, length, reuse)
            except (AssertionError, subprocess.SubprocessError) as failure:
                if name != "nginx mail":
                    raise
                if attempt == 0:
                    report.skip(f"relay, {size}, nginx mail", str(failure).splitlines()[0][:200])
                continue
            rates[name].append(rate)
            if peer:
                time.sleep(0.2)  # what comes after the last reply is part of the cost
                costs[name].append((peer.cpu - before) / messages * 1000)
    how = f"{size}, {'sessions reused' if reuse else 'one message a connection'}"
    word = "reused" if reuse else "single"
    report.row(f"CPU of 1,000 messages, {how}", costs["Sluice"], "s", "HAProxy", costs["HAProxy"],
               budget=f"relay.cpu.{word}.{key}")
    if costs.get("nginx mail"):
        report.row(f"CPU of 1,000 messages, {how}", costs["Sluice"], "s", "nginx mail", costs["nginx mail"])
    report.row(f"messages/s, {how}", rates["Sluice"], "/s", "no proxy", rates["no proxy"],
               budget=f"relay.rate.{key}" if reuse else None)
    report.row(f"messages/s, {how}", rates["Sluice"], "/s", "HAProxy", rates["HAProxy"])


def calls(report, ours, theirs, quick):
    """System calls of a message, counted by strace in a run of their own, and ring enters by the daemon."""
    messages = 500
    for reuse in (True, False):
        how = "1 KB, " + ("sessions reused" if reuse else "one message a connection")
        before = peers.counters(ours)
        peers.send_mail(ours.port, messages, 1024, reuse)
        found = peers.counters(ours, since=before)
        report.row(f"ring enters of a message, {how}", [found["enters"] / messages])
        report.row(f"ring submissions of a message, {how}", [found["submissions"] / messages])
        if quick or not shutil.which("strace"):
            continue
        traced = [syscalls(peer, messages, reuse) for peer in (ours, theirs)]
        if all(traced):
            report.row(f"system calls of a message, {how}", traced[:1], "", "HAProxy", traced[1:])
        else:
            report.skip(f"system calls of a message, {how}", "strace could not attach")


def syscalls(peer, messages, reuse):
    tracer = subprocess.Popen(
        ["strace", "-f", "-c", "-p", str(peer.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=machine.die_with_parent)
    try:
        time.sleep(0.7)
        peers.send_mail(peer.port, messages, 1024, reuse)
    finally:
        tracer.send_signal(2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, text = tracer.communicate(timeout=10)
            found = re.search(r"^100\.00\s+.*?\s(\d+)(?:\s+\d+)?\s+total$", text, re.M)
            if found:
                return int(found.group(1)) / messages
        tracer.kill()
    return None


# Isolation.

def isolation(report, quick, _):
    """One daemon: alone, loaded, loaded, alone, so that neither has the better half of the run."""
    slots = 6_000 if quick else SLOTS
    count = int(slots * 0.9)
    report.section("isolation", f"Isolation: {count:,} of {slots:,} slots in the tarpit, delays as shipped")
    config = {
        "workers": 1,
        "limits": {"connections": slots, "sessions": 500, "downstream_connections": 500},
    }
    alone, beside = [], []
    with peers.smtp_sink() as sink:
        access = "127.0.0.0/16 trusted\n127.0.0.0/8 bad\n"
        with peers.sluice(sink.port, config, access=access) as peer:
            peers.send_mail(peer.port, 500, 1024, reuse=True)
            for _ in range(1 if quick else 2):
                machine.settle()
                alone.append(good_mail(peer.port, quick))
                with Flood(peer, count) as flood:
                    time.sleep(5)  # the first bytes of a banner are due after four seconds
                    beside += [good_mail(peer.port, quick), good_mail(peer.port, quick)]
                    still = flood.counts()["held"]
                    if still < 0.99 * count:
                        raise AssertionError(f"{still:.0f} of {count} still held")
                machine.settle()
                alone.append(good_mail(peer.port, quick))
    report.row("messages/s, 1 KB, sessions reused", [one[0] for one in beside], "/s", "alone",
               [one[0] for one in alone], budget="isolation.rate")
    report.row("p99 of a message, 150/s, a connection each", [one[1] for one in beside], "ms", "alone",
               [one[1] for one in alone], budget="isolation.p99")


def good_mail(port, quick):
    """Messages a second, of three tries the middle one, and the p99 of a message in milliseconds."""
    rates = [peers.send_mail(port, 2_000 if quick else 6_000, 1024, reuse=True)[0] for _ in range(3)]
    return statistics.median(rates), tail(port, rate=150, seconds=3 if quick else 8) * 1000


def tail(port, rate, seconds):
    """The 99th percentile, in seconds, of how long a message takes from its connect to the reply to QUIT.

    At a fixed rate from four threads, and counted from the moment it was due: a server that stalls is not
    excused for the messages that the stall kept from starting.
    """
    threads = 4
    spent = [[] for _ in range(threads)]
    start = time.monotonic() + 0.1

    def run(number):
        for k in range(number, int(rate * seconds), threads):
            due = start + k / rate
            time.sleep(max(due - time.monotonic(), 0))
            message(port)
            spent[number].append(time.monotonic() - due)

    harness.in_parallel(*(lambda number=number: run(number) for number in range(threads)))
    all_of_them = sorted(value for some in spent for value in some)
    return all_of_them[int(0.99 * len(all_of_them))]


BODY = b"Subject: timed\r\n\r\n" + b"x" * 62 + b"\r\n.\r\n"


def message(port):
    with socket.create_connection(("127.0.0.1", port), 30) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line, code in (
            (None, b"220"), (b"HELO client.example\r\n", b"250"), (b"MAIL FROM:<a@client.example>\r\n", b"250"),
            (b"RCPT TO:<b@example.com>\r\n", b"250"), (b"DATA\r\n", b"354"), (BODY, b"250"), (b"QUIT\r\n", b"221"),
        ):
            if line:
                peer.sendall(line)
            reply = b""
            while not reply.endswith(b"\n"):
                piece = peer.recv(4096)
                if not piece:
                    raise AssertionError(f"closed after {line!r}: {reply!r}")
                reply += piece
            if not reply.startswith(code):
                raise AssertionError(f"{line!r} was answered {reply!r}")
