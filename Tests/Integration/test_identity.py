# SPDX-License-Identifier: Apache-2.0
"""Who the client is: told to Postfix, Exim and OpenSMTPD, believed of a load balancer; and who relays for whom."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import running
from harness import (
    DIRECT, NO_DELAYS, SLUICE, Closed, Postfix, Program, free_port, in_parallel, merged, serve_each,
    wait_until,
)
from mail_servers import Exim, Jail, OpenSMTPD

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no shield to tell anybody")

# Two strangers and a balancer. Everybody is at once known, so that nobody waits.
CLIENTS = ["198.51.100.7", "2001:db8:7::7"]
ACCESS = "0.0.0.0/0 trusted\n::/0 trusted\n"


def sluice(*arguments, **options):
    return subprocess.run([SLUICE, *arguments], capture_output=True, timeout=40, text=True, **options)


def header_v1(client, port=4321):
    family, own = ("TCP6", "::1") if ":" in client else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {client} {own} {port} 25\r\n".encode()


def header_v2(client, port=4321, extras=b""):
    kind = socket.AF_INET6 if ":" in client else socket.AF_INET
    own = socket.inet_pton(kind, "::1" if ":" in client else "127.0.0.1")
    body = socket.inet_pton(kind, client) + own + struct.pack(">HH", port, 25) + extras
    family = 0x21 if ":" in client else 0x11
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, family]) + struct.pack(">H", len(body)) + body


HEALTH_V2 = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def behind_balancer(port, networks=("127.0.50.0/24",), **more):
    listener = {"address": f"127.0.0.1:{port}", "role": "inbound",
                "proxy_protocol": {"from": list(networks)}}
    return merged({"listeners": [listener], "delays": NO_DELAYS}, more)


@pytest.fixture
def balanced(shield):
    """balanced(downstream, config): a shield whose listener stands behind a balancer at 127.0.50.0/24."""

    def make(downstream, config=None, access=ACCESS, **more):
        front = shield(downstream, start=False, access=access, **more)
        front.settings = merged(front.settings, behind_balancer(front.port, **(config or {})))
        front.write_config()
        return front.start()

    return make


@contextlib.contextmanager
def client_of(front, client, balancer="127.0.50.1", header=header_v1):
    with front.dialogue(balancer) as dialogue:
        dialogue.send(header(client))
        yield dialogue


def deliver(front, client, subject, header=header_v1):
    with client_of(front, client, header=header) as dialogue:
        dialogue.greet()
        reply = dialogue.deliver(f"Subject: {subject}\r\n\r\nhello\r\n".encode())
        assert reply.code == 250, f"{reply}\n{front.log[-3000:]}"
        dialogue.command("QUIT", 221)


# MARK: Postfix


class TellingPostfix(Postfix):
    """Takes XCLIENT and XFORWARD on its plain port; its own relay rules are for clients it can see."""

    PROTOCOLS = "all"
    PLAIN_OPTIONS = (
        "\n  -o smtpd_authorized_xclient_hosts=127.0.0.1 -o smtpd_authorized_xforward_hosts=127.0.0.1"
        " -o syslog_name=plain")
    # The usual: the machine itself may relay.
    NETWORKS = "127.0.0.0/8"


class OpenPostfix(TellingPostfix):
    """Relays for everybody, whoever it is."""

    NETWORKS = "0.0.0.0/0, [::]/0"


class PickyPostfix(OpenPostfix):
    """Relays for everybody who has a name in DNS; puts off the rest."""

    def __init__(self):
        super().__init__()
        with (self.etc / "main.cf").open("a") as main:
            main.write("smtpd_client_restrictions = reject_unknown_client_hostname\n")


class Scripted:
    """A mail server of a few words on one port: what it says to RCPT is up to the test."""

    def __init__(self, rcpt="250 2.1.5 Ok", port=0, address="127.0.0.1"):
        self.rcpt = rcpt
        self.asked = 0
        self.dots = 0
        # On Linux this sets SO_REUSEADDR: a port may be had again.
        self.listener = socket.create_server((address, port), backlog=64)
        self.port = self.listener.getsockname()[1]
        serve_each(self.listener, self._talk)

    def _talk(self, peer):
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as stream:
            peer.sendall(b"220 scripted.example ESMTP\r\n")
            for line in stream:
                verb = line.strip()[:4].upper()
                if verb == b"EHLO":
                    peer.sendall(b"250-scripted.example\r\n250 ENHANCEDSTATUSCODES\r\n")
                elif verb == b"RCPT":
                    self.asked += 1
                    peer.sendall(self.rcpt.encode() + b"\r\n")
                elif verb == b"DATA":
                    peer.sendall(b"354 go on\r\n")
                    while stream.readline() not in (b".\r\n", b""):
                        pass
                    self.dots += 1
                    peer.sendall(b"250 2.0.0 ok\r\n")
                elif verb == b"QUIT":
                    peer.sendall(b"221 2.0.0 bye\r\n")
                    return
                else:
                    peer.sendall(b"250 2.0.0 ok\r\n")

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def scripted():
    """scripted("450 4.7.1 later", …): a mail server of a few words."""
    made = []

    def make(*arguments, **options):
        made.append(Scripted(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="module")
def telling_postfix():
    yield from running(TellingPostfix)


@pytest.fixture(scope="module")
def open_postfix():
    yield from running(OpenPostfix)


IDENTITIES = ["proxy_v1", "proxy_v2", "xclient"]


def port_for(server, identity):
    return server.proxy_port if identity.startswith("proxy") else server.port


@pytest.mark.parametrize("identity", IDENTITIES)
def test_postfix_sees_the_true_client_of_either_family(telling_postfix, balanced, identity):
    front = balanced(port_for(telling_postfix, identity), {"downstream": {"identity": identity}})
    for client in CLIENTS:
        deliver(front, client, f"{identity} of {client}")
        wait_until(
            lambda: re.search(rf"client=unknown\[{re.escape(client)}\]", telling_postfix.log), 10,
            f"the client in Postfix's log:\n{telling_postfix.log[-2000:]}")
        # What may relay is the client's address and not ours, which is in mynetworks.
        with client_of(front, client) as dialogue:
            dialogue.greet()
            dialogue.command("MAIL FROM:<a@client.example>", 250)
            reply = dialogue.command("RCPT TO:<b@elsewhere.example>", 554, "5.7.1")
            assert "Relay access denied" in reply.lines[-1]
            dialogue.command("QUIT", 221)
    delivered = wait_until(
        lambda: [m for m in telling_postfix.messages() if f"{identity} of".encode() in m][1:], 10, "delivery")
    assert all(b"127.0.0.1" not in message.split(b"Subject:")[0] for message in delivered)


def test_xclient_is_said_once_for_a_client_and_again_for_the_next(telling_postfix, balanced):
    front = balanced(telling_postfix.port, {"downstream": {"identity": "xclient"}})
    for client in ("198.51.100.21", "198.51.100.22"):
        with client_of(front, client) as dialogue:
            dialogue.greet()
            for _ in range(3):
                assert dialogue.deliver().code == 250
            # A second EHLO goes over the same downstream connection, whose client is still the one that was named.
            dialogue.hello()
            assert dialogue.deliver().code == 250
            dialogue.command("QUIT", 221)
        wait_until(
            lambda: telling_postfix.log.count(f"client=unknown[{client}]") == 4, 10, "four messages of the client")


def test_a_name_of_255_octets_gets_through_xclient(telling_postfix, balanced):
    front = balanced(telling_postfix.port, {"downstream": {"identity": "xclient"}})
    label = "a" * 62
    for name in (f"{label}.{label}.{label}.{label}.ex", "p+l=s.example"):
        with client_of(front, "198.51.100.23") as dialogue:
            dialogue.expect(220)
            dialogue.hello(name)
            assert dialogue.deliver().code == 250, front.log[-2000:]


def test_xforward_names_the_client_in_the_log_alone(telling_postfix, balanced):
    front = balanced(telling_postfix.port, {"downstream": {"identity": "xforward"}})
    for client in CLIENTS:
        with client_of(front, client) as dialogue:
            dialogue.greet()
            for _ in range(2):
                assert dialogue.deliver().code == 250
            dialogue.command("QUIT", 221)
        wait_until(
            lambda: telling_postfix.log.count(f"orig_client=unknown[{client}]") == 2, 10,
            f"the client in Postfix's log:\n{telling_postfix.log[-2000:]}")


def test_one_trace_header_stands_on_top_of_each_message(sink, balanced):
    box = sink()
    front = balanced(box, {"downstream": {"identity": "received"}})
    bodies = [b"Subject: 1\r\n\r\n.\r\nhello\r\n", b"\r\n", b"x" * 200_000 + b"\r\n"]
    for client in CLIENTS:
        with client_of(front, client) as dialogue:
            dialogue.greet()
            for body in bodies:
                assert dialogue.deliver(body).code == 250
            dialogue.command("QUIT", 221)
    stored = [body for _, body in box.messages()]
    assert len(stored) == 6
    for index, message in enumerate(stored):
        client = CLIENTS[index // 3]
        shown = f"IPv6:{client}" if ":" in client else client
        found = re.match(
            (rf"Received: from \S+ \(unknown \[{re.escape(shown)}\]\)\r\n"
             r"\tby mx\.sluice\.example \(Sluice\) with ESMTP id [0-9a-f]{16};\r\n"
             r"\t(\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000)\r\n").encode(), message)
        assert found, message[:400]
        stamp = time.mktime(time.strptime(found.group(1).decode(), "%a, %d %b %Y %H:%M:%S +0000"))
        assert abs(stamp - time.mktime(time.gmtime())) < 120
        assert message[found.end():] == bodies[index % 3]


def test_a_server_without_xclient_gets_no_mail_in_our_name(sink, balanced):
    box = sink(store=False)
    front = balanced(box, {"downstream": {"identity": "xclient"}})
    with client_of(front, CLIENTS[0]) as dialogue:
        dialogue.expect(220)
        # What it offers to clients nobody can know.
        dialogue.command("EHLO client.example", 421, "4.3.2")
    with client_of(front, CLIENTS[0]) as dialogue:
        dialogue.expect(220)
        dialogue.command("HELO client.example", 250)
        dialogue.command("MAIL FROM:<a@client.example>", 451, "4.4.1")
        dialogue.command("QUIT", 221)
    assert "XCLIENT" in front.program.wait_for("DOWNSTREAM FAILED for")
    assert box.counts()["messages"] == 0


def test_the_log_says_that_a_server_does_not_take_the_header(telling_postfix, shield):
    front = shield(telling_postfix.port, {"downstream": {"identity": "proxy_v2"}, "delays": NO_DELAYS})
    front.program.wait_for("did not accept the PROXY header")
    with front.dialogue() as client:
        client.expect(220)
        client.command("EHLO client.example", 421, "4.3.2")


def test_the_log_says_that_a_server_waits_for_a_header(telling_postfix, shield):
    front = shield(
        telling_postfix.proxy_port,
        {"downstream": {"identity": "none"}, "delays": NO_DELAYS})
    front.program.wait_for("if it expects a PROXY header", 15)


# MARK: Exim and OpenSMTPD


@pytest.fixture(params=[Exim, OpenSMTPD], ids=["Exim", "OpenSMTPD"])
def jailed(request, sink):
    """(a running server, the sink behind it)."""
    kind = request.param
    reason = Jail.missing(kind.PACKAGE, kind.PROGRAM)
    if reason:
        pytest.skip(reason)
    box = sink()
    server = kind(box.port)
    try:
        yield server.start(), box
    finally:
        server.stop()


def test_another_server_sees_the_true_client_of_either_family(jailed, balanced):
    server, box = jailed
    # OpenSMTPD has version 2 alone.
    versions = ["proxy_v1", "proxy_v2"] if isinstance(server, Exim) else ["proxy_v2"]
    for version in versions:
        front = balanced(server.proxy_port, {"downstream": {"identity": version}})
        for client in CLIENTS:
            deliver(front, client, f"{version} of {client}", header=header_v2)
            with client_of(front, client) as dialogue:
                dialogue.greet()
                dialogue.command("MAIL FROM:<a@client.example>", 250)
                reply = dialogue.command("RCPT TO:<b@elsewhere.example>")
                assert reply.code == 550, f"{reply}: this machine may relay there, the client must not"
                dialogue.command("QUIT", 221)
            wait_until(lambda: client in server.log, 10, f"the client in its log:\n{server.log[-2000:]}")

    def arrived():
        tops = [body.split(b"Subject:")[0] for _, body in box.messages()]
        return len(tops) == 2 * len(versions) and tops

    for top in wait_until(arrived, 20, f"delivery of all\n{server.log[-3000:]}"):
        assert any(client.encode() in top for client in CLIENTS), top


def test_another_server_that_trusts_this_machine_is_found_out(jailed):
    server, _ = jailed
    good = probe(server.proxy_port, "proxy_v2")
    assert good.returncode == 0 and "does not relay for a client at 2001:db8::1" in good.stderr, good.stderr
    trap = probe(server.port, "none")
    assert trap.returncode == 78 and "OPEN RELAY" in trap.stderr, trap.stderr
    # The header is not expected there.
    wrong = probe(server.port, "proxy_v2")
    assert wrong.returncode == 78 and "does not accept identity proxy_v2" in wrong.stderr, wrong.stderr


# MARK: Open relays


def probe(port, identity, *more, listeners=("0.0.0.0:25", "[::]:25")):
    where = [word for address in listeners for word in ("--listen", address)]
    return sluice(
        "check", "--downstream", f"127.0.0.1:{port}", "--identity", identity, "--hostname",
        "mx.sluice.example", "--probe-downstream", *where, *more)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_probe_passes_a_server_that_sees_who_asks(telling_postfix, identity):
    done = probe(port_for(telling_postfix, identity), identity)
    assert done.returncode == 0, done.stderr
    assert "does not relay for a client at 192.0.2.1" in done.stderr
    assert "does not relay for a client at 2001:db8::1" in done.stderr
    assert "Relay access denied" in done.stderr


class OldPostfix(TellingPostfix):
    """Has no IPv6, as many have."""

    PROTOCOLS = "ipv4"


@pytest.fixture(scope="module")
def old_postfix():
    yield from running(OldPostfix)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_nobody_is_asked_about_who_cannot_come(old_postfix, identity):
    done = probe(port_for(old_postfix, identity), identity, listeners=["0.0.0.0:25"])
    assert done.returncode == 0 and "for a client at 192.0.2.1" in done.stderr, done.stderr
    assert "2001:db8::1" not in done.stderr and "IPv6" not in done.stderr and "451" not in done.stderr


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_server_without_ipv6_is_told_from_one_that_takes_nothing(old_postfix, identity):
    port = port_for(old_postfix, identity)
    done = probe(port, identity)
    assert done.returncode == 69 and "does not relay for a client at 192.0.2.1" in done.stderr, done.stderr
    assert "mail from IPv6 clients is deferred with 451: enable IPv6 there" in done.stderr, done.stderr
    assert "error:" not in done.stderr and "All mail" not in done.stderr and "mail is deferred" not in done.stderr
    # With nothing but IPv6 to serve it is all there is.
    done = probe(port, identity, listeners=["[::]:25"])
    assert done.returncode in (69, 78) and "192.0.2.1" not in done.stderr and "mail" in done.stderr, done.stderr


def test_behind_a_balancer_either_family_may_come(old_postfix, telling_postfix, tmp_path):
    def ask(port):
        path = tmp_path / "sluice.yaml"
        path.write_text(
            "hostname: mx.sluice.example\n"
            f'downstream: {{address: "127.0.0.1:{port}", identity: proxy_v2}}\n'
            'listeners:\n  - {address: "127.0.0.1:2525", proxy_protocol: {from: [10.0.0.0/24]}}\n')
        return sluice("check", "--config", str(path), "--probe-downstream")

    done = ask(telling_postfix.proxy_port)
    assert done.returncode == 0 and "for a client at 2001:db8::1" in done.stderr, done.stderr
    done = ask(old_postfix.proxy_port)
    assert done.returncode == 0 and "if the load balancers have no such clients, nothing needs to be done" in done.stderr, done.stderr


@pytest.mark.parametrize("identity", ["none", "received", "xforward"])
def test_the_probe_finds_the_trap_of_loopback(telling_postfix, identity):
    done = probe(telling_postfix.port, identity)
    assert done.returncode == 78 and "OPEN RELAY" in done.stderr and "mynetworks" in done.stderr, done.stderr


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_probe_finds_a_server_that_relays_for_everybody(open_postfix, identity):
    done = probe(port_for(open_postfix, identity), identity)
    assert done.returncode == 78 and done.stderr.count("OPEN RELAY") == 2, done.stderr


def test_the_probe_says_what_does_not_fit_together(telling_postfix):
    # No header expected; it has XCLIENT and trusts this machine.
    done = probe(telling_postfix.port, "proxy_v2")
    assert done.returncode == 78 and "does not accept identity proxy_v2" in done.stderr, done.stderr
    assert "smtpd_upstream_proxy_protocol=haproxy" in done.stderr
    assert "it would be an OPEN RELAY" in done.stderr
    # A header expected, and none sent.
    started = time.monotonic()
    done = probe(telling_postfix.proxy_port, "none")
    assert done.returncode == 69 and "waiting for a PROXY header" in done.stderr, done.stderr
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_server_that_puts_strangers_off_for_their_name_is_not_called_right(identity):
    for server in running(PickyPostfix):
        done = probe(port_for(server, identity), identity)
        assert done.returncode == 0, done.stderr
        assert "deferred the probe from a client at 192.0.2.1 with '450 4.7.25" in done.stderr, done.stderr
        assert "does not relay" not in done.stderr


@pytest.mark.parametrize("rcpt, words", [
    ("450 4.7.1 Greylisted, come back in 300 seconds", "deferred the probe"),
    ("554 5.7.1 Service unavailable; client [192.0.2.1] blocked using x.example", "check its relay rules"),
    ("550 5.1.1 no such user", "check its relay rules"),
    ("550 relay not permitted", "does not relay for"),
    ("454 4.7.1 <probe@example.invalid>: Relay access denied", "does not relay for"),
])
def test_only_words_about_relaying_are_a_refusal_to_relay(scripted, rcpt, words):
    done = probe(scripted(rcpt).port, "none")
    assert done.returncode == 0 and words in done.stderr, done.stderr
    assert ("does not relay for" in done.stderr) == ("elay" in rcpt)


def test_the_probe_ends_in_time_whatever_is_there():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        done = probe(silent.getsockname()[1], "proxy_v2")
        assert done.returncode == 69 and "does not answer" in done.stderr, done.stderr
        assert time.monotonic() - started < 15
    done = probe(free_port(), "none")
    assert done.returncode == 69 and "Connection refused" in done.stderr, done.stderr

    # One that never ends its reply.
    with socket.create_server(("127.0.0.1", 0)) as wordy:

        def talk():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = wordy.accept()
                    with peer:
                        for _ in range(50_000):
                            peer.sendall(b"220-and on it goes\r\n")

        threading.Thread(target=talk, daemon=True).start()
        started = time.monotonic()
        done = probe(wordy.getsockname()[1], "none")
        assert done.returncode == 69 and time.monotonic() - started < 15, done.stderr
        wordy.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_a_circle_by_name_is_refused_as_one_by_address(shield, listen):
    if socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0][4][0] != "127.0.0.1":
        pytest.skip("localhost is not 127.0.0.1 in the first place here")
    front = shield(free_port(), start=False)
    front.settings["listeners"] = [{"address": f"{listen}:{front.port}"}]

    def check(downstream, *more):
        front.settings["downstream"]["address"] = downstream
        front.write_config()
        return sluice("check", "--config", str(front.config), *more)

    for host in ("127.0.0.1", "localhost"):
        for more in ([], ["--probe-downstream"]):
            done = check(f"{host}:{front.port}", *more)
            assert done.returncode == 78 and "mail would loop" in done.stderr, done.stderr
        code, log = start(front)
        assert code == 78 and "mail would loop" in log, log
    assert "localhost:%d (127.0.0.1) is Sluice's own listener" % front.port in log
    assert check(f"localhost:{front.port - 1}").returncode == 0
    # A name that is not known here and now: `serve` would not start. The files are good all the same.
    done = check(f"mail.invalid:{front.port}")
    assert done.returncode == 68 and "'mail.invalid' has no address" in done.stderr, done.stderr
    assert start(front)[0] == 68
    done = check(f"mail.invalid:{front.port}", "--files-only")
    assert done.returncode == 0 and "good" in done.stderr, done.stderr


def start(front, *words):
    """Starts a shield that may refuse to; its exit code, or None if it runs."""
    front.program = Program([SLUICE, "serve", "--config", str(front.config), *words])
    try:
        front.program.wait_for("sluice ready", 30)
    except AssertionError:
        program, front.program = front.program, None
        return program.process.returncode, program.log
    return None, front.log


def test_serve_refuses_to_enforce_in_front_of_an_open_relay_unless_told(telling_postfix, shield):
    front = shield(
        telling_postfix, {"downstream": {"identity": "none", "allow_open_relay": False}}, start=False)
    code, log = start(front)
    assert code == 78 and "OPEN RELAY" in log and "allow_open_relay" in log, log
    front.settings["downstream"]["allow_open_relay"] = True
    front.write_config()
    code, log = start(front)
    assert code is None and "the downstream is not tested for open relaying" in log, log
    with front.dialogue() as client:
        client.greet()
        assert client.deliver().code == 250


def test_serve_that_observes_starts_and_warns_and_will_not_begin_to_enforce(telling_postfix, shield):
    front = shield(
        telling_postfix,
        {"mode": "observe", "downstream": {"identity": "none", "allow_open_relay": False}}, start=False)
    code, _ = start(front)
    assert code is None
    front.program.wait_for("OPEN RELAY: ")
    front.settings["mode"] = "enforce"
    front.write_config()
    before = len(front.program.lines)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD failed", 15, after=before)
    front.settings["downstream"]["allow_open_relay"] = True
    front.write_config()
    before = len(front.program.lines)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD done.*enforce", 15, after=before)


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_trial_that_is_wired_wrongly_does_not_start_and_says_the_edit(telling_postfix, shield, mode):
    """As README's first line in front of a Postfix that nobody has told of Sluice."""
    front = shield(
        telling_postfix, {"mode": mode, "downstream": {"identity": "proxy_v2", "allow_open_relay": False}},
        start=False)
    code, log = start(front)
    assert code == 78, log
    for words in ("does not accept identity proxy_v2", "smtpd_upstream_proxy_protocol=haproxy", "--identity none",
                  "OPEN RELAY, because it trusts this machine's address", "--no-preflight"):
        assert log.count(words) == 1, (words, log)
    assert "sluice listens" not in log
    # Told to start all the same, no mail is lost by it: it is deferred, and the log goes on saying why.
    code, log = start(front, "--no-preflight")
    assert code is None and "does not accept identity proxy_v2" in log, log
    with front.dialogue() as client:
        client.expect(220)
        # What that server offers is not known: 421, and not an offer that might be wrong.
        client.command("EHLO client.example", 421)
    front.program.wait_for("NOQUEUE: reject: EHLO from .*: 421 4.3.2 ")
    front.program.wait_for("DISCONNECT from .* verdict=deferred ")
    with front.dialogue() as client:
        client.expect(220)
        client.command("HELO client.example", 250)
        client.command("MAIL FROM:<a@client.example>", 451)
    front.program.wait_for("NOQUEUE: reject: MAIL from .*: 451 4.4.1 ")


def deaf(port):
    """A server that greets at once and takes a PROXY header for bad commands; its listener."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve(peer):
        with peer, contextlib.suppress(OSError):
            peer.sendall(b"220 plain.example ESMTP\r\n")
            while peer.recv(4096):
                peer.sendall(b"500 5.5.2 Error: command not recognized\r\n")

    serve_each(listener, serve)
    return listener


def test_a_server_wired_wrongly_that_comes_up_later_is_told_loudly(shield):
    port = free_port()
    front = shield(
        port, {"mode": "observe", "downstream": {"identity": "proxy_v2", "allow_open_relay": False}}, start=False)
    # Nobody is there yet: it starts, asks again, and then says it.
    code, log = start(front)
    assert code is None and "is probed again until it answers" in log, log
    listener = deaf(port)
    try:
        front.program.wait_for(r"error: .*does not accept identity proxy_v2.*All mail would be deferred with 451", 30)
        front.program.wait_for("smtpd_upstream_proxy_protocol=haproxy")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_serve_starts_where_the_downstream_is_down(shield):
    front = shield(
        free_port(), {"downstream": {"identity": "proxy_v2", "allow_open_relay": False}}, start=False)
    started = time.monotonic()
    code, log = start(front)
    assert code is None and "could not be asked" in log, log
    assert time.monotonic() - started < 5


def ended(front, seconds=40):
    """The exit code of a shield that ends by itself, and its log."""
    program, front.program = front.program, None
    program.wait(seconds)
    program.join()
    return program.process.returncode, program.log


UNKNOWN = {"downstream": {"identity": "none", "allow_open_relay": False}, "delays": NO_DELAYS}


def test_an_open_relay_that_comes_up_later_ends_what_enforces(scripted, shield):
    port = free_port()
    front = shield(port, UNKNOWN, start=False)
    code, log = start(front)
    assert code is None and "Connection refused" in log and "is probed again until it answers" in log, log
    server = scripted(port=port)
    front.program.wait_for("DOWNSTREAM UP")
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RCPT TO:<b@example.com>", 250)
        client.command("DATA", 354)
        front.program.wait_for("draining: mode enforce is refused in front of an open relay", 15)
        # What is under way comes to its end.
        client.send(b"Subject: last\r\n\r\nhello\r\n.\r\n")
        client.expect(250)
        client.command("QUIT")
    code, log = ended(front)
    assert code == 78 and "OPEN RELAY: " in log, log
    assert server.dots == 1
    # And from now on it does not start.
    code, log = start(front)
    assert code == 78 and "OPEN RELAY: " in log, log


def test_the_reason_is_on_standard_error_as_well_as_in_the_log(scripted, shield, tmp_path):
    port = free_port()
    front = shield(port, UNKNOWN, start=False)
    front.settings["log"]["destination"] = str(tmp_path / "sluice.log")
    front.write_config()
    assert start(front)[0] is None
    scripted(port=port)
    code, errors = ended(front)
    log = (tmp_path / "sluice.log").read_text()
    assert code == 78
    for text in (errors, log):
        assert "OPEN RELAY: " in text and "mode enforce is refused" in text, text
    assert "stopped" in log


def test_a_good_server_that_comes_up_later_is_found_to_be_good(scripted, shield):
    port = free_port()
    front = shield(port, UNKNOWN, start=False)
    assert start(front)[0] is None
    server = scripted("550 relay not permitted", port=port)
    front.program.wait_for("does not relay for this machine", 15)
    time.sleep(0.5)
    assert front.program.running and server.asked == 1 and "OPEN RELAY: " not in front.log


def test_a_server_that_only_puts_off_at_first_is_asked_again(scripted, shield):
    server = scripted("451 4.3.0 Temporary lookup failure")
    front = shield(server, UNKNOWN, start=False)
    code, log = start(front)
    assert code is None and "deferred the probe" in log, log
    server.rcpt = "250 2.1.5 Ok"
    code, log = ended(front)
    assert code == 78 and "OPEN RELAY: " in log, log


def test_what_observes_goes_on_and_its_reload_to_enforce_is_watched(scripted, shield):
    port = free_port()
    front = shield(port, {**UNKNOWN, "mode": "observe"}, start=False)
    assert start(front)[0] is None
    front.program.wait_for("could not be asked")
    server = scripted(port=port)
    front.program.wait_for("OPEN RELAY: ", 15)
    server.stop()
    time.sleep(0.5)
    assert front.program.running
    # It cannot be asked now: the reload goes through.
    front.settings["mode"] = "enforce"
    front.write_config()
    before = len(front.program.lines)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD done.*enforce", 15, after=before)
    assert front.program.running
    scripted(port=port)
    code, log = ended(front)
    assert code == 78 and "mode enforce is refused" in log, log


def test_who_says_yes_to_an_open_relay_is_not_asked_later_either(scripted, shield):
    port = free_port()
    front = shield(port, {**UNKNOWN, "downstream": {"identity": "none", "allow_open_relay": True}}, start=False)
    code, log = start(front)
    assert code is None and "asked again" not in log
    server = scripted(port=port)
    time.sleep(7)
    assert front.program.running and server.asked == 0
    # No longer told to look away.
    front.settings["downstream"]["allow_open_relay"] = False
    front.write_config()
    before = len(front.program.lines)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD failed", 15, after=before)


def test_serve_starts_with_what_ships_in_front_of_a_good_server(sink, shield):
    box = sink()
    front = shield(box, {"downstream": {"identity": "proxy_v2", "allow_open_relay": False}}, start=False)
    code, log = start(front)
    assert code is None and "does not relay for a client at 192.0.2.1" in log, log
    with front.dialogue() as client:
        client.greet()
        assert client.deliver().code == 250


# MARK: From the upstream


def said(front, data, balancer="127.0.50.1", timeout=6):
    """What comes back when a balancer sends this, and after how long; None when it is closed without a word."""
    with front.dialogue(balancer) as dialogue:
        if data:
            with contextlib.suppress(OSError):
                dialogue.send(data)
        try:
            reply = dialogue.reply(timeout)
            return reply.code, reply.at
        except Closed:
            return None, dialogue.age


def test_a_header_may_come_in_any_pieces_and_with_what_follows(sink, balanced):
    box = sink(store=False)
    front = balanced(box, access="198.51.100.0/24 trusted\n2001:db8::/32 trusted\n")
    extras = bytes([5, 0, 4]) + b"abcd" + bytes([4, 0, 200]) + bytes(200)
    for header in (header_v1("198.51.100.7"), header_v2("2001:db8::7", extras=extras), header_v1("::ffff:198.51.100.9")):
        for cut in {1, 2, 5, 11, 12, 13, 15, 16, 17, 28, 30, len(header) - 1, len(header)}:
            with front.dialogue("127.0.50.1") as dialogue:
                dialogue.pieces([header[:cut], header[cut:]] if cut < len(header) else [header], pause=0.01)
                assert dialogue.expect(220).at < 1
                dialogue.hello("h.client.example")
                dialogue.command("QUIT", 221)
        with front.dialogue("127.0.50.1") as dialogue:
            dialogue.pieces([bytes([octet]) for octet in header], pause=0.0005)
            dialogue.greet()
            assert dialogue.deliver().code == 250
        # SMTP in the header's own segment: the client's, and in its turn for who is trusted.
        with front.dialogue("127.0.50.1") as dialogue:
            dialogue.send(header + b"EHLO h.client.example\r\n")
            dialogue.expect(220)
            dialogue.expect(250)
    assert re.search(r"CONNECT from \[2001:db8::7\]:4321 via \[127\.0\.50\.1\]", front.log)
    assert "CONNECT from [198.51.100.9]:4321" in front.log


def test_no_header_or_a_wrong_one_or_one_from_a_stranger_is_refused_in_time(sink, balanced):
    front = balanced(sink(store=False), {"workers": 2})
    code, at = said(front, b"")
    assert code == 421 and 2.8 < at < 3.6
    code, at = said(front, header_v1("198.51.100.7")[:-1])
    assert code == 421 and 2.8 < at < 3.6
    for wrong in (b"EHLO h.client.example\r\n", b"PROXY TCP4 198.51.100.7\r\n............", b"\x16\x03\x01\x02\x00\x01",
                  header_v2("198.51.100.7")[:12] + b"\x31\x11\0\x0c" + bytes(12),
                  header_v2("198.51.100.7")[:14] + b"\xff\xff" + bytes(500)):
        code, at = said(front, wrong)
        assert code == 421 and at < 1, wrong
    # Not listed: whatever it says, and also where it is this machine.
    for header in (b"", header_v1("198.51.100.7"), HEALTH_V2):
        code, at = said(front, header, balancer="127.0.51.1")
        assert code in (421, None) and at < 1
    for words in ("no PROXY header within 3 s", "not a valid PROXY header", "not a listed load balancer"):
        front.program.wait_for(r"PROXY refused from \[127\.0\.5\d\.1\]:\d+: " + words)
    assert "CONNECT" not in front.log


def test_a_health_check_of_the_balancer_is_its_own(sink, balanced):
    front = balanced(sink(store=False), access="127.0.50.0/24 trusted\n")
    for header in (HEALTH_V2, b"PROXY UNKNOWN\r\n"):
        with front.dialogue("127.0.50.3") as dialogue:
            dialogue.send(header)
            dialogue.expect(220)
            dialogue.command("QUIT", 221)
    front.program.wait_for(r"CONNECT from \[127\.0\.50\.3\]:\d+ id=")
    # One that only connects leaves no line.
    before = len(front.program.lines)
    front.dialogue("127.0.50.3").close()
    time.sleep(0.3)
    assert len(front.program.lines) == before


def test_tables_and_rates_are_the_true_clients_on_every_worker(sink, balanced):
    rates = "203.0.113.0/24 conn=3/min burst=3 over=refuse per=/32\n"
    front = balanced(
        sink(store=False), {"workers": 4},
        access="198.51.100.66 reject\n127.0.0.0/8 bad\n198.51.100.0/24 trusted\n", rates=rates)
    assert said(front, header_v2("198.51.100.66"))[0] == 554
    # Bad is only the balancer.
    assert said(front, header_v2("198.51.100.7"))[0] == 220
    # However its connections fall on workers, a client has one bucket.
    for number in range(6):
        codes = [said(front, header_v2(f"203.0.113.{number}"))[0] for _ in range(8)]
        assert codes == [220] * 3 + [554] * 5, codes


def test_mail_through_a_balancer_on_several_workers_all_arrives(sink, balanced):
    box = sink(store=False)
    front = balanced(box, {"workers": 4, "downstream": {"identity": "proxy_v2"}})
    before = descriptors(front)

    def send(lane):
        for number in range(25):
            client = f"198.51.{lane}.{number + 1}" if lane % 2 else f"2001:db8:{lane}:{number}::1"
            with client_of(front, client, header=header_v2 if number % 2 else header_v1) as dialogue:
                dialogue.greet()
                assert dialogue.deliver().code == 250
                dialogue.command("QUIT", 221)

    in_parallel(*[lambda lane=lane: send(lane) for lane in range(8)])
    assert box.counts()["messages"] == 200
    wait_until(lambda: descriptors(front) <= before, 8, "descriptors given back")


def descriptors(front):
    return len(os.listdir(f"/proc/{front.pid}/fd"))


def test_waiting_connections_are_bounded_and_leave_nothing_behind(sink, balanced):
    front = balanced(
        sink(store=False), {"workers": 2, "limits": {"proxy_headers": 64}}, access="198.51.100.0/24 trusted\n")
    before = descriptors(front)
    waiting = [front.dialogue("127.0.50.1") for _ in range(80)]
    refused = [one for one in waiting if not one.still_open(0.02) or one.waiting]
    assert len(refused) >= 80 - 64 // 4 - 8, len(refused)
    # Another balancer is not shut out by it.
    assert said(front, header_v1("198.51.100.7"), balancer="127.0.50.2")[0] == 220
    for one in waiting:
        one.close()
    wait_until(lambda: descriptors(front) <= before, 8, "descriptors given back")
    assert said(front, header_v1("198.51.100.7"))[0] == 220


def test_a_wrong_proxy_protocol_in_the_configuration_is_told_with_its_place(tmp_path):
    for text, words in (
        ("{from: []}", "without load balancers"), ("{from: [0.0.0.0/0]}", "lets any client claim"),
        ("{from: [10.0.0.1/24]}", "write 10.0.0.0/24"), ("{form: [10.0.0.1]}", "unknown key 'form'"),
        ("yes", "does not say who"), ("{from: [balancer.example]}", "not an address or network"),
    ):
        path = tmp_path / "sluice.yaml"
        path.write_text(f'listeners:\n  - {{address: "127.0.0.1:2525", proxy_protocol: {text}}}\n')
        done = sluice("check", "--config", str(path))
        assert done.returncode == 78 and words in done.stderr and "sluice.yaml:2:" in done.stderr, done.stderr
    path.write_text(
        'listeners:\n  - {address: "127.0.0.1:2525", proxy_protocol: {from: [10.0.0.0/24, "2001:db8::1"]}}\n')
    done = sluice("check", "--config", str(path), "--dump")
    assert done.returncode == 0, done.stderr
    assert 'proxy_protocol: {from: ["10.0.0.0/24", "2001:db8::1/128"]}' in done.stdout
