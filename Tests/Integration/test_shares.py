# SPDX-License-Identifier: Apache-2.0
"""One source never takes what all others need, and what clients and servers that take nothing make the kernel keep is
bounded and stated: on real sockets, with the shares that ship."""

import os
import pathlib
import re
import socket
import ssl
import subprocess

import pytest

from harness import NO_DELAYS, Dialogue, serve_each, wait_until
from secure import Keys, SecureDialogue

pytestmark = pytest.mark.alone

SHIPPED = {"share_per_address": "5%", "share_per_network": "20%"}


def greeted(shield, source):
    """A client that has said EHLO, or None if it was turned away."""
    client = Dialogue(shield.port, source)
    try:
        if client.reply().code == 220 and client.command("EHLO client.example").code == 250:
            return client
    except (AssertionError, OSError):
        pass
    client.close()
    return None


def crowd(shield, source, wanted):
    """As many greeted clients of one address as it gets, of so many tries."""
    return [client for client in (greeted(shield, source) for _ in range(wanted)) if client]


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_one_address_leaves_links_and_sessions_to_others(shield, sink, mode):
    front = shield(sink(), {
        "mode": mode, "overload": SHIPPED, "delays": NO_DELAYS, "log": {"flood_lines": 1_000},
        "limits": {"connections": 200, "sessions": 100, "downstream_connections": 40}})
    hostile = crowd(front, "127.1.60.1", 60)
    assert len(hostile) == 10, "a tenth of the sessions: in small pools ten places are a share"
    replies = [client.command("MAIL FROM:<a@example.org>").code for client in hostile]
    # Eight of 40 downstream connections.
    assert replies == [250] * 8 + [451] * 2
    for number in range(5):
        with Dialogue(front.port, f"127.1.{70 + number}.1") as stranger:
            stranger.greet()
            assert stranger.deliver().code == 250
    # Those just refused may still hold their slots, of which its share is 16.
    refused = [front.statistic(f"over_share_{pool}") for pool in ("connections", "sessions")]
    assert sum(refused) == 50 and refused[1] > 0, refused
    assert front.statistic("over_share_links") == 2
    front.program.wait_for(r"SHARE \[127\.1\.60\.1\]:\d+ id=\w+: 451 for downstream connections of this address")
    for client in hostile:
        client.close()


def test_three_sources_do_not_take_the_places_for_tls(shield, sink, tmp_path):
    keys = Keys(tmp_path / "keys")
    front = shield(sink(), {
        "mode": "observe", "overload": SHIPPED, "tls": {"certificates": [keys.make("mx")]},
        "limits": {"tls_sessions": 80}})
    half = []
    for source in ("127.1.80.1", "127.1.81.1", "127.1.82.1"):
        answers = []
        for client in crowd(front, source, 10):
            answers.append(client.command("STARTTLS").code)
            half.append(client)
        # Four of the 20 places for handshakes.
        assert answers == [220] * 4 + [454] * 6
    with SecureDialogue(front.port, "127.1.90.1") as stranger:
        stranger.starttls(keys.trusting())
        assert stranger.deliver().code == 250
    for client in half:
        client.close()


class Glutton:
    """A server that says 354 and takes nothing more."""

    def __init__(self):
        self.listener = socket.socket()
        # For as little as may be in its own buffers.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_304)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.peers = []
        serve_each(self.listener, self._serve)

    def _serve(self, peer):
        self.peers.append(peer)
        try:
            peer.sendall(b"220 glutton.example ESMTP\r\n")
            for line in peer.makefile("rb"):
                verb = line[:4].upper()
                peer.sendall(b"354 Go on\r\n" if verb == b"DATA" else b"250 Ok\r\n")
                if verb in (b"DATA", b"QUIT"):
                    return
        except OSError:
            pass

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            peer.close()


def kernel_bytes(filter_):
    """What the kernel keeps for the sockets that a filter of ss finds: received, queued to send, set aside."""
    text = subprocess.run(["ss", "-tmnOH", filter_], capture_output=True, text=True, check=True).stdout
    return [
        sum(int(found.group(k)) for k in (1, 2, 3))
        for found in re.finditer(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)", text)
    ]


def test_what_servers_and_clients_that_take_nothing_pin_is_in_the_statement(shield):
    back = Glutton()
    front = shield(back.port, {
        "mode": "observe", "overload": {"reserved_for_known": "0%"},
        "limits": {"connections": 64, "sessions": 40, "downstream_connections": 20}})
    row = front.program.wait_for(r"downstream_connections +20 ")
    clients = []
    for _ in range(20):
        client = Dialogue(front.port, "127.0.60.1")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
        client.greet()
        for command in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"):
            client.command(command)
        clients.append(client)

    # Each sends until nothing moves any more, from one end to the other.
    block = (b"x" * 62 + b"\r\n") * 64

    def is_stuck(client):
        client.socket.setblocking(False)
        try:
            for _ in range(2_000):
                client.socket.send(block)
            return False
        except BlockingIOError:
            return True

    links = f"dport = :{back.port}"
    before = [0]

    def all_stuck():
        stuck = all([is_stuck(client) for client in clients])
        now = sum(kernel_bytes(links))
        rests, before[0] = stuck and now == before[0] and now > 20 * 100_000, now
        return rests

    wait_until(all_stuck, 60, "links that take nothing more")
    each = kernel_bytes(links)
    print("kernel bytes of stalled links:", sorted(each))
    stated = row.split()
    unit = {"KB": 1_000, "MB": 1_000_000}[stated[-1]]
    assert sum(each) <= float(stated[-2]) * unit, row
    assert max(each) <= 340_000

    # The other way: who asks and does not take the answers.
    deaf = []
    for _ in range(20):
        client = Dialogue(front.port, "127.0.61.1", receive_buffer=2_304)
        client.greet()
        client.socket.setblocking(False)
        deaf.append(client)

    def all_deaf():
        for client in deaf:
            try:
                client.socket.send(b"HELP\r\n" * 100)
            except (BlockingIOError, ConnectionError):
                continue
        sizes = kernel_bytes(f"sport = :{front.port}")
        return len(sizes) >= 20 and max(sizes) > 30_000

    wait_until(all_deaf, 30, "replies that nobody takes")
    sizes = kernel_bytes(f"sport = :{front.port}")
    print("kernel bytes of clients:", sorted(sizes)[-5:])
    assert max(sizes) <= 131_072 + 2 * 32_768 + 33_600 + 4_100
    for client in clients + deaf:
        client.close()
    back.stop()


class MemoryGroup:
    """A control group of the test's own (version 1) in which a process's memory is counted, that of its sockets too."""

    ROOT = pathlib.Path("/sys/fs/cgroup/memory")

    def __init__(self):
        self.place = self.ROOT / f"sluice-test-{os.getpid()}"

    @classmethod
    def missing(cls):
        """Why there is none; None if there is."""
        if not (cls.ROOT / "memory.kmem.tcp.usage_in_bytes").exists():
            return f"{cls.ROOT} has no memory controller of version 1 that counts sockets"
        if not os.access(cls.ROOT, os.W_OK):
            return f"{cls.ROOT} may not be written"
        return None

    def __enter__(self):
        self.place.mkdir()
        # Sockets are counted once there is a limit.
        (self.place / "memory.kmem.tcp.limit_in_bytes").write_text(str(1 << 34))
        return self

    def enter(self):
        """To be called in the process that is counted."""
        (self.place / "cgroup.procs").write_text(str(os.getpid()))

    def used(self):
        """Octets of the process and the kernel on its behalf, without the files that it has read."""
        stat = dict(line.split() for line in (self.place / "memory.stat").read_text().splitlines())
        kernel = int((self.place / "memory.kmem.usage_in_bytes").read_text())
        sockets = int((self.place / "memory.kmem.tcp.usage_in_bytes").read_text())
        return int(stat["rss"]) + kernel + sockets

    def __exit__(self, *_):
        wait_until(lambda: not (self.place / "cgroup.procs").read_text().strip(), 10, "an empty control group")
        self.place.rmdir()


def stuff(clients, block):
    """Sends until the other side takes nothing more from any of them."""
    for client in clients:
        client.socket.setblocking(False)

    def are_stuck():
        stuck = True
        for client in clients:
            try:
                for _ in range(2_000):
                    client.socket.send(block)
                stuck = False
            except BlockingIOError:
                pass
            except ConnectionError:
                pass
        return stuck

    wait_until(are_stuck, 60, "clients that can send nothing more")


def begin_handshake(client, context):
    """STARTTLS, the client's hello, and not a word more."""
    client.greet()
    client.command("STARTTLS", 220)
    hello = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="mx.example.org").do_handshake()
    except ssl.SSLWantReadError:
        client.socket.sendall(hello.read())


def test_every_limit_reached_at_once_takes_no_more_than_the_statement_says(shield, tmp_path):
    if reason := MemoryGroup.missing():
        pytest.skip(reason)
    keys = Keys(tmp_path / "keys")
    back = Glutton()
    with MemoryGroup() as group:
        front = shield(back.port, {
            "overload": {"reserved_for_known": "0%", "shed_at": "100%", "shrink_at": "100%"},
            "delays": {"banner": {"suspicious": "25s"}},
            "tls": {"certificates": [keys.make("mx")], "handshake_timeout": "5m"},
            "limits": {
                "connections": 300, "sessions": 120, "downstream_connections": 40, "tls_sessions": 60,
                "buckets": 1_024, "sources": 1_024}}, start=False)
        front.start(preexec_fn=group.enter)
        try:
            least = front.program.wait_for(r"At most .* when every limit is reached")
            number, unit = re.search(r"At most ([0-9.]+) (KB|MB)", least).groups()
            stated = float(number) * {"KB": 1_000, "MB": 1_000_000}[unit]
            before = group.used()
            everybody = []

            def come(source, count, kind=Dialogue, **options):
                found = [kind(front.port, f"{source}.{1 + n}", **options) for n in range(count)]
                everybody.extend(found)
                return found

            for client in come("127.0.71", 45, SecureDialogue):
                client.starttls(keys.trusting())
            for client in come("127.0.70", 15):
                begin_handshake(client, keys.trusting())
            writers = come("127.0.72", 40)
            for client in writers:
                client.greet()
                for command in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"):
                    client.command(command)
            deaf = come("127.0.73", 20, receive_buffer=2_304)
            for client in deaf:
                client.greet()
            # They wait for their banner, and flood the socket that nobody reads.
            held = come("127.2.74", 180)
            stuff(writers, (b"x" * 62 + b"\r\n") * 64)
            stuff(held, b"early words " * 1_000)
            for client in deaf:
                client.socket.setblocking(False)
            for _ in range(40):
                for client in deaf:
                    try:
                        client.socket.send(b"HELP\r\n" * 100)
                    except (BlockingIOError, ConnectionError):
                        continue
            assert front.statistic("links") >= 39
            taken = group.used() - before
            print(f"stated {stated / 1e6:.1f} MB, taken {taken / 1e6:.1f} MB")
            assert taken <= stated, least
            # It is a bound that means something, not a guess ten times too high.
            assert taken >= stated / 10, least
            for client in everybody:
                client.close()
        finally:
            front.stop()
            back.stop()
