# SPDX-License-Identifier: Apache-2.0
"""What the tools of a mail administrator make of the log: the real pflogsumm and fail2ban-regex, on a log file and on
what journald makes of standard error; and the commands of docs/logs.md in a flood."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from conftest import need
from harness import DIRECT, NO_DELAYS, ROOT, SLUICE, wait_until

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no log")

FILTER = ROOT / "docs/fail2ban/sluice.conf"
RATES = "127.1.60.0/24 conn=1/h burst=1 over=tempfail\n127.1.61.0/24 concurrency=1 over=tempfail\n"


def identifier():
    """What the shipped unit has the journal put before each line."""
    return re.search(r"^SyslogIdentifier=(.+)$", (ROOT / "docs/sluice.service").read_text(), re.M)[1]


class Journal:
    """Standard error as systemd gives it to a service, and the lines as `journalctl -o short` shows them."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.bytes = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while piece := self.ours.recv(65_536):
            self.bytes += piece

    def environment(self):
        status = os.fstat(self.theirs.fileno())
        return {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

    def short(self, pid):
        rows = [re.sub(r"^<[0-7]>", "", row) for row in self.bytes.decode().splitlines()]
        return "".join(f"Nov 21 15:51:24 mx {identifier()}[{pid}]: {row}\n" for row in rows)


def statistic(pid, text, name):
    """One of the counters as it is now, out of a log that is read by `text`."""
    before = text().count("STATS accepted=")
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: re.search(r"(?s).*STATS ring .*\n", text()) and text().count("STATS accepted=") > before, 10, "STATS")
    return int(re.findall(rf"STATS.*\b{name}=(\d+)", text())[-1])


def traffic(front):
    """One of each: delivered, unknown recipient, over the connection rate, over the concurrency, denied, tarpit."""
    with front.dialogue("127.0.60.1") as client:
        client.greet()
        assert client.deliver().code == 250
        assert client.command("MAIL FROM:<a@b.example>").code == 250
        assert client.command("RCPT TO:<nobody@example.com>").code == 550
    for _ in range(2):
        with front.dialogue("127.1.60.1") as client:
            last = client.reply().code
    assert last == 421
    with front.dialogue("127.1.61.1") as first:
        first.expect(220)
        with front.dialogue("127.1.61.1") as second:
            assert second.reply().code == 421
    with front.dialogue("127.66.60.1") as client:
        assert client.reply().code == 554
    with front.dialogue("127.3.60.1") as client:
        # The first octet of a dripped banner.
        assert client.receive(30) is not None


@pytest.fixture(params=["file", "journal"])
def log(request, shield, recorder, tmp_path):
    """The log of one shield in one of its two forms."""
    box = recorder(replies=[(b"RCPT TO:<nobody", b"550 5.1.1 <nobody@example.com>: Recipient address rejected: no such user")])
    path = tmp_path / "sluice.log"
    settings = {"delays": NO_DELAYS, "workers": 2}
    if request.param == "file":
        front = shield(box, {**settings, "log": {"destination": str(path)}}, rates=RATES)
        text = path.read_text
        pid = front.pid
    else:
        journal = Journal()
        front = shield(box, settings, rates=RATES, start=False)
        process = subprocess.Popen(
            [SLUICE, "serve", "--config", str(front.config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=journal.theirs.fileno(), env=journal.environment())
        request.addfinalizer(lambda: (process.send_signal(signal.SIGINT), process.wait(10)))
        wait_until(lambda: b"sluice ready" in journal.bytes, 15, "ready")

        pid = process.pid

        def text():
            return journal.short(pid)

    traffic(front)
    # The server behind goes, and with it the next mail.
    wait_until(lambda: text().count("DISCONNECT from") >= 6, 10, "closing lines")
    box.stop()
    with front.dialogue("127.0.62.1") as client:
        client.greet()
        assert client.command("MAIL FROM:<late@b.example>").code == 451
    wait_until(lambda: re.search(r"verdict=deferred", text()), 10, "the deferred session's line")
    # Each worker finds out for itself.
    wait_until(lambda: statistic(pid, text, "downstream_up") == 0, 20, "both workers to miss the server behind")
    final = tmp_path / "mail.log"
    final.write_text(text())
    return final


def test_pflogsumm_counts_every_refusal_and_names_what_it_was(log):
    need("pflogsumm")
    report = subprocess.run(
        ["pflogsumm", "--syslog_name", "sluice", str(log)], capture_output=True, text=True, timeout=60, check=True).stdout
    text = log.read_text()
    # By hand: an unknown recipient, connection rate, concurrency, a table, and the 451 of the outage.
    assert len(re.findall(r"smtpd\[\d+\]: NOQUEUE: reject: ", text)) == 5, text
    assert re.search(r"^ +5 +rejected", report, re.M), report
    details = report.split("message reject detail")[1].split("message reject warning detail")[0]
    for what in ("CONNECT", "RCPT", "MAIL"):
        assert re.search(rf"^ +{what}$", details, re.M), details
    assert re.search(r"^ +Recipient address rejected: no such user.*\n +1 +nobody@example\.com", details, re.M), details
    assert re.search(r"^ +1 +127\.1\.60\.1|unknown\[127\.1\.60\.1\]", details, re.M), details


def matched(log, mode, tmp_path):
    """The addresses that fail2ban finds in the log, one for each line."""
    need("fail2ban-regex")
    # Its includes are looked for beside it, where an administrator puts it.
    folder = tmp_path / "filter.d"
    folder.mkdir(exist_ok=True)
    shutil.copy(FILTER, folder / "sluice.conf")
    shutil.copy("/etc/fail2ban/filter.d/common.conf", folder)
    found = subprocess.run(
        ["fail2ban-regex", "--out", "ip", str(log), f"{folder}/sluice.conf[mode={mode}]"],
        capture_output=True, text=True, timeout=60)
    assert found.returncode in (0, 1), found.stderr
    return sorted(line for line in found.stdout.splitlines() if re.fullmatch(r"[0-9.]+", line))


def test_fail2ban_finds_with_the_shipped_filter_whom_each_mode_is_for(log, tmp_path):
    assert matched(log, "normal", tmp_path) == ["127.0.60.1"]
    assert matched(log, "proof", tmp_path) == ["127.3.60.1"]
    assert matched(log, "connect", tmp_path) == ["127.1.60.1", "127.1.61.1", "127.66.60.1"]
    assert matched(log, "aggressive", tmp_path) == [
        "127.0.60.1", "127.1.60.1", "127.1.61.1", "127.3.60.1", "127.66.60.1"]


def test_each_line_has_one_tag_and_the_outage_is_told_once_for_all_workers(log):
    text = log.read_text()
    for line in text.splitlines():
        if "smtpd[" in line:
            assert line.count("sluice/smtpd[") == 1, line
            assert not re.search(r"\]: <[0-7]>", line), line
    assert text.count("DOWNSTREAM DOWN") == 1, text
    reject = re.search(r"NOQUEUE: reject: MAIL from unknown\[127\.0\.62\.1\]:\d+: 451 4\.\S+ (.*)", text)
    assert reject and "from=<late@b.example>" in reject[1], text


def test_the_servers_queue_id_is_in_the_line_of_an_accepted_message(shield, recorder):
    box = recorder(dot_reply=b"250 2.0.0 Ok: queued as 4fLx0Z1BQzz5P")
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue("127.0.63.1") as client:
        client.greet()
        assert client.deliver().code == 250
    front.program.wait_for(r"ACCEPTED from \[127\.0\.63\.1\]:\d+ id=[0-9a-f]{16} queue_id=4fLx0Z1BQzz5P ")


def test_the_commands_for_a_week_of_observing_count_every_session_of_a_flood(shield, recorder, tmp_path):
    """Two lines of a kind a second: nearly all are cut, and nothing is lost from the sums."""
    box = recorder()
    path = tmp_path / "sluice.log"
    front = shield(
        box, {"mode": "observe", "delays": NO_DELAYS, "log": {"destination": str(path), "flood_lines": 2}})
    for n in range(60):
        with front.dialogue(f"127.66.64.{n + 1}") as client:
            client.expect(220)
            client.command("QUIT")
    for n in range(40):
        with front.dialogue(f"127.0.64.{n + 1}") as client:
            client.expect(220)
            client.command("QUIT")
    # Mail of clients that would have been refused: not one of its lines may be missing.
    for n in range(20):
        with front.dialogue(f"127.66.65.{n + 1}") as client:
            client.greet()
            assert client.deliver().code == 250
            client.command("QUIT")
    wait_until(lambda: statistic(front.pid, path.read_text, "verdict_would_refuse") == 80, 10, "80 sessions counted")
    assert statistic(front.pid, path.read_text, "verdict_pass") == 40
    front.stop()

    page = (ROOT / "docs/logs.md").read_text()
    program = re.search(r"^    sum='(.*?)'$", page, re.M | re.S)[1]
    counted = subprocess.run(["awk", program, str(path)], capture_output=True, text=True, check=True).stdout
    assert sorted(counted.split("\n")) == ["", "40 verdict=pass", "80 verdict=would-refuse"], counted
    text = path.read_text()
    assert len(re.findall(r"DISCONNECT from .* verdict=would-refuse .*messages=1 ", text)) == 20
    # The gate was at work at all.
    assert re.search(r"\.\.\. \d+ more DISCONNECT verdict=would-refuse lines", text), text[-2000:]
