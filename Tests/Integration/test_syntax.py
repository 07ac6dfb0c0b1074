# SPDX-License-Identifier: Apache-2.0
"""What other people's clients say: Sluice takes what Postfix takes, and means the same by it."""

import re

import pytest

from conftest import running
from harness import DIRECT, NO_DELAYS, Dialogue, Postfix, wait_until

# Said to Postfix and to Sluice in front of it. `\t` and `\xNN` are octets.
MAIL = r"""
MAIL FROM:<a@b.example>
mail from:<a@b.example>
MAIL  FROM:<a@b.example>
MAIL\tFROM:<a@b.example>
 MAIL FROM:<a@b.example>
\tMAIL FROM:<a@b.example>
MAIL FROM: <a@b.example>
MAIL FROM:  <a@b.example>
MAIL FROM:\t<a@b.example>
MAIL FROM:  \t <a@b.example>
MAIL FROM :<a@b.example>
MAIL FROM\t:<a@b.example>
MAIL FROM <a@b.example>
MAIL FROM:a@b.example
MAIL FROM: a@b.example
MAIL FROM: a@b.example SIZE=10
MAIL FROM: <a@b.example>  SIZE=10
MAIL FROM:<a@b.example>\tSIZE=10
MAIL FROM:<a@b.example>SIZE=10
MAIL FROM:<a@b.example> \tSIZE=10\t
MAIL FROM:<a@b.example> SIZE
MAIL FROM:<a@b.example> SIZE=
MAIL FROM:<a@b.example> SIZE=0010
MAIL FROM:<a@b.example> SIZE=10 SIZE=10
MAIL FROM:<a@b.example> SIZE=-1
MAIL FROM:<a@b.example> BODY=8bit
MAIL FROM:<a@b.example> BODY=8BITMIME body=8bitmime
MAIL FROM:<a@b.example> BODY=8BITMIME BODY=7BIT
MAIL FROM:<a@b.example> FOO=bar
MAIL FROM:<a@b.example> FOO
MAIL FROM:<a@b.example> ENVID=id=17
MAIL FROM:<a@b.example> ENVID=
MAIL FROM:<a@b.example> ENVID=a+zz
MAIL FROM:<a@b.example> ENVID=a+
MAIL FROM:<a@b.example> ENVID=a ENVID=b
MAIL FROM:<a@b.example> RET=ALL
MAIL FROM:<a@b.example> RET=full RET=hdrs
MAIL FROM:<a@b.example> SMTPUTF8=1
MAIL FROM:<a@b.example> SMTPUTF8 SMTPUTF8
MAIL FROM:<>
MAIL FROM:
MAIL
MAIL a@b.example
MAIL <a@b.example>
MAIL FROM: <>
MAIL FROM:< >
MAIL FROM:<root>
MAIL FROM:root
MAIL FROM:<postmaster>
MAIL FROM:<a@b.example
MAIL FROM:a@b.example>
MAIL FROM:<<a@b.example>>
MAIL FROM:< a@b.example>
MAIL FROM:<a@b.example >
MAIL FROM:< a@b.example >
MAIL FROM:<a@b.example\t>
MAIL FROM:<a @b.example>
MAIL FROM:<a@ b.example>
MAIL FROM:<a b@b.example>
MAIL FROM:<"a b"@b.example>
MAIL FROM:"a b"@b.example
MAIL FROM:"a b"
MAIL FROM:<"a>b"@b.example>
MAIL FROM:<"a\\"b"@b.example>
MAIL FROM:<a\\b@b.example>
MAIL FROM:<a\\ b@b.example>
MAIL FROM:<"a"b@b.example>
MAIL FROM:<a."b".c@b.example>
MAIL FROM:<a@[192.0.2.1]>
MAIL FROM:<a@[IPv6:2001:db8::1]>
MAIL FROM:<a@[foo]>
MAIL FROM:<a@192.0.2.1>
MAIL FROM:<@one.example:a@b.example>
MAIL FROM:<@one.example,@two.example:a@b.example>
MAIL FROM:<@one.example>
MAIL FROM:@one.example:a@b.example
MAIL FROM:<a@b@c.example>
MAIL FROM:<a@>
MAIL FROM:<.a@b.example>
MAIL FROM:<a.@b.example>
MAIL FROM:<a..b@b.example>
MAIL FROM:<a@.b.example>
MAIL FROM:<a@b..example>
MAIL FROM:<a@b.example.>
MAIL FROM:<a@b.example..>
MAIL FROM:<a@-b.example>
MAIL FROM:<a@b_c.example>
MAIL FROM:<a(c)@b.example>
MAIL FROM:<a@b.example> (c)
MAIL FROM:<a@b.example> x y
MAIL FROM:<a@b.example>, <c@d.example>
MAIL FROM:<a@b.example>,<c@d.example>
MAIL FROM:<a@b.example,c@d.example>
MAIL FROM:<a@b.example> <c@d.example>
MAIL FROM:Name <a@b.example>
MAIL FROM:"Name" <a@b.example>
MAIL FROM:Name<a@b.example>
MAIL FROM:<a@b.example> Name
MAIL FROM:<mailto:a@b.example>
MAIL FROM:mailto:a@b.example
MAIL FROM:<a;b@b.example>
MAIL FROM:<a:b@b.example>
MAIL FROM:<a,b@b.example>
MAIL FROM:a,b@b.example
MAIL FROM:<a<b@b.example>
MAIL FROM:<a!b@b.example>
MAIL FROM:<a%b@b.example>
MAIL FROM:<a[b@b.example>
MAIL FROM:<m\xfcller@b.example>
MAIL FROM:<m\xc3\xbcller@b.example>
MAIL FROM:<a@m\xc3\xbcller.example>
MAIL FROM:m\xc3\xbcller@b.example
MAIL FROM:<m\xfcller@b.example> SMTPUTF8
MAIL FROM:<m\xc3\xbcller@b.example> SMTPUTF8
MAIL FROM:<a\x01b@b.example>
MAIL FROM:<a\tb@b.example>
MAIL FROM:<a\x7fb@b.example>
MAIL FROM:<a@b.example>\x01
MAIL FROM:''
MAIL FROM:'a@b.example'
"""

RCPT = r"""
RCPT TO:<x@example.com>
RCPT TO: <x@example.com>
RCPT TO:  <x@example.com>
RCPT TO:\t<x@example.com>
RCPT TO :<x@example.com>
RCPT TO <x@example.com>
RCPT TO:x@example.com
RCPT  TO:x@example.com
RCPT\tTO:x@example.com
RCPT TO:x@example.com NOTIFY=NEVER
RCPT TO:<root>
RCPT TO:root
RCPT TO:<postmaster>
RCPT TO:postmaster
RCPT TO:<"postmaster">
RCPT TO:<>
RCPT TO:
RCPT TO:<@>
RCPT TO:Name <x@example.com>
RCPT TO:"Name" <x@example.com>
RCPT TO:<x@example.com> Name
RCPT TO:< x@example.com >
RCPT TO:<x@example.com>,<y@example.com>
RCPT TO:x@example.com,y@example.com
RCPT TO:<x@example.com,y@example.com>
RCPT TO:x@example.com y@example.com
RCPT TO:<x@example.com> ORCPT=rfc822;SRS0=ab=cd=ef@b.example
RCPT TO:<x@example.com> ORCPT=rfc822;x+zz@b.example
RCPT TO:<x@example.com> ORCPT=rfc822;x+
RCPT TO:<x@example.com> ORCPT=x@example.com
RCPT TO:<x@example.com> ORCPT=
RCPT TO:<x@example.com> ORCPT=rfc822;
RCPT TO:<x@example.com> ORCPT=;x
RCPT TO:<x@example.com> ORCPT=rfc822;a ORCPT=rfc822;b
RCPT TO:<x@example.com> ORCPT=rfc822;a+2Bb@c
RCPT TO:<x@example.com> ORCPT=utf-8;a\\x{fc}@c
RCPT TO:<x@example.com> ORCPT=utf-8;m\xc3\xbcller@c
RCPT TO:<x@example.com> ORCPT=rfc822;m\xfc@c
RCPT TO:<x@example.com> NOTIFY=
RCPT TO:<x@example.com> NOTIFY=NEVER,DELAY
RCPT TO:<x@example.com> NOTIFY=success,failure
RCPT TO:<x@example.com> NOTIFY=SUCCESS,
RCPT TO:<x@example.com> NOTIFY=SUCCESS,SUCCESS
RCPT TO:<x@example.com> NOTIFY=FOO
RCPT TO:<x@example.com> NOTIFY=NEVER NOTIFY=DELAY
RCPT TO:<x@example.com> SIZE=10
RCPT TO:<x@example.com> FOO=bar
RCPT TO:<x@example.com>NOTIFY=NEVER
RCPT TO:<x@example.com>\tNOTIFY=NEVER
RCPT TO:<m\xc3\xbcller@example.com>
RCPT TO:<m\xfcller@example.com>
RCPT TO:<@one.example:x@example.com>
RCPT TO:<@one.example,@two.example:x@example.com>
RCPT TO:@one.example:x@example.com
RCPT TO:<"x y"@example.com>
RCPT TO:"x y"@example.com
RCPT TO:<x@example.com
RCPT TO:x@example.com>
RCPT TO:<x%y@example.com>
RCPT TO:<y!x@example.com>
RCPT TO:<x@y@example.com>
RCPT TO:<"x@y"@example.com>
RCPT TO:<x@[127.0.0.1]>
RCPT TO:<x@example.com.>
"""

# What Postfix takes and Sluice does not, and why.
REASONS = {
    "white space inside an address: one word or two?": [
        "MAIL FROM:<a @b.example>", "MAIL FROM:<a@ b.example>"],
    "half a pair of brackets: something was cut off": [
        "MAIL FROM:a@b.example>", "RCPT TO:x@example.com>"],
    "a backslash outside quotes is read in two ways": [
        r"MAIL FROM:<a\\b@b.example>", r"MAIL FROM:<a\\ b@b.example>"],
    "no mailbox: only a route": ["MAIL FROM:<@one.example>"],
    "two domains: servers do not agree on which of them counts, which is how relays are abused": [
        "MAIL FROM:<a@b@c.example>", "RCPT TO:<x@y@example.com>"],
    "a comment would have to be cut out of the address": ["MAIL FROM:<a(c)@b.example>"],
    "a word right before the bracket would have to be thrown away": ["MAIL FROM:Name<a@b.example>"],
    "a colon: a route, a URL or a group": [
        "MAIL FROM:<mailto:a@b.example>", "MAIL FROM:mailto:a@b.example", "MAIL FROM:<a:b@b.example>"],
    "the two values differ: which of them?": ["MAIL FROM:<a@b.example> BODY=8BITMIME BODY=7BIT"],
    "no control octet but TAB between two words": [
        r"MAIL FROM:<a\x01b@b.example>", r"MAIL FROM:<a\x7fb@b.example>"],
}
EXCEPTIONS = {line: reason for reason, lines in REASONS.items() for line in lines}


class Echo(Postfix):
    """Refuses each address for now, and says which one it understood."""

    def __init__(self):
        super().__init__()
        (self.etc / "senders").write_text(
            "/^sender@probe\\.example$/ DUNNO\n/^(.*)$/ 450 heard <$1>\n")
        (self.etc / "recipients").write_text("/^(.*)$/ 450 heard <$1>\n")
        with (self.etc / "main.cf").open("a") as file:
            file.write(f"""\
smtpd_delay_reject = no
smtpd_relay_restrictions =
smtpd_sender_restrictions = check_sender_access regexp:{self.etc}/senders
smtpd_recipient_restrictions = check_recipient_access regexp:{self.etc}/recipients, reject
""")


@pytest.fixture(scope="module")
def echo():
    yield from running(Echo)


@pytest.fixture
def front(echo, shield):
    return shield(
        echo.proxy_port,
        {"downstream": {"identity": "proxy_v2"}, "delays": NO_DELAYS,
         "smtp": {"unknown_commands": 1000}})


def octets(line):
    return line.encode().decode("unicode_escape").encode("latin-1")


def lines(table):
    return [line for line in table.split("\n") if line]


def answer(port, line, behind):
    """The last line of the reply to a command behind those others, in a session of its own."""
    with Dialogue(port) as client:
        client.reply()
        for command in behind:
            client.command(command, 250)
        client.send(octets(line) + b"\r\n")
        # Octets beyond ASCII in a reply are for clients that said SMTPUTF8; to others they may be a question mark.
        return re.sub("[^\x20-\x7e]", "?", client.reply().raw.decode("latin-1").splitlines()[-1])


@pytest.mark.skipif(DIRECT, reason="there is no shield to compare with")
@pytest.mark.parametrize(
    "table,behind",
    [(MAIL, ["EHLO c.example"]), (RCPT, ["EHLO c.example", "MAIL FROM:<sender@probe.example>"])],
    ids=["MAIL", "RCPT"])
def test_what_postfix_takes_is_taken_and_is_the_same_address(echo, front, table, behind):
    wrong = []
    for line in lines(table):
        alone = answer(echo.port, line, behind)
        shielded = answer(front.port, line, behind)
        is_taken = "heard <" in alone or alone.startswith("250")  # postmaster is never refused
        if line in EXCEPTIONS:
            good = is_taken and shielded.startswith("5")
        elif is_taken:
            good = shielded == alone
        else:
            # Sluice makes nothing acceptable that is not.
            good = shielded.startswith("5")
        if not good:
            wrong.append((line, alone, shielded))
    assert not wrong, "\n".join(map(str, wrong))


def test_each_exception_is_one_of_the_lines_that_are_tried():
    assert set(EXCEPTIONS) <= set(lines(MAIL) + lines(RCPT))


HELO = r"""
EHLO two words
EHLO m\xc3\xbcller.example
HELO <a@b>
HELO a\tb
EHLO\tclient.example
 EHLO client.example
HELO [
HELO a=b
"""


@pytest.mark.skipif(DIRECT, reason="there is no shield to compare with")
def test_mail_is_taken_whatever_the_client_calls_itself_or_if_it_does_not(postfix, shield):
    front = shield(
        postfix.proxy_port, {"downstream": {"identity": "proxy_v2"}, "delays": NO_DELAYS})
    # None: MAIL comes first.
    for greeting in [None, *lines(HELO)]:
        for port in (postfix.port, front.port):
            with Dialogue(port) as client:
                client.reply()
                if greeting:
                    client.send(octets(greeting) + b"\r\n")
                    assert client.reply().code == 250, (port, greeting)
                client.command("MAIL FROM:<a@b.example>", 250)
                client.command("RCPT TO:<box@example.com>", 250)
    # A name that is none is not passed on; the address is, which is true.
    with Dialogue(front.port) as client:
        client.reply()
        client.command("EHLO two words")
        client.command("MAIL FROM:<a@b.example>")
        client.command("RCPT TO:<nobody@example.com>")
    # Postfix's logger writes a moment after its reply.
    wait_until(
        lambda: re.search(r"reject: RCPT from .*helo=<\[127\.0\.0\.1\]>", postfix.log), 10,
        "the refused recipient in Postfix's log")
