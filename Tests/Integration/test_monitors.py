# SPDX-License-Identifier: Apache-2.0
"""What monitors say, word for word, in front of a shield that enforces: the real ones where they can be had."""

import contextlib
import csv
import io
import pathlib
import re
import socket
import subprocess

import pytest

from conftest import need
from harness import DIRECT, Dialogue, free_port, wait_until

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no shield to watch")

# As docs/protocol.md says: the monitor's address in access.cidr.
MONITOR = "127.0.0.1 trusted\n"


@pytest.fixture
def watched(sink, shield):
    """A shield as it ships but for `mode: enforce`, with its delays, and the line for a monitor."""
    return shield(sink(), access=MONITOR)


def test_blackbox_exporter_finds_what_its_shipped_module_looks_for(watched):
    """The steps of `smtp_starttls` and of its pattern for a plain banner (blackbox.yml of blackbox_exporter)."""
    with Dialogue(watched.port) as client:
        banner = client.reply().raw.decode().splitlines()[0]
        assert re.search(r"^220 ([^ ]+) ESMTP (.+)$", banner), banner
        client.send("EHLO prober\r\n")
        rows = client.reply().raw.decode().splitlines()
        assert rows[0].startswith("250-") and rows[-1].startswith("250 ")
        client.command("QUIT", 221)


def test_the_tarpits_banner_is_the_same_as_any_other(sink, shield):
    front = shield(
        sink(), {"delays": {"banner": {"bad": "1s"}}}, access="127.3.0.0/16 bad\n127.0.0.1 trusted\n")
    heard = []
    for source in ("127.0.0.1", "127.3.0.1"):
        with Dialogue(front.port, source) as client:
            heard.append(client.reply().raw)
    assert heard[0] == heard[1]


def check_smtp(port, *options):
    program = pathlib.Path("/usr/lib/nagios/plugins/check_smtp")
    if not program.exists():
        pytest.skip("monitoring-plugins-basic is not installed")
    command = [program, "-H", "127.0.0.1", "-p", str(port), "-t", "20", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "options",
    [[], ["-F", "mon.example.org"], ["-e", "220"], ["-f", "mon@example.org", "-C", "RCPT TO:<a@b.example>", "-R", "250"]],
    ids=["plain", "with a name", "the banner", "with a recipient"])
def test_check_smtp_is_content(watched, options):
    code, said = check_smtp(watched.port, *options)
    assert code == 0 and "SMTP OK" in said, said


def test_check_smtp_without_brackets_is_content(watched):
    """Its -f puts brackets around the address, its -C says what it is given."""
    code, said = check_smtp(
        watched.port, "-f", "mon@example.org", "-C", "RCPT TO:a@b.example", "-R", "250")
    assert code == 0 and "SMTP OK" in said, said


@contextlib.contextmanager
def haproxy(folder, check, port):
    """A running HAProxy whose one server is the shield; gives a function that says how its check is."""
    need("haproxy")
    admin = folder / "admin"
    (folder / "haproxy.cfg").write_text(
        f"""\
global
  stats socket {admin} mode 600 level admin
defaults
  mode tcp
  timeout connect 5s
  timeout check 20s
  timeout client 1m
  timeout server 1m
listen mail
  bind 127.0.0.1:{free_port()}
  {check}
  server shield 127.0.0.1:{port} check inter 1s fall 1 rise 1
""")
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def status():
        assert process.poll() is None, process.stderr.read()
        if not admin.exists():
            return "", ""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(admin))
            peer.sendall(b"show stat\n")
            text = b"".join(iter(lambda: peer.recv(65_536), b"")).decode()
        for row in csv.DictReader(io.StringIO(text.lstrip("# "))):
            if row["svname"] == "shield":
                return row["check_status"], row["status"]
        return "", ""

    try:
        yield status
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


@pytest.mark.parametrize(
    "check", ["option smtpchk", "option smtpchk EHLO lb.example.org"], ids=["as shipped", "with a name"])
def test_haproxys_smtpchk_finds_the_shield_up(watched, check, tmp_path):
    folder = tmp_path / "haproxy"
    folder.mkdir()
    with haproxy(folder, check, watched.port) as status:
        # L7OK: it said its command and the answer was 2yz.
        wait_until(lambda: status() == ("L7OK", "UP"), 30, "HAProxy's check to pass")

