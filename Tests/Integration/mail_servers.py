# SPDX-License-Identifier: Apache-2.0
"""Exim and OpenSMTPD as they come from Debian, beside the Postfix that is installed.

Debian has room for one mail server. The others are unpacked by `scripts/test` and run from a folder of their
own by chroot(2), with users of their own, on loopback ports, in the foreground; nothing is left of them.
"""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

from harness import ROOT, Program, free_port, wait_until

PLACE = pathlib.Path(os.environ.get("SLUICE_MAIL_SERVERS", ROOT / ".build/mail-servers"))


class Jail:
    """A root folder with a package, the libraries it needs, and a few files of /etc."""

    def __init__(self, package, programs, users):
        self.source = PLACE / package / "root"
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"sluice-{package}-", dir="/var/tmp"))
        self.root.chmod(0o755)
        for name in ("etc", "dev", "tmp", "usr/sbin", "usr/lib", "var/run", "run"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").chmod(0o1777)
        self.write("dev/null", "")
        (self.root / "dev/null").chmod(0o666)
        for name in ("services", "hosts", "nsswitch.conf", "protocols", "localtime"):
            if pathlib.Path("/etc", name).exists():
                shutil.copy(f"/etc/{name}", self.root / "etc" / name)
        # Names are not looked up: whoever asks hears at once that nobody is there.
        self.write("etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        passwd = "root:x:0:0::/:/bin/sh\n"
        group = "root:x:0:\n"
        for number, user in enumerate(users):
            passwd += f"{user}:x:{64_100 + number}:{64_100 + number}::/nonexistent:/bin/false\n"
            group += f"{user}:x:{64_100 + number}:\n"
        self.write("etc/passwd", passwd)
        self.write("etc/group", group)
        for program in programs:
            self.take(program)

    @staticmethod
    def missing(package, program):
        """Why it cannot be used here; None when it can."""
        if os.geteuid() != 0:
            return "only root can start it from a folder of its own"
        if not (PLACE / package / "root" / program).exists():
            return f"{package} is not unpacked: scripts/test does that"
        return None

    def write(self, name, text, mode=0o644):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def take(self, program):
        """Copies a program of the package, and from there or from the machine the libraries it names."""
        target = self.root / program
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.source / program, target)
        places = {str(path.parent) for path in self.source.rglob("*.so*")}
        done = subprocess.run(
            ["ldd", str(self.source / program)], check=True, capture_output=True, text=True,
            env={"LD_LIBRARY_PATH": ":".join(sorted(places))})
        assert "not found" not in done.stdout, done.stdout
        for path in re.findall(r"(/\S+) \(0x", done.stdout):
            real = pathlib.Path(path)
            with contextlib.suppress(ValueError):
                path = "/" + str(real.relative_to(self.source))
            target = self.root / path.lstrip("/")
            # Those of the package lie where the loader looks without being told.
            if str(real).startswith(str(self.source)):
                target = self.root / "usr/lib" / real.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(real, target)

    def own(self, name, user, group=None, mode=0o755):
        """A folder that belongs to one of the users by number."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, user, group if group is not None else user)
        path.chmod(mode)

    def start(self, command):
        return Program(
            ["/usr/sbin/chroot", str(self.root), *command], env={"PATH": "/usr/sbin:/usr/bin"},
            start_new_session=True)

    def remove(self):
        shutil.rmtree(self.root, ignore_errors=True)


class JailedServer:
    """What both have in common: two ports, a start, an end, a log."""

    def __init__(self):
        self.port = free_port()
        self.proxy_port = free_port()
        self.program = None

    def greets(self):
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", self.port), 1) as peer:
                return peer.recv(100).startswith(b"220")

    def wait(self, what):
        def ready():
            assert self.program.running, self.program.log
            return self.greets()

        wait_until(ready, 15, f"{what}'s banner")
        return self

    def stop(self):
        if self.program is not None:
            # The session is ours alone: it and what it has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.program.process.pid, 15)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.program.process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.program.process.pid, 9)
            self.program.kill()
        self.jail.remove()


class Exim(JailedServer):
    """exim4-daemon-heavy; what it takes for example.com goes on to a receiver of ours."""

    PACKAGE, PROGRAM = "exim4-daemon-heavy", "usr/sbin/exim4"

    def __init__(self, receiver):
        super().__init__()
        self.jail = Jail(self.PACKAGE, [self.PROGRAM], ["Debian-exim"])
        self.jail.own("var/spool/exim4", 64_100, mode=0o750)
        self.jail.own("var/log/exim4", 64_100, mode=0o2750)
        self.jail.own("run/exim4", 64_100, mode=0o750)
        # The edits of docs/recipes.md are the lines with hosts_proxy, local_interfaces and smtp_accept_max.
        self.jail.write(
            "var/lib/exim4/config.autogenerated",
            f"""\
primary_hostname = exim.example
exim_user = Debian-exim
exim_group = Debian-exim
keep_environment =
domainlist local_domains = example.com
hostlist relay_from_hosts = 127.0.0.1
local_interfaces = 127.0.0.1.{self.port} : 127.0.0.1.{self.proxy_port}
hosts_proxy = ${{if eq{{$received_port}}{{{self.proxy_port}}}{{127.0.0.1}}}}
smtp_accept_max_per_host = 0
smtp_accept_max = 200
acl_smtp_rcpt = check_rcpt
host_lookup =
rfc1413_hosts =
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
log_selector = +incoming_port +smtp_connection
queue_run_max = 1
timezone = UTC
tls_advertise_hosts =
begin acl
check_rcpt:
  accept hosts = +relay_from_hosts
  accept domains = +local_domains
  deny message = relay not permitted
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1
  transport = on
  self = send
begin transports
on:
  driver = smtp
  port = {receiver}
  allow_localhost
begin retry
* * F,1h,1s
""")

    def start(self):
        self.program = self.jail.start(["/usr/sbin/exim4", "-bdf"])
        return self.wait("Exim")

    @property
    def log(self):
        path = self.jail.root / "var/log/exim4/mainlog"
        return path.read_text("utf-8", "replace") if path.exists() else ""


class OpenSMTPD(JailedServer):
    """opensmtpd; what it takes for example.com goes on to a receiver of ours."""

    PACKAGE, PROGRAM = "opensmtpd", "usr/sbin/smtpd"

    def __init__(self, receiver):
        super().__init__()
        self.jail = Jail(self.PACKAGE, [self.PROGRAM, "usr/sbin/smtpctl"], ["opensmtpd", "opensmtpq"])
        smtpctl = self.jail.root / "usr/sbin/smtpctl"
        os.chown(smtpctl, 0, 64_101)
        smtpctl.chmod(0o2755)
        for name in ("usr/libexec/opensmtpd", "var/lib/opensmtpd/empty", "var/spool"):
            self.jail.own(name, 0)
        self.jail.own("var/spool/smtpd", 0, mode=0o711)
        self.jail.own("var/spool/smtpd/offline", 0, 64_101, mode=0o770)
        for name in ("corrupt", "incoming", "purge", "queue", "temporary"):
            self.jail.own(f"var/spool/smtpd/{name}", 64_101, 0, mode=0o700)
        self.jail.write("etc/mailname", "opensmtpd.example\n")
        self.jail.write(
            "etc/smtpd.conf",
            f"""\
listen on 127.0.0.1 port {self.port}
listen on 127.0.0.1 port {self.proxy_port} proxy-v2
action "on" relay host "smtp://127.0.0.1:{receiver}"
match from any for domain "example.com" action "on"
match from src 127.0.0.1 for any action "on"
""")

    def start(self):
        self.program = self.jail.start(["/usr/sbin/smtpd", "-d", "-v", "-f", "/etc/smtpd.conf"])
        return self.wait("OpenSMTPD")

    @property
    def log(self):
        return self.program.log
