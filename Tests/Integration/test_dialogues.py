# SPDX-License-Identifier: Apache-2.0
"""The dialogues of Tests/Dialogues, spoken with the daemon on real sockets.

Their grammar is told in the README there; Tests/DialogueTests speaks the same files in virtual time. All
are spoken at once, each with a daemon and a scripted downstream of its own, so that the file takes little
longer than its longest dialogue; the tests only report how theirs went.
"""

import contextlib
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import harness
from harness import DIRECT, ROOT, Shield, free_port, serve_each, wait_until

pytestmark = pytest.mark.skipif(DIRECT, reason="the dialogues are with a shield")

FOLDER = ROOT / "Tests/Dialogues"
FILES = sorted(path.name for path in FOLDER.glob("*.txt"))

# How far from the time in the file a line may be heard.
TOLERANCE = 0.25
# Longer than any line of a dialogue keeps its client waiting.
PATIENCE = 60.0
# How long the downstream may take to hear what a `D` step asks for.
SETTLING = 2.0

OFFERS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")


def unescape(text):
    r"""\r \n \0 \t \\ and \xNN."""
    plain = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}

    def octet(found):
        return bytes([int(found[2], 16)]) if found[2] else plain.get(found[1], found[1])

    return re.sub(rb"\\(x([0-9A-Fa-f]{2})|.)", octet, text.encode(), flags=re.DOTALL)


def matches(text, expected):
    return text.startswith(expected[:-1]) if expected.endswith("*") else text == expected


class Script:
    """A dialogue file, read."""

    # Each kind of step is a method of Performance, the groups its arguments.
    STEPS = {
        "say": r"C: (.*)",
        "send": r"C> (.*)",
        "hear": r"S(?:@([\d.]+))?: (.*)",
        "wait": r"wait ([\d.]+)",
        "end": r"C end",
        "reset": r"C reset",
        "closed": r"S end",
        "told": r"D: (.*)",
        "told_nothing": r"D nothing",
        "stored": r"D stored (\d+)",
    }

    def __init__(self, path):
        self.source = "127.0.0.1"
        self.access = ""
        self.rates = ""
        self.config = []
        self.offers = OFFERS
        self.rules = []
        self.unreal = None
        # (line number, kind, values)
        self.steps = []
        read = self.header
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if line == "---":
                read = self.step
            elif line and not line.startswith("#"):
                try:
                    read(number, line)
                except ValueError as fault:
                    raise ValueError(f"{path.name}:{number}: {fault}") from None
        if self.unreal is None and not self.source.startswith("127."):
            raise ValueError(f"{path.name}: from {self.source}: only 127.x can be had; say `real no`")

    def header(self, _, line):
        key, _, value = line.partition(" ")
        if key == "from":
            self.source = value
        elif key == "access":
            self.access += value + "\n"
        elif key == "rates":
            self.rates += value + "\n"
        elif key == "config":
            self.config.append(value)
        elif key == "offers":
            self.offers = value.split(", ")
        elif key == "downstream":
            prefix, answer = value.split(" => ")
            self.rules.append((prefix, answer))
        elif key == "real":
            if not value.startswith("no "):
                raise ValueError("real no REASON")
            self.unreal = value[3:]
        elif key != "split":
            raise ValueError(f"unknown header '{key}'")

    def step(self, number, line):
        for kind, pattern in self.STEPS.items():
            found = re.fullmatch(pattern, line)
            if found:
                self.steps.append((number, kind, found.groups()))
                return
        raise ValueError(f"no step: '{line}'")

    @property
    def refuses(self):
        return any(prefix == "refuse" for prefix, _ in self.rules)

    @property
    def disturbs_the_probe(self):
        return any(re.match("(?i)connect|ehlo|quit", prefix) for prefix, _ in self.rules)

    def yaml(self, port, downstream):
        """The configuration of virtualShield() in DialogueTests.swift, but on real ports."""
        lines = [
            "hostname: mx.example.test",
            f'downstream: {{address: "127.0.0.1:{downstream}", identity: none, allow_open_relay: yes}}',
            "tables: {access: access.cidr, rates: rates.cidr}",
            "workers: 1",
            "log: {level: info, destination: stderr}",
        ]
        if not any(line.startswith("mode:") for line in self.config):
            lines.append("mode: enforce")
        if not any(line.startswith("listeners:") for line in self.config):
            lines.append('listeners: [{address: "127.0.0.1:25", role: inbound}]')
        lines += self.config
        for index, line in enumerate(lines):
            if line.startswith("listeners:"):
                lines[index] = re.sub(r'"127\.0\.0\.1:\d+"', f'"127.0.0.1:{port}"', line)
        return "\n".join(lines) + "\n"


class ScriptedShield(Shield):
    """`sluice serve` with the configuration of a dialogue."""

    def __init__(self, folder, downstream, script):
        self.script = script
        super().__init__(folder, downstream, access=script.access, rates=script.rates)

    def write_config(self):
        self.config.write_text(self.script.yaml(self.port, self.downstream))


class ScriptedDownstream:
    """As `ServerScript.agreeable` in Sources/TestServer: accepts everything, unless a rule says otherwise, and
    remembers what it was told and what it accepted."""

    def __init__(self, script):
        self.offers = script.offers
        self.rules = script.rules
        # Every line it was told outside of messages, of all connections, in order.
        self.lines = []
        # Every message it answered with 2xx.
        self.accepted = []
        # Octets that no client may send: bare CR or LF, NUL.
        self.breaches = 0
        # How many connections are over.
        self.over = 0
        self.lock = threading.Lock()
        self.peers = set()
        # Bound, so that the port stays ours; where nobody listens, a connection is refused.
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        if not script.refuses:
            self.listener.listen(64)
            serve_each(self.listener, self._serve)

    def _serve(self, peer):
        self.peers.add(peer)
        buffer = b""
        in_body = False
        with peer, contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            gone = self._obey(peer, self._answer("connect", "220 inner.test ESMTP"))
            while True:
                try:
                    piece = peer.recv(65_536)
                except OSError:
                    break
                if not piece:
                    break
                if gone:
                    continue
                buffer += piece
                while not gone:
                    if in_body:
                        # The beginning counts as a line's beginning.
                        end = 0 if buffer.startswith(b".\r\n") else buffer.find(b"\r\n.\r\n") + 2
                        if end == 1:
                            break
                        message, buffer = buffer[: end + 3], buffer[end + 3:]
                        in_body = False
                        answer = self._answer("dot", "250 2.0.0 Taken")
                        with self.lock:
                            self._count_breaches(message)
                            if answer.startswith("2"):
                                self.accepted.append(message)
                        gone = self._obey(peer, answer)
                    elif b"\n" in buffer:
                        line, buffer = buffer.split(b"\n", 1)
                        in_body, gone = self._command(peer, line)
                    else:
                        break
        with self.lock:
            if in_body:
                self._count_breaches(buffer)
            self.over += 1
            self.peers.discard(peer)

    def _command(self, peer, line):
        """Whether a message follows, and whether no more is said here."""
        with self.lock:
            if not line.endswith(b"\r"):
                self.breaches += 1
            line = line.removesuffix(b"\r")
            if b"\r" in line or b"\0" in line:
                self.breaches += 1
            text = line.decode("utf-8", "replace")
            self.lines.append(text)
        upper = text.upper()
        if upper.startswith("EHLO"):
            words = ["inner.test", *self.offers]
            default = "\\n".join([f"250-{word}" for word in words[:-1]] + [f"250 {words[-1]}"])
        elif upper == "DATA":
            default = "354 Go on"
        elif upper == "QUIT":
            default = "221 2.0.0 Bye"
        else:
            default = "250 2.0.0 Fine"
        answer = self._answer(text, default)
        gone = self._obey(peer, answer)
        return upper == "DATA" and answer.startswith("354"), gone or upper == "QUIT"

    def _answer(self, moment, default):
        for prefix, answer in self.rules:
            if moment.upper().startswith(prefix.upper()):
                return answer
        return default

    @staticmethod
    def _obey(peer, answer):
        """Whether that was the last."""
        if answer == "close":
            peer.shutdown(socket.SHUT_WR)
            return True
        if answer.startswith("raw "):
            peer.sendall(unescape(answer[4:]))
        elif answer != "silence":
            peer.sendall(answer.replace("\\n", "\r\n").encode() + b"\r\n")
        return False

    def _count_breaches(self, message):
        self.breaches += len(re.findall(rb"\0|\r(?!\n)|(?<!\r)\n", message))

    def stop(self):
        # Only a shutdown wakes a thread that sits in accept() or recv().
        for one in (self.listener, *list(self.peers)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Client(harness.Dialogue):
    """A client that hears line by line, and goes on listening while it waits for something else."""

    def __init__(self, port, source):
        super().__init__(port, source)
        # (text, seconds since it connected)
        self.heard = []
        self.ended = False

    def send(self, data):
        # To a shield that has closed it may speak; the next `S` says what came of it.
        with contextlib.suppress(ConnectionError):
            super().send(data)

    def listen(self, seconds):
        """One piece, or until the time is over."""
        if self.ended:
            time.sleep(max(seconds, 0))
            return
        piece = self.receive(seconds)
        if piece is None:
            return
        if piece == b"":
            self.ended = True
            return
        *lines, self.waiting = (self.waiting + piece).split(b"\n")
        at = self.transcript[-1][0]
        for line in lines:
            self.heard.append((line.removesuffix(b"\r").decode("utf-8", "replace"), at))

    def listen_until(self, condition, seconds):
        """Whether it came true in that time."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.listen(min(left, 0.05))
        return True

    def vanish(self):
        self.ended = True
        self.reset()


class Performance:
    """One dialogue with its daemon and its downstream."""

    def __init__(self, file, folder, ports):
        self.file = file
        self.script = Script(FOLDER / file)
        self.downstream = self.shield = self.client = None
        if self.script.unreal:
            return
        self.downstream = ScriptedDownstream(self.script)
        self.shield = ScriptedShield(folder, self.downstream.port, self.script)
        while self.shield.port in ports:
            self.shield.port = free_port()
            self.shield.write_config()
        ports.add(self.shield.port)

    def start(self):
        """The daemon is ready and knows what its downstream offers, as far as it can."""
        self.shield.start()
        if self.script.refuses or self.script.disturbs_the_probe:
            time.sleep(1)
        else:
            wait_until(lambda: self.downstream.over, 10, "the end of the first probe")

    def speak(self):
        down = self.downstream
        self.passed = len(down.lines)
        self.client = Client(self.shield.port, self.script.source)
        for number, kind, values in self.script.steps:
            try:
                getattr(self, kind)(*values)
            except AssertionError as failure:
                raise AssertionError(
                    f"{self.file}:{number}: {failure}\n--- the client:\n{self.client}"
                    f"\n--- the downstream was told:\n" + "\n".join(down.lines) +
                    f"\n--- the shield:\n{self.shield.log[-4000:]}"
                ) from None
        self.client.close()

    def stop(self):
        """Ends all; the daemon is held to a clean end, and to what it sent downstream."""
        try:
            if self.client:
                self.client.close()
            if self.shield:
                self.shield.stop()
        finally:
            if self.downstream:
                self.downstream.stop()
        if self.downstream:
            assert self.downstream.breaches == 0, "the downstream got bare line ends or NULs"

    # The steps.

    def say(self, text):
        self.client.send(text + "\r\n")

    def send(self, octets):
        self.client.send(unescape(octets))

    def wait(self, seconds):
        self.client.listen_until(lambda: False, float(seconds))

    def end(self):
        with contextlib.suppress(OSError):
            self.client.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.client.vanish()

    def hear(self, at, expected):
        client = self.client
        client.listen_until(lambda: client.heard or client.ended, PATIENCE)
        assert client.heard, f"expected '{expected}', heard nothing"
        text, seconds = client.heard.pop(0)
        assert matches(text, expected), f"expected '{expected}', heard '{text}'"
        if at is not None:
            assert abs(seconds - float(at)) <= TOLERANCE, f"expected at {at} s, heard at {seconds:.3f} s"

    def closed(self):
        client = self.client
        assert client.listen_until(lambda: client.ended, PATIENCE), "it is still open"
        rest = [text for text, _ in client.heard] + [client.waiting] * bool(client.waiting)
        assert not rest, f"it said more: {rest}"

    def told(self, expected):
        lines = self.downstream.lines

        def place():
            return next((n for n in range(self.passed, len(lines)) if matches(lines[n], expected)), None)

        self.client.listen_until(lambda: place() is not None, SETTLING)
        found = place()
        assert found is not None, f"downstream was not told '{expected}', but {lines[self.passed:]}"
        self.passed = found + 1

    def told_nothing(self):
        self.client.listen_until(lambda: False, 0.2)
        mail = [line for line in self.downstream.lines if line.upper().startswith("MAIL")]
        assert not mail, f"mail reached the downstream: {mail}"

    def stored(self, count):
        accepted = self.downstream.accepted
        self.client.listen_until(lambda: len(accepted) >= int(count), SETTLING)
        # And no more than that.
        self.client.listen_until(lambda: False, 0.2)
        assert len(accepted) == int(count), f"{len(accepted)} messages stored, not {count}"


@pytest.fixture(scope="module")
def spoken(request, tmp_path_factory):
    """How each of the dialogues asked for went: its performance, or what went wrong."""
    chosen = {
        item.callspec.params["file"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    folder = tmp_path_factory.mktemp("dialogues")
    results = {}
    ports = set()
    for file in sorted(chosen):
        try:
            results[file] = Performance(file, folder / file.removesuffix(".txt"), ports)
        except (ValueError, OSError) as fault:
            results[file] = fault

    def attempt(file, deed):
        try:
            getattr(performances[file], deed)()
        except Exception as failure:  # each test raises its own
            # What went wrong first is what matters.
            if not isinstance(results[file], Exception):
                results[file] = failure

    performances = {
        file: one for file, one in results.items() if isinstance(one, Performance) and one.shield
    }
    if performances:
        with ThreadPoolExecutor(len(performances)) as pool:
            try:
                # Nobody speaks before all are ready: their start would upset the others' times.
                for deed in ("start", "speak"):
                    ready = [file for file in performances if isinstance(results[file], Performance)]
                    list(pool.map(lambda file: attempt(file, deed), ready))
            finally:
                list(pool.map(lambda file: attempt(file, "stop"), performances))
    return results


def test_there_are_dialogues():
    assert len(FILES) >= 15


@pytest.mark.parametrize("file", FILES, ids=[name.removesuffix(".txt") for name in FILES])
def test_a_dialogue_is_spoken_as_written(spoken, file):
    result = spoken[file]
    if isinstance(result, Exception):
        raise result
    if result.script.unreal:
        pytest.skip(result.script.unreal)
