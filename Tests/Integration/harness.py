# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on: the shield, receivers behind it and clients before it.

Every process is started here and ended here; everything listens on loopback. A client's class is chosen
by its source address:

    127.0.x.y  trusted (T0)      127.2.x.y  suspicious (T2)
    127.1.x.y  unlisted (T1)     127.3.x.y  bad (T3)

Sources in one /24 share a reputation and a second chance, and so do equal HELO domains: each test takes a
/24 of its own, and `Dialogue` makes up a HELO name that goes with its /24.
"""

import contextlib
import copy
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLUICE = os.environ.get("SLUICE", str(ROOT / ".build/release/sluice"))
# To try the harness itself: clients talk to the receiver at once, with no shield between.
DIRECT = os.environ.get("SLUICE_DIRECT") == "1"

ACCESS = """\
# The classes of the tests, by source.
127.0.0.0/16  trusted
127.2.0.0/16  suspicious
127.3.0.0/16  bad
127.66.0.0/16 reject
"""

# No artificial waiting for anybody but T3, and little for that: for tests about something else.
NO_DELAYS = {
    stage: {"clean": "0s", "suspicious": "0s", "bad": "1s"}
    for stage in ("banner", "helo", "mail", "rcpt", "rcpt_rejected", "data", "auth_failure")
}

# Short waits for a downstream that does not answer.
SHORT_TIMEOUTS = {
    "connect": "2s",
    "greeting": "2s",
    "reply": "2s",
    "data": "2s",
    "block": "2s",
    "end_of_data": "2s",
}


def raise_descriptor_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1_048_576
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_port():
    """A port nobody listens on now; taken below the range from which the kernel picks for clients."""
    for _ in range(200):
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def wait_until(condition, seconds=10.0, what="condition"):
    """Polls until the condition holds; its value is returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.02)


def in_parallel(*jobs):
    """Runs the jobs in threads at once; raises the first failure, returns their values in order."""
    results = [None] * len(jobs)
    failures = []

    def run(index, job):
        try:
            results[index] = job()
        except BaseException as failure:  # noqa: BLE001 - also a failed assertion belongs to the caller
            failures.append(failure)

    threads = [
        threading.Thread(target=run, args=(index, job), daemon=True)
        for index, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def yaml(value, indent=0):
    """Block YAML for the plain values that a configuration of the tests is made of."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines.append(f"{pad}{key}:\n{yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {yaml(item)}\n")
        return "".join(lines)
    if isinstance(value, list):
        if not value:
            return "[]"
        lines = []
        for item in value:
            block = yaml(item, indent + 1)
            if isinstance(item, dict):
                block = block.lstrip().rstrip("\n")
            lines.append(f"{pad}- {block}\n")
        return "".join(lines)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def merged(base, change):
    """The base with the change laid over it, mapping by mapping. Shares nothing with either, so that a test that
    changes its settings later changes nobody else's."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def serve_each(listener, serve):
    """Runs `serve(peer)` for each connection in a thread of its own, until the listener is closed."""

    def accept():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


class Program:
    """A child process whose standard error is collected line by line, with times."""

    def __init__(self, command, **options):
        self.command = command
        self.lines = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.output = b""
        self._readers = [
            threading.Thread(target=self._read_errors, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_errors(self):
        for line in self.process.stderr:
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.lines.append((time.monotonic() - self.started, text))

    def _read_output(self):
        while True:
            piece = self.process.stdout.read1(65_536)
            if not piece:
                return
            self.output += piece

    @property
    def log(self):
        return "\n".join(line for _, line in list(self.lines))

    def wait_for(self, text, seconds=15.0, after=0):
        """Waits for a line that matches; `after` is how many lines to pass over."""
        pattern = re.compile(text, re.IGNORECASE)
        deadline = time.monotonic() + seconds
        while True:
            for _, line in list(self.lines)[after:]:
                if pattern.search(line):
                    return line
            if self.process.poll() is not None:
                self.join()
                for _, line in list(self.lines)[after:]:
                    if pattern.search(line):
                        return line
                raise AssertionError(
                    f"{self.command[0]} ended with {self.process.returncode} before it said "
                    f"{text!r}:\n{self.log}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} not said within {seconds} s:\n{self.log}")
            time.sleep(0.01)

    def signal(self, number):
        self.process.send_signal(number)

    def join(self):
        for reader in self._readers:
            reader.join(5)

    def wait(self, seconds):
        code = self.process.wait(seconds)
        self.join()
        return code

    @property
    def running(self):
        return self.process.poll() is None

    def kill(self):
        if self.running:
            self.process.kill()
        self.process.wait(10)
        self.join()


class Shield:
    """`sluice serve` with a configuration of its own in a folder of its own."""

    def __init__(self, folder, downstream, config=None, access=ACCESS, rates="", role="inbound"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.downstream = downstream
        self.port = downstream if DIRECT else free_port()
        self.access = self.folder / "access.cidr"
        self.rates = self.folder / "rates.cidr"
        self.access.write_text(access)
        self.rates.write_text(rates or "# no limits\n")
        self.settings = merged(
            {
                "mode": "enforce",
                "hostname": "mx.sluice.example",
                "workers": 1,
                "listeners": [{"address": f"127.0.0.1:{self.port}", "role": role}],
                "downstream": {
                    "address": f"127.0.0.1:{downstream}",
                    "identity": "none",
                    # No test asks for it but those that are about it, and a connection more would be counted.
                    "allow_open_relay": True,
                    "probe_every": "1s",
                },
                "tables": {"access": str(self.access), "rates": str(self.rates)},
                # Here one address plays many clients; what it may hold is the matter of test_shares.py.
                "overload": {"share_per_address": "100%", "share_per_network": "100%"},
                "log": {"level": "info", "destination": "stderr"},
            },
            config or {},
        )
        self.config = self.folder / "sluice.yaml"
        self.write_config()
        self.program = None

    def write_config(self):
        self.config.write_text(yaml(self.settings))

    def start(self, **options):
        if DIRECT:
            return self
        self.program = Program([SLUICE, "serve", "--config", str(self.config)], **options)
        self.program.wait_for("sluice ready")
        return self

    @property
    def log(self):
        return self.program.log if self.program else ""

    @property
    def pid(self):
        return self.program.process.pid

    def signal(self, number):
        if self.program:
            self.program.signal(number)

    def reload(self):
        """SIGHUP, and waits until the log has grown by what came of it."""
        before = len(self.program.lines)
        self.signal(signal.SIGHUP)
        wait_until(lambda: len(self.program.lines) > before, 5, "a word about the reload")
        time.sleep(0.2)
        return "\n".join(line for _, line in self.program.lines[before:])

    def stop(self):
        """Ends it and holds it to a clean end."""
        if self.program is None:
            return
        program, self.program = self.program, None
        if program.running:
            # A second, for the sessions that are just closing; then at once, whoever is still held.
            program.signal(signal.SIGTERM)
            try:
                program.wait(2)
            except subprocess.TimeoutExpired:
                program.signal(signal.SIGINT)
                try:
                    program.wait(10)
                except subprocess.TimeoutExpired:
                    program.kill()
                    raise AssertionError(f"did not stop on SIGINT:\n{program.log[-4000:]}") from None
        program.join()
        code = program.process.returncode
        crash = re.search(r"(?i)fatal error|crashed|\binvariant\b.*(broken|failed)|\*\*\*", program.log)
        assert code == 0 and not crash, f"exit code {code}:\n{program.log[-4000:]}"

    def dialogue(self, source="127.0.0.1", **options):
        return Dialogue(self.port, source, **options)

    def keywords(self, source="127.0.0.1"):
        """The EHLO keywords offered now, upper case, without the greeting line."""
        with self.dialogue(source) as client:
            client.expect(220)
            reply = client.hello()
            return [line.upper() for line in reply.lines[1:]]

    def statistic(self, name):
        """One of the counters, as it is now."""
        before = len(self.program.lines)
        self.signal(signal.SIGUSR2)
        pattern = re.compile(rf"\b{name}=(-?\d+)")

        def found():
            lines = [line for _, line in self.program.lines[before:] if "STATS" in line]
            return next((match for match in map(pattern.search, lines) if match), None)

        return int(wait_until(found, 5, f"{name} in the statistics").group(1))

    def wait_for_keyword(self, word, seconds=10):
        """The downstream's keywords are learned by a probe; waits until this one is."""
        return wait_until(
            lambda: any(line.split()[0] == word for line in self.keywords()), seconds, f"{word} offered"
        )


class Sink:
    """`sluice sink`, with what it stored."""

    def __init__(self, folder, *options, store=True, port=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.options = list(options)
        self.store = store
        self.program = None

    def start(self):
        command = [SLUICE, "sink", "--listen", f"127.0.0.1:{self.port}"]
        if self.store:
            command += ["--store", str(self.folder)]
        self.program = Program(command + self.options)
        self.program.wait_for("sink ready")
        return self

    @staticmethod
    def parse(text):
        found = re.findall(
            r"accepted (\d+) messages, (\d+) bytes, (\d+) connections, bare_lf (\d+), bare_cr (\d+)", text
        )
        assert found, f"no counts in {text!r}"
        names = ("messages", "bytes", "connections", "bare_lf", "bare_cr")
        return dict(zip(names, map(int, found[-1])))

    def counts(self):
        before = self.program.output
        self.program.signal(signal.SIGUSR1)
        wait_until(lambda: len(self.program.output) > len(before), 5, "the sink's counts")
        return self.parse(self.program.output.decode())

    def stop(self):
        """Ends it; the final counts."""
        if self.program is None:
            return None
        program, self.program = self.program, None
        if program.running:
            program.signal(signal.SIGTERM)
            program.wait(10)
        assert program.process.returncode == 0, program.log
        return self.parse(program.output.decode())

    def kill(self):
        if self.program:
            self.program.kill()
            self.program = None

    def messages(self):
        """What was stored: pairs of envelope lines and message bytes, in order."""
        files = sorted(self.folder.glob("*.eml"), key=lambda path: int(path.stem))
        return [
            (path.with_suffix(".env").read_text("utf-8", "replace").splitlines(), path.read_bytes())
            for path in files
        ]


class Recorder:
    """A downstream of a few lines that keeps every byte it was sent, and how each connection ended.

    `replies` are pairs of how a command begins and what is said to it; the first that fits counts. `dot_reply` is said
    to the end of a message."""

    def __init__(
        self, keywords=("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"), dot_delay=0.0, replies=(),
        dot_reply=b"250 2.0.0 Ok",
    ):
        self.keywords = keywords
        self.dot_reply = dot_reply
        self.replies = replies
        self.dot_delay = dot_delay
        self.received = []
        self.dots = 0
        self.replied_to_dot = 0
        self.cut_before_reply = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        serve_each(self.listener, self._serve)

    def _serve(self, peer):
        record = bytearray()
        self.received.append(record)
        with peer, contextlib.suppress(OSError):
            peer.sendall(b"220 recorder.example ESMTP\r\n")
            waiting = b""
            in_body = False
            while True:
                piece = peer.recv(65_536)
                if not piece:
                    return
                record.extend(piece)
                waiting += piece
                while True:
                    end = b"\r\n.\r\n" if in_body else b"\r\n"
                    if in_body and waiting.startswith(b".\r\n"):
                        waiting = waiting[3:]
                    elif end in waiting:
                        line, waiting = waiting.split(end, 1)
                        if not in_body:
                            in_body = self._command(peer, line)
                            continue
                    else:
                        break
                    in_body = False
                    self._dot(peer)

    def _dot(self, peer):
        self.dots += 1
        if self.dot_delay:
            ready, _, _ = select.select([peer], [], [], self.dot_delay)
            if ready:
                self.cut_before_reply += 1
        peer.sendall(self.dot_reply + b"\r\n")
        self.replied_to_dot += 1

    def _command(self, peer, line):
        for beginning, reply in self.replies:
            if line.startswith(beginning):
                peer.sendall(reply + b"\r\n")
                return False
        verb = line[:4].upper()
        if verb == b"EHLO":
            lines = ["recorder.example", *self.keywords]
            for index, keyword in enumerate(lines):
                mark = " " if index == len(lines) - 1 else "-"
                peer.sendall(f"250{mark}{keyword}\r\n".encode())
        elif verb == b"DATA":
            peer.sendall(b"354 Go on\r\n")
            return True
        elif verb == b"QUIT":
            peer.sendall(b"221 2.0.0 Bye\r\n")
            peer.shutdown(socket.SHUT_WR)
        else:
            peer.sendall(b"250 2.0.0 Ok\r\n")
        return False

    @property
    def bytes(self):
        return b"\n---\n".join(bytes(record) for record in self.received)

    def stop(self):
        # Only a shutdown wakes a thread that sits in accept().
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Closed(AssertionError):
    """The server closed where a reply was expected."""


class Reply:
    """A whole reply and when it was here."""

    def __init__(self, raw, at, took, arrivals):
        self.raw = raw
        self.at = at
        self.took = took
        self.arrivals = arrivals
        rows = raw.decode("latin-1").split("\r\n")[:-1]
        for index, row in enumerate(rows):
            last = index == len(rows) - 1
            assert re.fullmatch(r"[2-5][0-9]{2}" + (r"( .*)?" if last else r"-.*"), row), f"no reply: {raw!r}"
        self.code = int(rows[-1][:3])
        self.lines = [row[4:] for row in rows]
        found = re.match(r"([245]\.\d{1,3}\.\d{1,3})(\s|$)", self.lines[-1])
        self.enhanced = found.group(1) if found else ""

    def __repr__(self):
        return f"<{self.raw!r} at {self.at:.2f} s>"


class Dialogue:
    """A raw client: says exactly what it is told to, and knows when each byte came."""

    def __init__(self, port, source="127.0.0.1", timeout=60.0, receive_buffer=None):
        self.source = source
        self.timeout = timeout
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # IP_BIND_ADDRESS_NO_PORT: thousands of connections may share a source.
        self.socket.setsockopt(socket.IPPROTO_IP, 24, 1)
        self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.started = time.monotonic()
        self.said = self.started
        self.waiting = b""
        # (seconds, who, bytes): all that went over the wire.
        self.transcript = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def age(self):
        return time.monotonic() - self.started

    @property
    def name(self):
        """A HELO name that no test with another /24 uses."""
        a, b, c, d = self.source.split(".")
        return f"h{d}.n{a}-{b}-{c}.example"

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.said = time.monotonic()
        self.transcript.append((self.said - self.started, "C", data))
        self.socket.sendall(data)

    def pieces(self, pieces, pause=0.003):
        """Sends each piece in a segment of its own."""
        for piece in pieces:
            self.send(piece)
            time.sleep(pause)

    def receive(self, timeout):
        """One piece, b"" at the end; None when nothing came in time."""
        self.socket.settimeout(max(timeout, 0.001))
        try:
            piece = self.socket.recv(65_536)
        except (TimeoutError, socket.timeout):
            return None
        except ConnectionError:
            piece = b""
        if piece:
            self.transcript.append((self.age, "S", piece))
        return piece

    def reply(self, timeout=None):
        deadline = time.monotonic() + (timeout or self.timeout)
        begun = len(self.transcript)
        ends = re.compile(rb"(?:[0-9]{3}-[^\n]*\n)*[0-9]{3}(?: [^\n]*)?\r?\n")
        while True:
            found = ends.match(self.waiting)
            if found:
                self.waiting = self.waiting[found.end():]
                now = time.monotonic()
                arrivals = [(at, data) for at, who, data in self.transcript[begun:] if who == "S"]
                return Reply(found.group(), now - self.started, now - self.said, arrivals)
            left = deadline - time.monotonic()
            piece = self.receive(left) if left > 0 else None
            if piece is None:
                raise AssertionError(f"no reply within {timeout or self.timeout} s:\n{self}")
            if piece == b"":
                raise Closed(f"closed where a reply was due:\n{self}")
            self.waiting += piece

    def expect(self, code, enhanced=None, timeout=None):
        reply = self.reply(timeout)
        assert reply.code == code, f"expected {code}:\n{self}"
        if enhanced is not None:
            assert reply.enhanced.startswith(enhanced), f"expected {enhanced}:\n{self}"
        return reply

    def command(self, text, code=None, enhanced=None, timeout=None):
        self.send(text + "\r\n")
        return self.reply(timeout) if code is None else self.expect(code, enhanced, timeout)

    def hello(self, name=None):
        return self.command(f"EHLO {name or self.name}", 250)

    def greet(self):
        """Banner and EHLO."""
        self.expect(220)
        return self.hello()

    def envelope(self, sender="a@client.example", recipient="b@example.com"):
        self.command(f"MAIL FROM:<{sender}>", 250)
        return self.command(f"RCPT TO:<{recipient}>", 250)

    def open_data(self, **envelope):
        self.envelope(**envelope)
        return self.command("DATA", 354)

    def deliver(self, body=b"Subject: test\r\n\r\nhello\r\n", **envelope):
        """A whole message with CRLF lines, dots stuffed here; the reply to its dot."""
        self.open_data(**envelope)
        self.send(stuffed(body) + b".\r\n")
        return self.reply()

    def until_closed(self, timeout=10.0):
        """All that still comes, until the server closes."""
        deadline = time.monotonic() + timeout
        rest, self.waiting = self.waiting, b""
        while True:
            piece = self.receive(deadline - time.monotonic())
            if piece is None:
                raise AssertionError(f"not closed within {timeout} s:\n{self}")
            if piece == b"":
                return rest
            rest += piece

    def still_open(self, seconds=0.05):
        """Whether the server has not closed; what it has said meanwhile is kept for `reply`."""
        while True:
            piece = self.receive(seconds)
            if not piece:
                return piece is None
            self.waiting += piece

    def close(self):
        self.socket.close()

    def reset(self):
        """Vanishes by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __str__(self):
        return "\n".join(
            f"{at:8.3f} {who}: {data[:200]!r}" for at, who, data in self.transcript[-200:]
        )


def stuffed(body):
    """Dot stuffing, RFC 5321 4.5.2, for a body of CRLF lines."""
    assert body.endswith(b"\r\n")
    if body.startswith(b"."):
        body = b"." + body
    return body.replace(b"\r\n.", b"\r\n..")


def source(kind, net, host=1):
    """An address of tier 0 to 3 in the /24 of a test."""
    return f"127.{kind}.{net}.{host}"


def lengthen_datagram_queues(wanted=512):
    """Lets as many log lines wait in a socket as systemd does at boot. With the kernel's 10 Postfix's postlogd can wait
    for itself, and everything that logs for it: seen once in some thousand starts."""
    setting = pathlib.Path("/proc/sys/net/unix/max_dgram_qlen")
    try:
        if int(setting.read_text()) < wanted:
            setting.write_text(str(wanted))
    except OSError:
        pass  # not root: Postfix does not start either


class Postfix:
    """A real Postfix: smtpd on a port of its own, delivery into a maildir, all in one folder."""

    # What a test of its own says otherwise.
    NETWORKS = "192.0.2.1/32"
    PROTOCOLS = "ipv4"
    PLAIN_OPTIONS = ""

    MASTER = """\
127.0.0.1:{port} inet n - n - 200 smtpd{plain}
127.0.0.1:{proxy_port} inet n - n - 200 smtpd
  -o smtpd_upstream_proxy_protocol=haproxy -o syslog_name=proxied
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(self):
        lengthen_datagram_queues()
        # Not pytest's folder: that one is closed to the user postfix.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-postfix-", dir=self.place()))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.proxy_port = free_port()
        self.etc = self.folder / "etc"
        self.box = self.folder / "mail" / "box"
        self.logfile = self.folder / "log" / "mail.log"
        for name in ("etc", "queue", "data", "mail", "log"):
            (self.folder / name).mkdir()
        user = int(subprocess.check_output(["id", "-u", "postfix"]))
        group = int(subprocess.check_output(["id", "-g", "postfix"]))
        for name in ("data", "mail", "log"):
            os.chown(self.folder / name, user, group)
        (self.etc / "rcpt").write_text("/^nobody/ 550 5.1.1 no such user, says Postfix\n")
        (self.etc / "main.cf").write_text(
            f"""\
compatibility_level = 3.6
queue_directory = {self.folder}/queue
data_directory = {self.folder}/data
command_directory = /usr/sbin
daemon_directory = {self.daemons()}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.logfile}
maillog_file_prefixes = /var, /tmp, /dev
myhostname = postfix.example
mydestination =
mynetworks = {self.NETWORKS}
inet_interfaces = 127.0.0.1
inet_protocols = {self.PROTOCOLS}
local_header_rewrite_clients =
alias_maps =
virtual_mailbox_domains = example.com
virtual_mailbox_maps = static:box/
virtual_mailbox_base = {self.folder}/mail
virtual_uid_maps = static:{user}
virtual_gid_maps = static:{group}
virtual_minimum_uid = 1
virtual_destination_concurrency_limit = 50
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access regexp:{self.etc}/rcpt, permit
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_delay_reject = yes
smtputf8_enable = yes
message_size_limit = 20480000
virtual_mailbox_limit = 0
disable_dns_lookups = yes
default_process_limit = 200
in_flow_delay = 0
"""
        )
        (self.etc / "master.cf").write_text(
            self.MASTER.format(
                port=self.port, proxy_port=self.proxy_port, plain=self.PLAIN_OPTIONS)
        )

    @staticmethod
    def place():
        """Memory if there is enough: Postfix waits for the disk after every message."""
        with contextlib.suppress(OSError):
            if shutil.disk_usage("/dev/shm").free > 300 << 20 and os.access("/dev/shm", os.W_OK):
                return "/dev/shm"
        return None

    @staticmethod
    def daemons():
        for place in ("/usr/lib/postfix/sbin", "/usr/libexec/postfix"):
            if pathlib.Path(place, "smtpd").exists():
                return place
        raise RuntimeError("no Postfix daemons found")

    @staticmethod
    def missing():
        """Why it cannot be used here; None when it can."""
        if shutil.which("postfix") is None:
            return "Postfix is not installed"
        if os.geteuid() != 0:
            return "only root can start Postfix"
        return None

    def start(self):
        subprocess.run(
            ["postfix", "-c", str(self.etc), "start"], check=True, capture_output=True, timeout=30
        )

        def greets():
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self.port), 1) as peer:
                    return peer.recv(100).startswith(b"220")

        wait_until(greets, 10, "Postfix's banner")
        return self

    def stop(self):
        subprocess.run(["postfix", "-c", str(self.etc), "stop"], capture_output=True, timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self):
        return self.logfile.read_text("utf-8", "replace") if self.logfile.exists() else ""

    def messages(self):
        """The delivered messages, with Postfix's own header lines on top and LF for CRLF."""
        return [path.read_bytes() for path in (self.box / "new").glob("*")]

    def count(self):
        with contextlib.suppress(FileNotFoundError):
            return len(os.listdir(self.box / "new"))
        return 0


def smtp_source(port, messages, length, sessions=50, reuse=False, timeout=120, extra=()):
    """Postfix's load generator; fails when any message was not accepted."""
    command = ["smtp-source", "-s", str(sessions), "-m", str(messages), "-l", str(length)]
    command += ["-f", "source@client.example", "-t", "sink@example.com", "-M", "source.client.example"]
    if reuse:
        command.append("-d")
    command += [*extra, f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stderr.decode()
    assert b"fatal" not in done.stderr and b"warning" not in done.stderr, done.stderr.decode()
