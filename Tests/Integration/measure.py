# SPDX-License-Identifier: Apache-2.0
"""Figures, not promises: what Sluice costs and does on this machine, each line with its number.

Run by scripts/measure; pytest does not collect it. Everything runs on loopback, clients included, so the
rates are those of the whole machine and not of the shield alone.
"""

import argparse
import pathlib
import re
import shutil
import signal
import tempfile
import time

import harness
from harness import NO_DELAYS, SHORT_TIMEOUTS, Dialogue, Shield, Sink, in_parallel, smtp_source, source


def pss(pid):
    """Proportional set size in bytes: what the process has in memory, shared pages by their share."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024


def say(what, figure):
    print(f"{what:<58} {figure}", flush=True)


def statistics(front):
    before = len(front.program.lines)
    front.signal(signal.SIGUSR2)
    time.sleep(0.6)
    lines = [line for _, line in front.program.lines[before:]]
    # Sessions that end meanwhile write their lines as well.
    return [line for line in lines if "STATS" in line] or lines


def enters(lines):
    """Ring enters so far, if the statistics tell: "enters=N", "N enters" or "ring enters: N"."""
    found = re.search(r"enters\D{0,3}(\d+)|(\d+)\s+(?:ring )?enters", "\n".join(lines))
    return int(found.group(1) or found.group(2)) if found else None


def throughput(port, messages, length, **options):
    started = time.monotonic()
    smtp_source(port, messages, length, **options)
    return messages / (time.monotonic() - started)


def median(port):
    return sorted(throughput(port, 3000, 1024, sessions=20) for _ in range(3))[1]


def mail(folder):
    print("\n== mail: 50 sessions of smtp-source through Sluice into the sink")
    box = Sink(folder / "mail-sink", store=False).start()
    front = Shield(folder / "mail", box.port, {"delays": NO_DELAYS, "workers": 2}).start()
    sent = 0
    for length, messages in ((1024, 2000), (102_400, 2000)):
        for reuse in (False, True):
            name = f"{messages} x {length} B, {'reused' if reuse else 'a connection each'}"
            direct = throughput(box.port, messages, length, reuse=reuse)
            through = throughput(front.port, messages, length, reuse=reuse)
            sent += 2 * messages
            say(name, f"{through:.0f}/s (without Sluice {direct:.0f}/s: {through / direct:.2f})")
    front.stop()
    counts = box.stop()
    say("sent, accepted", f"{sent}, {counts['messages']}; bare LF {counts['bare_lf']}, bare CR {counts['bare_cr']}")


def held(folder, count):
    print(f"\n== {count} silent connections held while mail flows")
    box = Sink(folder / "held-sink", store=False).start()
    front = Shield(
        folder / "held", box.port,
        # Twice the room: sources are steered to workers by network, not evenly, and near its limits the
        # shield sheds on purpose.
        {"workers": 2, "limits": {"connections": count * 2}, "delays": {"banner": {"suspicious": "25s"}}},
    ).start()
    # Fresh, but for a little mail: what a load leaves behind would hide the difference.
    smtp_source(front.port, 20, 1024, sessions=2)
    time.sleep(2)
    base = pss(front.pid)
    clients = []
    try:
        started = time.monotonic()
        for n in range(count):
            clients.append(Dialogue(front.port, f"127.2.{n // 250 % 250}.{1 + n % 250}"))
        took = time.monotonic() - started
        time.sleep(2)
        full = pss(front.pid)
        say("connected in", f"{took:.1f} s")
        say("PSS before, with all held", f"{base / 1024:.0f} KB, {full / 1024:.0f} KB")
        say("user bytes per held connection (PSS difference)", f"{(full - base) / count:.1f} B")
        first, at = statistics(front), time.monotonic()
        time.sleep(5)
        second = statistics(front)
        if enters(first) is not None and enters(second) is not None:
            rate = (enters(second) - enters(first)) / (time.monotonic() - at)
            say("ring enters per second, all held, no mail", f"{rate:.1f}")
        else:
            say("ring enters per second", "not in the statistics")
        beside = median(front.port)
        still = sum(client.still_open(0.0) for client in clients)
        say("still held after that", f"{still} of {count}")
        print("statistics (SIGUSR2):")
        for line in statistics(front):
            print("   ", line)
    finally:
        for client in clients:
            client.close()
    time.sleep(2)
    alone = median(front.port)
    say("good mail alone, beside the held (median of 3)", f"{alone:.0f}/s, {beside:.0f}/s ({beside / alone:.2f})")
    front.stop()
    box.stop()


def delays(folder):
    print("\n== delays, with the shipped settings (T3 shortened to 20 s for the banner)")
    box = Sink(folder / "delay-sink", store=False).start()
    front = Shield(
        folder / "delays", box.port,
        {"delays": {"banner": {"bad": "20s"}, "helo": {"bad": "8s"}, "mail": {"bad": "8s"}, "rcpt": {"bad": "8s"},
                    "rcpt_rejected": {"bad": "8s"}}},
        rates="127.1.100.0/24 bytes=32k/s per=/32 over=slow\n",
    ).start()

    def banner(kind):
        with front.dialogue(source(kind, 10)) as client:
            return client.expect(220).at

    def stutter():
        with front.dialogue(source(3, 10), timeout=120) as client:
            try:
                client.expect(220)
                client.hello()
                client.command("MAIL FROM:<a@bot.example>")
                client.command("RCPT TO:<b@example.com>")
                client.command("QUIT")
            except AssertionError as failure:
                client.transcript.append((client.age, "!", str(failure).split("\n")[0].encode()))
            return list(client.transcript)

    def shaped():
        size = 32 * 1024 * 20
        body = (b"z" * 62 + b"\r\n") * (size // 64)
        with front.dialogue(source(1, 100), timeout=120) as client:
            client.greet()
            client.open_data()
            started = time.monotonic()
            client.send(body + b".\r\n")
            client.expect(250)
            return len(body) / (time.monotonic() - started)

    known, clean, suspicious, transcript, rate = in_parallel(
        lambda: banner(0), lambda: banner(1), lambda: banner(2), stutter, shaped)
    say("T0 banner after", f"{known:.3f} s")
    say("T1 banner after", f"{clean:.3f} s")
    say("T2 banner after", f"{suspicious:.3f} s")
    say("sender under bytes=32k/s", f"{rate:.0f} B/s ({rate / 32768 * 100 - 100:+.1f} %)")
    print("transcript of a T3 dialogue:")
    for at, who, data in transcript:
        print(f"    {at:8.3f} {who}: {data!r}")
    front.stop()
    say("messages at the downstream by T0 to T3 and the shaped one", str(box.stop()["messages"]))


def failures(folder):
    import test_failures

    print("\n== downstream dies at each stage: what the client hears, what was accepted")
    for how in ("fin", "rst"):
        for stage in test_failures.STAGES:
            box = Sink(
                folder / f"die-{stage}-{how}", "--die-at", stage, "--die-by", how, "--fault-after-bytes", "20000"
            ).start()
            front = Shield(
                folder / f"die-{stage}-{how}-shield", box.port,
                {"timeouts": SHORT_TIMEOUTS, "delays": NO_DELAYS}).start()
            steps = test_failures.transact(front)
            front.stop()
            say(f"dies at {stage} by {how}", f"{steps[-1]}; accepted {box.stop()['messages']}")


def tls(folder):
    import measure_tls

    measure_tls.tls(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held", type=int, default=15_000, help="silent connections (default 15000)")
    parser.add_argument("parts", nargs="*", default=["mail", "held", "delays", "failures"])
    options = parser.parse_args()
    harness.raise_descriptor_limit()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-measure-"))
    try:
        for part in options.parts:
            if part == "held":
                held(folder, options.held)
            else:
                {"mail": mail, "delays": delays, "failures": failures, "tls": tls}[part](folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
