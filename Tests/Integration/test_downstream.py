# SPDX-License-Identifier: Apache-2.0
"""The server behind: the addresses of its name, and what it offers to whom."""

import contextlib
import os
import re
import shutil
import signal
import smtplib
import subprocess

import pytest

from conftest import running
from harness import (
    DIRECT, NO_DELAYS, SLUICE, Postfix, Program, Shield, free_port, merged, wait_until)
from test_identity import Scripted

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no shield to look anything up")


class NamedShield(Shield):
    """A shield that finds the server behind by a name, in a file of names of its own."""

    def __init__(self, folder, name, port, hosts, config=None):
        self.hosts = folder / "hosts"
        super().__init__(folder, port, merged({"delays": NO_DELAYS}, config or {}))
        self.settings["downstream"]["address"] = f"'{name}:{port}'"
        self.write_config()
        self.name(hosts)

    def name(self, hosts):
        """The same file, so that it is the one that the program sees."""
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{line}\n" for line in hosts))

    def command(self, *arguments):
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, str(self.hosts), SLUICE, *arguments]

    def start(self, **options):
        self.program = Program(self.command("serve", "--config", str(self.config)), **options)
        self.program.wait_for("sluice ready")
        return self


@pytest.fixture
def named(tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give a program names of its own")
    made = []

    def make(*arguments, **options):
        made.append(NamedShield(tmp_path / f"named{len(made)}", *arguments, **options))
        return made[-1]

    (tmp_path / "named0").mkdir()
    yield make
    for one in made:
        one.stop()


@pytest.fixture
def servers():
    """servers(address, port): a mail server of a few words there."""
    made = []

    def make(address, port=0):
        made.append(Scripted(address=address, port=port))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def deliver(front):
    with front.dialogue() as client:
        client.greet()
        assert client.deliver().code == 250, front.log[-3000:]


def test_a_name_with_several_addresses_is_good_as_long_as_one_of_them_answers(named, servers):
    back = servers("127.0.0.4")
    hosts = [f"127.0.0.{last} mail_server" for last in (2, 3, 4)]
    front = named("mail_server", back.port, hosts).start()
    front.program.wait_for(r"DOWNSTREAM FAILED in a probe: \[127\.0\.0\.[23]\]:\d+: cannot connect")
    deliver(front)
    assert back.dots == 1
    assert "DOWNSTREAM DOWN" not in front.log
    # Whichever goes, another one takes its place.
    other = servers("127.0.0.3", back.port)
    back.stop()
    deliver(front)
    assert other.dots == 1


def test_both_families_of_a_name_are_tried(named, servers):
    back = servers("127.0.0.1")
    front = named("mail.example.", back.port, ["::1 mail.example", "127.0.0.1 mail.example"]).start()
    front.program.wait_for(r"\[::1\]:\d+: cannot connect")
    deliver(front)
    assert back.dots == 1


def test_a_server_that_moved_is_found_again_while_it_does_not_answer(named, servers):
    back = servers("127.0.0.3")
    front = named("mail_server", back.port, ["127.0.0.2 mail_server"]).start()
    front.program.wait_for("DOWNSTREAM DOWN")
    front.name(["127.0.0.3 mail_server"])
    front.program.wait_for(r"mail_server:\d+ is at \[127\.0\.0\.3\] now", 40)
    front.program.wait_for("DOWNSTREAM UP", 40)
    deliver(front)


def test_HUP_looks_the_name_up_again(named, servers):
    old = servers("127.0.0.2")
    new = servers("127.0.0.3", old.port)
    front = named("mail_server", old.port, ["127.0.0.2 mail_server"]).start()
    deliver(front)
    # A name that is gone for now takes nothing away.
    front.name([])
    assert "RELOAD done" in front.reload()
    deliver(front)
    front.name(["127.0.0.3 mail_server"])
    front.signal(signal.SIGHUP)
    front.program.wait_for(r"is at \[127\.0\.0\.3\] now", 40)

    def arrived():
        deliver(front)
        return new.dots

    # The worker hears of it a moment later.
    wait_until(arrived, 20, "mail at the new address")


def test_no_address_of_the_name_may_be_a_listener_of_ours(named):
    front = named("mail_server", free_port(), ["127.0.0.2 mail_server", "127.0.0.1 mail_server"])
    front.settings["listeners"][0]["address"] = f"127.0.0.1:{front.downstream}"
    front.write_config()
    for arguments in (["check"], ["serve"]):
        done = subprocess.run(
            front.command(*arguments, "--config", str(front.config)), capture_output=True, text=True, timeout=40)
        assert done.returncode == 78 and "mail would loop" in done.stderr, done.stderr
        assert "(127.0.0.1)" in done.stderr


# MARK: What it offers


class TwoFacedPostfix(Postfix):
    """Offers one client less than it offers others."""

    def __init__(self):
        super().__init__()
        (self.etc / "discard").write_text("127.0.77.0/24 dsn, 8bitmime, smtputf8, etrn\n")
        with (self.etc / "main.cf").open("a") as main:
            main.write(f"smtpd_discard_ehlo_keyword_address_maps = cidr:{self.etc}/discard\n")


@pytest.fixture(scope="module")
def two_faced():
    yield from running(TwoFacedPostfix)


def test_a_client_that_postfix_offers_less_is_put_off_and_then_told(two_faced, shield):
    front = shield(
        two_faced.proxy_port, {"delays": NO_DELAYS, "downstream": {"identity": "proxy_v2"}})
    front.wait_for_keyword("DSN")
    full = "BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=17"
    with front.dialogue("127.0.77.1") as poor, front.dialogue("127.0.78.1") as rich:
        assert "DSN" in " ".join(poor.greet().lines)
        rich.greet()
        poor.command("MAIL FROM:<a@client.example> BODY=8BITMIME", 455, "4.3.3")
        poor.command("MAIL FROM:<a@client.example>", 250)
        poor.command("RCPT TO:<b@example.com> NOTIFY=SUCCESS", 455, "4.3.3")
        poor.command("RCPT TO:<b@example.com>", 250)
        # What the one heard is nothing to the other.
        rich.command(f"MAIL FROM:<a@client.example> {full}", 250)
        rich.command("RCPT TO:<b@example.com> NOTIFY=NEVER", 250)
    front.program.wait_for(r"DOWNSTREAM UNLIKE for \[127\.0\.77\.1\]")
    with front.dialogue("127.0.77.2") as poor:
        keywords = " ".join(poor.greet().lines)
        assert "DSN" not in keywords and "8BITMIME" not in keywords
        assert poor.deliver().code == 250
    with front.dialogue("127.0.78.2") as rich:
        assert "SMTPUTF8" in " ".join(rich.greet().lines)
        rich.command(f"MAIL FROM:<a@client.example> {full}", 250)


class SendingPostfix(Postfix):
    """Sends everything on to one place, as a client of its own."""

    NETWORKS = "127.0.0.0/8"

    def __init__(self, port):
        super().__init__()
        main = (self.etc / "main.cf").read_text()
        (self.etc / "main.cf").write_text(
            main.replace("virtual_mailbox_domains = example.com", "virtual_mailbox_domains =")
            + f"relayhost = [127.0.0.1]:{port}\nsmtp_bind_address = 127.0.77.3\n"
            "queue_run_delay = 2s\nminimal_backoff_time = 2s\nmaximal_backoff_time = 2s\n")


def test_postfix_gets_its_mail_through_although_it_is_offered_less_than_others(two_faced, shield):
    """A Postfix on both sides: a message with a wish for a report is not returned, but sent again without it."""
    front = shield(
        two_faced.proxy_port, {"delays": NO_DELAYS, "downstream": {"identity": "proxy_v2"}})
    front.wait_for_keyword("DSN")
    with contextlib.contextmanager(running)(SendingPostfix, front.port) as one:
        with smtplib.SMTP("127.0.0.1", one.port) as client:
            client.ehlo()
            client.sendmail("a@client.example", ["b@example.com"], b"Subject: report\r\n\r\nhello\r\n",
                            mail_options=["RET=HDRS"], rcpt_options=["NOTIFY=SUCCESS,FAILURE"])
        wait_until(lambda: re.search("status=(sent|bounced)", one.log), 60, "what became of the message")
        found = re.findall(r"to=<b@example\.com>.* dsn=([\d.]+), status=(\w+)", one.log)
    assert found == [("4.3.3", "deferred"), ("2.0.0", "sent")], (one.log[-1500:], front.log[-1500:])
