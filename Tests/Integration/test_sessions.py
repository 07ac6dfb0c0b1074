# SPDX-License-Identifier: Apache-2.0
"""What a session keeps: its log-in and its transaction, through greetings, silence and refusals."""

import contextlib
import os
import socket

import pytest

from conftest import running
from harness import DIRECT, NO_DELAYS, Postfix, serve_each, wait_until

pytestmark = pytest.mark.skipif(DIRECT, reason="this is about what stands between client and server")


class Users:
    """Answers Postfix's questions about passwords, in the words of Dovecot's authentication protocol: one user, ann."""

    GREETING = b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n"
    # \0ann\0secret
    SECRET = "AGFubgBzZWNyZXQ="

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        os.chmod(path, 0o666)
        self.listener.listen(16)
        serve_each(self.listener, self._talk)

    def _talk(self, peer):
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as stream:
            peer.sendall(self.GREETING)
            for line in stream:
                words = line.decode().rstrip("\n").split("\t")
                if words[0] == "AUTH":
                    word = "OK" if f"resp={self.SECRET}" in words else "FAIL"
                    peer.sendall(f"{word}\t{words[1]}\tuser=ann\n".encode())

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class LoginPostfix(Postfix):
    """Takes mail of those who have logged in and of nobody else, wherever it goes."""

    def __init__(self):
        super().__init__()
        self.users = Users(self.folder / "users")
        with (self.etc / "main.cf").open("a") as main:
            main.write(
                f"""\
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {self.folder}/users
smtpd_relay_restrictions = permit_sasl_authenticated, reject
""")

    def stop(self):
        super().stop()
        self.users.stop()


@pytest.fixture(scope="module")
def login_postfix():
    yield from running(LoginPostfix)


@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
def test_a_log_in_at_postfix_outlives_a_second_greeting_and_its_transaction_does_not(login_postfix, shield, verb):
    front = shield(
        login_postfix.port, {"tls": {"auth_on_clear": True}, "delays": NO_DELAYS}, access="", role="outbound")
    front.wait_for_keyword("AUTH")
    with front.dialogue() as client:
        client.greet()
        client.command(f"AUTH PLAIN {Users.SECRET}", 235)
        client.envelope(recipient="first@elsewhere.example")
        reply = client.command(f"{verb} again-{verb}.client.example", 250)
        assert not any("AUTH" in line for line in reply.lines), reply
        client.command("RCPT TO:<second@elsewhere.example>", 503)
        client.command(f"AUTH PLAIN {Users.SECRET}", 503)
        assert client.deliver(b"Subject: again\r\n\r\nhello\r\n").code == 250
        client.command("NOOP", 250)
        client.command("QUIT", 221)
    # The name that Postfix puts into its trace is the new one.
    wait_until(
        lambda: any(f"from again-{verb}.client.example".encode().lower() in message.lower()
                    for message in login_postfix.messages()), 10, "a trace with the new name")


def test_a_stranger_at_the_same_server_is_refused(login_postfix, shield):
    front = shield(
        login_postfix.port, {"tls": {"auth_on_clear": True}, "delays": NO_DELAYS}, access="", role="outbound")
    front.wait_for_keyword("AUTH")
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RCPT TO:<b@elsewhere.example>", 554)


def test_a_message_to_400_of_whom_350_are_dead_arrives(sink, shield):
    box = sink("--reject-recipient", "nobody")
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        codes = [
            client.command(f"RCPT TO:<{'nobody' if n % 8 else 'user'}{n}@example.com>").code for n in range(400)]
        assert codes.count(550) == 350 and codes.count(250) == 50
        client.command("DATA", 354)
        client.send(b"Subject: to many\r\n\r\nhello\r\n.\r\n")
        client.expect(250)
        # Then it has made too many errors, and hears so.
        client.expect(421, "4.7.0")
    assert len(box.messages()) == 1
