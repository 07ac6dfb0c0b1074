# SPDX-License-Identifier: Apache-2.0
"""Who takes part: Sluice, the lower bound in C, the programs it is compared with, and the loads.

Each is a context manager that gives a `Peer`; all listen on 127.0.0.1 on a port of their own, and each takes
a new one every time: a ring that is closed lets go of its listener a little later than its process ends.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import harness
import machine

SOURCE = pathlib.Path(__file__).parent
DESCRIPTORS = 19_900
"""What peers may ask for: the usual hard limit of a small virtual machine is 20,000."""


class Peer:
    def __init__(self, name, port, pid):
        self.name = name
        self.port = port
        self.pid = pid
        self.shield = None

    @property
    def cpu(self):
        return machine.cpu(self.pid)


def listening(program, port, seconds=15):
    def ready():
        if not program.running:
            raise AssertionError(f"{program.command[0]} ended:\n{program.log}")
        return machine.listens(port)

    harness.wait_until(ready, seconds, f"{program.command[0]} listening on {port}")


@contextlib.contextmanager
def program(name, command, port, ready=None):
    started = harness.Program(command, preexec_fn=machine.die_with_parent)
    try:
        if ready:
            started.wait_for(ready)
        listening(started, port)
        yield Peer(name, port, started.process.pid)
    finally:
        started.signal(signal.SIGTERM) if started.running else None
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(5)
        started.kill()


@contextlib.contextmanager
def folder():
    # Postfix and nginx give up root and must still get in; and no disk is to be measured.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=place))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def compiler():
    return shutil.which("cc") or shutil.which("clang") or "cc"


def build_floor(where):
    """Compiles floor.c; the path of the program."""
    made = pathlib.Path(where) / "floor"
    subprocess.run([compiler(), "-O2", "-o", made, SOURCE / "floor.c", "-luring"], check=True)
    return made


@contextlib.contextmanager
def floor(binary, capacity, workers=1, interval=0):
    """interval: milliseconds between two bytes; 0 for accept and sleep."""
    port = harness.free_port()
    command = [str(binary), "-p", str(port), "-n", str(capacity), "-W", str(workers), "-i", str(interval)]
    with program("floor in C", command + ["-x", "900"], port, ready="floor ready") as peer:
        # All of the workers must listen, or the first few get every connection.
        harness.wait_until(
            lambda: machine.read("/proc/net/tcp").count(f":{port:04X} 00000000:0000 0A") == workers,
            10, f"{workers} listeners")
        yield peer


@contextlib.contextmanager
def sluice(downstream=9, config=None, access="127.0.0.0/8 trusted\n", binary=None, wrap=(), orderly=True):
    """`sluice serve`; `binary` instead of the usual one, `wrap` is a command to run it under.

    orderly: at the end it must stop within seconds and with exit code 0. In valgrind, or with a million
    connections to close, that is not asked for.
    """
    with folder() as place:
        quiet = {
            # What is measured is the shield, not the writing of a log that nobody reads here.
            "log": {"level": "notice"},
            "downstream": {"probe_every": "1h"},
            "overload": {"shrink_at": "100%", "shed_at": "100%", "reserved_for_known": "0%"},
            "tarpit": {"sessions_per_source": 100, "session": "1h"},
        }
        shield = harness.Shield(
            place, downstream, config=harness.merged(quiet, config or {}), access=access)
        shield.program = harness.Program(
            [*wrap, str(binary or harness.SLUICE), "serve", "--config", str(shield.config)],
            preexec_fn=machine.die_with_parent)
        try:
            shield.program.wait_for("sluice ready", 60)
            peer = Peer("Sluice", shield.port, shield.pid)
            peer.shield = shield
            yield peer
            if orderly and not wrap:
                shield.stop()
        finally:
            if shield.program:
                shield.program.kill()


def counters(peer, since=None):
    """What SIGUSR2 makes the daemon log, as numbers by name; with `since`, the differences."""
    before = len(peer.shield.program.lines)
    peer.shield.signal(signal.SIGUSR2)

    def said():
        lines = [line for _, line in peer.shield.program.lines[before:]]
        return [line for line in lines if "STATS" in line] if any("STATS ring" in line for line in lines) else None

    text = " ".join(harness.wait_until(said, 20, "the counters"))
    found = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}
    return {name: value - since.get(name, 0) for name, value in found.items()} if since else found


@contextlib.contextmanager
def endlessh(milliseconds, connections):
    """Three octets every so often: the shortest line that it sends."""
    port = harness.free_port()
    command = ["endlessh", "-4", "-p", str(port), "-d", str(milliseconds), "-l", "3", "-m", str(connections)]
    with program("endlessh", command + ["-f", "/dev/null"], port) as peer:
        yield peer


HAPROXY = """\
global
    maxconn {connections}
    ulimit-n {descriptors}
    no strict-limits
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{port} backlog 65535
    maxconn {connections}
{hold}    server behind 127.0.0.1:{downstream}
"""


@contextlib.contextmanager
def haproxy(downstream=9, holding=False, connections=9_000):
    """In TCP mode; holding: every connection waits before the server behind is called."""
    port = harness.free_port()
    hold = "    tcp-request inspect-delay 1h\n    tcp-request content accept if WAIT_END\n"
    with folder() as place:
        path = place / "haproxy.cfg"
        path.write_text(HAPROXY.format(
            port=port, downstream=downstream, connections=connections, descriptors=DESCRIPTORS,
            hold=hold if holding else ""))
        with program("HAProxy", ["haproxy", "-db", "-f", str(path)], port) as peer:
            yield peer


NGINX = """\
load_module {modules}/ngx_mail_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections {connections}; multi_accept on; }}
# Who asks where the mail server is gets the same answer always.
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{
        listen 127.0.0.1:{answers} backlog=65535;
        location / {{
            add_header Auth-Status OK;
            add_header Auth-Server 127.0.0.1;
            add_header Auth-Port {downstream};
            return 200 "";
        }}
    }}
}}
mail {{
    server_name bench.example;
    auth_http 127.0.0.1:{answers}/;
    smtp_auth none;
    xclient off;
    timeout 1h;
    proxy_timeout 60s;
    smtp_capabilities "SIZE 10485760" "PIPELINING" "8BITMIME";
    server {{
        listen 127.0.0.1:{port} backlog=65535;
        protocol smtp;
        smtp_greeting_delay {delay};
    }}
}}
"""


@contextlib.contextmanager
def nginx(downstream=9, holding=False, connections=19_000):
    """The mail proxy, with the HTTP service it asks for the way in the same process."""
    port = harness.free_port()
    modules = next(
        (path for path in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules") if os.path.isdir(path)), "modules")
    with folder() as place:
        path = place / "nginx.conf"
        path.write_text(NGINX.format(
            modules=modules, folder=place, port=port, answers=harness.free_port(), downstream=downstream,
            connections=connections, descriptors=DESCRIPTORS, delay="1h" if holding else "0"))
        with program("nginx mail", ["nginx", "-c", str(path)], port) as peer:
            yield peer


POSTSCREEN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/data/mail.log
maillog_file_prefixes = /var, /tmp, /dev
myhostname = postscreen.example
mydestination =
mynetworks = 192.0.2.1/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_relay_restrictions = reject
postscreen_access_list =
postscreen_greet_wait = 1h
postscreen_greet_action = enforce
postscreen_cache_map =
postscreen_pre_queue_limit = {connections}
postscreen_post_queue_limit = 100
postscreen_client_connection_count_limit = 0
"""

POSTSCREEN_SERVICES = """\
127.0.0.1:{port} inet n - n - 1 postscreen
smtpd pass - - n - 10 smtpd
cleanup unix n - n - 0 cleanup
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
rewrite unix - - n - - trivial-rewrite
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@contextlib.contextmanager
def postscreen(connections):
    """Postfix's screen, every client in its greet wait."""
    port = harness.free_port()
    with folder() as place:
        (place / "etc").mkdir()
        (place / "queue").mkdir()
        (place / "data").mkdir()
        shutil.chown(place / "data", "postfix")
        (place / "etc/main.cf").write_text(POSTSCREEN.format(
            folder=place, daemons=harness.Postfix.daemons(), connections=connections))
        (place / "etc/master.cf").write_text(POSTSCREEN_SERVICES.format(port=port))
        postfix = ["postfix", "-c", str(place / "etc")]
        subprocess.run([*postfix, "start"], check=True, capture_output=True, timeout=30)
        try:
            harness.wait_until(lambda: machine.listens(port), 10, "postscreen listening")
            yield Peer("postscreen", port, int(machine.read(place / "queue/pid/master.pid")))
        finally:
            subprocess.run([*postfix, "stop"], capture_output=True, timeout=30)


@contextlib.contextmanager
def smtp_sink():
    """Postfix's sink: the one mail server behind every proxy."""
    port = harness.free_port()
    command = ["smtp-sink", "-u", "nobody", "-m", "5000", f"127.0.0.1:{port}", "4096"]
    with program("smtp-sink", command, port) as peer:
        yield peer


class Flood:
    """`sluice flood hold` against a peer; with it the connections are there."""

    def __init__(self, peer, connections, *options, ramp=120):
        self.connections = connections
        self.ramp = ramp
        self.command = [
            harness.SLUICE, "flood", "hold", f"127.0.0.1:{peer.port}", "--connections", str(connections),
            "--seconds", "900", "--ramp-seconds", str(ramp), *map(str, options),
        ]

    def __enter__(self):
        self.program = harness.Program(self.command, preexec_fn=machine.die_with_parent)
        try:
            self.ready = self._wait("READY", 1, self.ramp + 20)
        except BaseException:
            self.program.kill()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends it; the last counts and, if a sample was taken, the lateness."""
        if self.program.running:
            self.program.signal(signal.SIGTERM)
            try:
                self.program.wait(120)
            except subprocess.TimeoutExpired:
                self.program.kill()
        self.program.join()
        text = self.program.output.decode()
        return {word: self.parse(line) for word, line in re.findall(r"^(DONE|LATENESS) (.*)$", text, re.M)}

    @staticmethod
    def parse(line):
        return {name: float(value) for name, value in (pair.split("=") for pair in line.split())}

    def _lines(self, word):
        return re.findall(rf"^{word} (.*)\n", self.program.output.decode(), re.M)

    def _wait(self, word, count, seconds):
        def said():
            if len(self._lines(word)) >= count:
                return self._lines(word)
            if not self.program.running:
                raise AssertionError(f"the flood ended:\n{self.program.log}")
            return None

        return self.parse(harness.wait_until(said, seconds, f"the flood's {word}")[-1])

    def counts(self):
        """What it has seen up to now."""
        before = len(self._lines("STAT"))
        self.program.signal(signal.SIGUSR1)
        return self._wait("STAT", before + 1, 20)


def send_mail(port, messages, length, reuse, sessions=20):
    """smtp-source to a port; messages a second, and the CPU seconds of the client itself."""
    before = os.times()
    started = time.monotonic()
    harness.smtp_source(port, messages, length, sessions=sessions, reuse=reuse)
    took = time.monotonic() - started
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return messages / took, spent
