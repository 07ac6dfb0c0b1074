# SPDX-License-Identifier: Apache-2.0
"""What TLS costs: memory at rest and in flight, drips, a flood of handshakes, relaying beside HAProxy.

`scripts/measure tls`. Figures of one run on one machine; where others work on it too, the load stands beside them.
"""

import contextlib
import multiprocessing
import os
import pathlib
import re
import selectors
import socket
import ssl
import statistics
import sys
import time

import harness
from harness import NO_DELAYS, Program, Shield, Sink, free_port, wait_until
from secure import BACK, HOST, Keys, SecureDialogue

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "Benchmarks"))
import machine  # noqa: E402

SUITE = "TLS_AES_256_GCM_SHA384"


def say(what, figure):
    print(f"{what:<72} {figure}", flush=True)


def load():
    return f"load {os.getloadavg()[0]:.1f}"


def pss(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024


@contextlib.contextmanager
def shield(folder, name, downstream, keys, config=None, certificate=None):
    one = Shield(folder / name, downstream, harness.merged(
        {"delays": NO_DELAYS, "log": {"level": "notice"}, "downstream": {"probe_every": "1h"},
         "limits": {"connections": 12_000, "sessions": 8_000, "tls_sessions": 12_000},
         "tarpit": {"sessions_per_source": 100, "session": "1h"},
         "overload": {"shrink_at": "100%", "shed_at": "100%", "reserved_for_known": "0%"}}, config or {}))
    one.implicit = free_port()
    one.settings["listeners"].append({"address": f"127.0.0.1:{one.implicit}", "tls": "implicit"})
    one.settings["tls"] = {"certificates": [certificate or keys.mx], "cipher_suites": f'"{SUITE}"'}
    one.write_config()
    one.program = Program([harness.SLUICE, "serve", "--config", str(one.config)])
    one.program.wait_for("sluice ready")
    try:
        yield one
    finally:
        one.stop()


def at_rest(folder, keys, count, box):
    print(f"\n== {count} idle sessions, user bytes each (PSS)")
    for what, version in (("clear", None), ("TLS 1.2", ssl.TLSVersion.TLSv1_2), ("TLS 1.3", ssl.TLSVersion.TLSv1_3)):
        with shield(folder, f"rest-{what}", box.port, keys) as front:
            context = version and keys.trusting(version)
            # What the first sessions leave behind is not the sessions'.
            warm = [connect(front, context, n) for n in range(50)]
            for client in warm:
                client.close()
            time.sleep(0.5)
            base = pss(front.pid)
            started = time.monotonic()
            clients = [connect(front, context, n) for n in range(count)]
            took = time.monotonic() - started
            time.sleep(1)
            greeted = (pss(front.pid) - base) / count
            for client in clients:
                client.hello("c.example")
            time.sleep(1)
            said = (pss(front.pid) - base) / count
            for client in clients[:200]:
                client.envelope()
                client.command("DATA", 354)
            middle = pss(front.pid)
            for client in clients[:200]:
                client.send(b"y" * 62 + b"\r\n")
                client.send((b"y" * 62 + b"\r\n") * 310)
            time.sleep(1)
            flight = (pss(front.pid) - middle) / 200
            say(f"{what}: after the banner; after EHLO; 200 in a message, more", f"{greeted:.0f}; {said:.0f}; {flight:.0f}")
            if version:
                say(f"{what}: opened, one after the other", f"{count / took:.0f}/s")
            for client in clients:
                client.close()
            time.sleep(2)
            say(f"{what}: left a while after all have gone, of each", f"{(pss(front.pid) - base) / count:.0f}")


def connect(front, context, number):
    client = SecureDialogue(front.implicit if context else front.port, f"127.0.{number % 250}.{1 + number // 250}")
    if context:
        client.secure(context)
    client.expect(220)
    return client


def drips(folder, keys, count, box):
    seconds = 50
    print(f"\n== {count} dripping T3 sessions, a banner over {seconds} s")
    for what in ("clear", "TLS 1.3"):
        with shield(folder, f"drips-{what}", box.port, keys,
                    {"delays": {"banner": {"bad": f"{seconds}s"}}}) as front:
            base = pss(front.pid)
            context = keys.trusting(ssl.TLSVersion.TLSv1_3)
            clients = []
            began = time.monotonic()
            for n in range(count):
                client = SecureDialogue(
                    front.port if what == "clear" else front.implicit, f"127.3.{n % 250}.{1 + n // 250}")
                if what != "clear":
                    client.secure(context)
                clients.append(client)
            opened = time.monotonic() - began
            room = selectors.DefaultSelector()
            arrivals = []
            for client in clients:
                plain = client.socket if what == "clear" else client.socket.plain
                plain.setblocking(False)
                arrivals.append([])
                room.register(plain, selectors.EVENT_READ, len(arrivals) - 1)
            cpu, at = machine.cpu(front.pid), time.monotonic()
            used = (pss(front.pid) - base) / count
            octets = 0
            for one in range(len(clients) if what != "clear" else 0):
                # The tickets that came behind the handshake.
                with contextlib.suppress(BlockingIOError):
                    clients[one].socket.plain.recv(65_536)
            while time.monotonic() < at + 30:
                for key, _ in room.select(0.5):
                    with contextlib.suppress(BlockingIOError):
                        piece = key.fileobj.recv(4096)
                        if piece:
                            arrivals[key.data].append(time.monotonic())
                            octets += len(piece)
            cpu, took = machine.cpu(front.pid) - cpu, time.monotonic() - at
            gaps = [b - a for times in arrivals for a, b in zip(times, times[1:])]
            middle = statistics.median(gaps)
            late = sorted(max(gap - middle, 0) for gap in gaps)
            sent = sum(map(len, arrivals))
            say(f"{what}: opened in; user bytes each", f"{opened:.1f} s; {used:.0f}")
            say(f"{what}: CPU a drip; drips/s; bytes on the wire a drip",
                f"{cpu / sent * 1e6:.1f} µs; {sent / took:.0f}; {octets / sent:.1f}")
            say(f"{what}: between two drips, and later than that at p50, p99, most",
                f"{middle:.2f} s; {late[len(late) // 2] * 1e3:.0f}, {late[len(late) * 99 // 100] * 1e3:.0f}, "
                f"{late[-1] * 1e3:.0f} ms; all {count} got theirs: {all(len(one) >= 5 for one in arrivals)}; {load()}")
            for client in clients:
                client.close()


def flood(port, certificate, rate, done):
    """Whole handshakes from one source, each on a connection of its own, at this rate."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    made = 0
    started = time.monotonic()
    waiting = selectors.DefaultSelector()
    opened = {}
    while not done.is_set():
        while made < (time.monotonic() - started) * rate and len(opened) < 400:
            made += 1
            peer = socket.socket()
            peer.bind(("127.1.99.9", 0))
            with contextlib.suppress(OSError):
                peer.connect(("127.0.0.1", port))
                peer.setblocking(False)
                tls = context.wrap_socket(peer, do_handshake_on_connect=False, server_hostname=HOST)
                opened[tls.fileno()] = tls
                waiting.register(tls, selectors.EVENT_READ)
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
        for key, _ in waiting.select(0.002):
            tls = key.fileobj
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except OSError:
                pass
            waiting.unregister(tls)
            opened.pop(tls.fileno(), None)
            tls.close()
    print(f"    (flood: {made / (time.monotonic() - started):.0f} connections/s begun)", flush=True)


def honest(front, keys, seconds=8, rate=20):
    """Letters over TLS, each on a connection of its own; seconds from connecting to the 250."""
    context = keys.trusting()
    times = []
    started = time.monotonic()
    for n in range(seconds * rate):
        time.sleep(max(started + n / rate - time.monotonic(), 0))
        at = time.monotonic()
        with SecureDialogue(front.port, f"127.0.{n % 200}.{1 + n % 7}") as client:
            client.starttls(context)
            assert client.deliver().code == 250
        times.append(time.monotonic() - at)
    times.sort()
    return times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3


def flooded(folder, keys, box):
    print("\n== honest mail over TLS (20/s, a connection and a handshake each) beside 200 handshakes/s of one source")
    for kind in ("ec", "rsa"):
        certificate = keys.make(f"flood-{kind}", kind=kind)
        with shield(folder, f"flood-{kind}", box.port, keys, certificate=certificate) as front, \
                shield(folder, f"beside-{kind}", box.port, keys, certificate=certificate) as beside:
            honest(front, keys, 2)
            # The flood and what answers it take half of a machine of two processors. A flood of another process
            # does that too: the difference between the two is what the queue in ours makes of it.
            rows = {"none": [], "flood of another process": [], "flood of this one": []}
            for _ in range(3):
                rows["none"].append(honest(front, keys))
                for name, target in (("flood of another process", beside), ("flood of this one", front)):
                    done = multiprocessing.Event()
                    other = multiprocessing.Process(
                        target=flood, args=(target.implicit, str(keys.authority), 200, done))
                    other.start()
                    time.sleep(1)
                    rows[name].append(honest(front, keys))
                    done.set()
                    other.join(10)
            middle = {name: [statistics.median(one[k] for one in found) for k in (0, 1)] for name, found in rows.items()}
            for name, (p50, p99) in middle.items():
                spread = ", ".join(f"{one[1]:.1f}" for one in rows[name])
                say(f"{kind.upper()} key, {name}: p50, p99 (p99 of each run)", f"{p50:.1f}, {p99:.1f} ms ({spread}); {load()}")


def haproxy(folder, name, port, target, accept=None, connect=False, authority=None):
    """HAProxy between two ports: `accept` a certificate it speaks TLS with to clients, `connect` TLS to the server."""
    bound = f"ssl crt {accept}" if accept else ""
    server = f"ssl verify required ca-file {authority} sni str({BACK}) verifyhost {BACK}" if connect else ""
    path = folder / f"{name}.cfg"
    path.write_text(f"""
global
    maxconn 4000
    nbthread 1
    ssl-default-bind-ciphersuites {SUITE}
    ssl-default-server-ciphersuites {SUITE}
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 10s
    timeout client 120s
    timeout server 120s
    retries 0
frontend f
    bind 127.0.0.1:{port} {bound}
    default_backend b
backend b
    server s 127.0.0.1:{target} {server}
""")
    one = Program(["haproxy", "-db", "-f", str(path)])
    wait_until(lambda: machine.listens(port), 10, "haproxy listening")
    return one


def relayed(folder, keys, box):
    print("\n== CPU of a message, one worker each, TLS 1.3, same certificate and cipher; 20 sessions, reused")
    programs = []
    pem = {}
    for name, entry in (("mx", keys.mx), ("back", keys.back)):
        pem[name] = folder / f"{name}-both.pem"
        pem[name].write_bytes(pathlib.Path(entry["certificate"]).read_bytes() + pathlib.Path(entry["key"]).read_bytes())
    try:
        # Behind: TLS in front of the sink.
        back = free_port()
        programs.append(haproxy(folder, "back", back, box.port, accept=pem["back"]))
        tls = {"tls": "verify", "tls_implicit": "yes", "tls_name": BACK, "tls_ca": str(keys.authority)}
        for hops, target, down in (("TLS to clear", box.port, {}), ("TLS to TLS", back, tls)):
            with shield(folder, f"relay-{hops}", target, keys, {"downstream": down}) as front:
                theirs = free_port()
                other = haproxy(folder, f"peer-{hops}", theirs, target, accept=pem["mx"], connect=bool(down),
                                authority=keys.authority)
                programs.append(other)
                # In front of each: smtp-source speaks no TLS.
                doors = {}
                for name, port, pid in (("Sluice", front.implicit, front.pid), ("HAProxy", theirs, other.process.pid)):
                    door = free_port()
                    programs.append(haproxy(folder, f"door-{name}-{hops}", door, port, connect=True,
                                            authority=keys.authority))
                    doors[name] = (door, pid)
                for length, messages in ((1024, 3000), (51_200, 1500)):
                    costs = {name: [] for name in doors}
                    for _ in range(3):
                        for name, (door, pid) in doors.items():
                            before = machine.cpu(pid)
                            harness.smtp_source(door, messages, length, sessions=20, reuse=True)
                            time.sleep(0.2)
                            costs[name].append((machine.cpu(pid) - before) / messages * 1e6)
                    middle = {name: statistics.median(found) for name, found in costs.items()}
                    ratios = sorted(a / b for a, b in zip(costs["Sluice"], costs["HAProxy"]))
                    say(f"{hops}, {length} B: Sluice, HAProxy, ratio (least to most)",
                        f"{middle['Sluice']:.0f}, {middle['HAProxy']:.0f} µs, {ratios[1]:.2f} "
                        f"({ratios[0]:.2f} to {ratios[2]:.2f}); {load()}")
    finally:
        for one in programs:
            one.kill()


def tls(folder, count=5_000, parts=("rest", "drips", "flood", "relay")):
    # A client's two descriptors and ours are in processes of their own.
    keys = Keys(folder / "keys")
    # One certificate for both roles: HAProxy's door asks for the name of the back.
    keys.mx = keys.make("mx", names=[HOST, BACK])
    keys.back = keys.make("postfix", names=[BACK])
    box = Sink(folder / "tls-sink", store=False).start()
    try:
        if "rest" in parts:
            at_rest(folder, keys, count, box)
        if "drips" in parts:
            drips(folder, keys, count // 5, box)
        if "flood" in parts:
            flooded(folder, keys, box)
        if "relay" in parts:
            relayed(folder, keys, box)
    finally:
        box.stop()


if __name__ == "__main__":
    import shutil
    import tempfile

    harness.raise_descriptor_limit()
    place = pathlib.Path(tempfile.mkdtemp(prefix="sluice-tls-"))
    try:
        tls(place, parts=sys.argv[1:] or ("rest", "drips", "flood", "relay"))
    finally:
        shutil.rmtree(place, ignore_errors=True)
