# SPDX-License-Identifier: Apache-2.0
"""Honest mail arrives: all of it, once, byte for byte."""

import hashlib
import random
import re
import smtplib
import subprocess
import threading

import pytest

from conftest import need
from harness import NO_DELAYS, Dialogue, in_parallel, smtp_source, wait_until

BUSY = {"workers": 2, "limits": {"sessions": 2000, "downstream_connections": 500}}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def letter(number, size=None, rng=None):
    """A message unlike any other, with all that tends to break: dots, long lines, 8-bit, empty lines."""
    rng = rng or random.Random(number)
    lines = [f"Subject: letter {number}", f"Message-ID: <{number}@client.example>", ""]
    goal = size or rng.randint(200, 6_000)
    length = 0
    while length < goal:
        lines.append(
            rng.choice(
                [".", "..", ". dot", ".." + "x" * rng.randint(0, 40), "", "-- ", "From here",
                 "y" * rng.randint(1, 990), "caf\u00e9 \u20ac", "\t tab ", " " * rng.randint(1, 5)]
            )
        )
        length += len(lines[-1]) + 2
    return ("\r\n".join(lines) + "\r\nend\r\n").encode()


@pytest.mark.parametrize("reuse", [False, True], ids=["a connection each", "connections reused"])
def test_2000_messages_of_1_kb_by_50_sessions_all_arrive_once(sink, shield, reuse):
    need("smtp-source")
    box = sink(store=False)
    front = shield(box, BUSY)
    smtp_source(front.port, 2000, 1024, reuse=reuse)
    counts = box.counts()
    assert counts["messages"] == 2000
    assert counts["bare_lf"] == 0 and counts["bare_cr"] == 0


@pytest.mark.parametrize("reuse", [False, True], ids=["a connection each", "connections reused"])
def test_messages_of_100_kb_all_arrive_once(sink, shield, reuse):
    need("smtp-source")
    box = sink(store=False)
    front = shield(box, BUSY)
    smtp_source(front.port, 500, 102_400, reuse=reuse)
    counts = box.counts()
    assert counts["messages"] == 500 and counts["bytes"] >= 500 * 102_400


def test_messages_of_5_mb_arrive_byte_for_byte(sink, shield):
    box = sink()
    front = shield(box)
    letters = [letter(n, 5_000_000) for n in range(3)]

    def send(data):
        with smtplib.SMTP("127.0.0.1", front.port, timeout=60) as client:
            client.sendmail("a@client.example", ["b@example.com"], data)

    in_parallel(*[lambda data=data: send(data) for data in letters])
    assert sorted(digest(body) for _, body in box.messages()) == sorted(map(digest, letters))


def test_2000_messages_into_smtp_sink_all_arrive_once(smtp_sink, shield):
    need("smtp-source")
    port, folder = smtp_sink()
    front = shield(port, BUSY)
    smtp_source(front.port, 2000, 1024, extra=["-N"])
    recipients = set()
    files = list(folder.glob("m.*"))
    for path in files:
        recipients.update(re.findall(rb"X-Rcpt-Args: <([^>]+)>", path.read_bytes()))
    assert len(files) == 2000 and len(recipients) == 2000


@pytest.mark.parametrize("reuse", [False, True], ids=["a connection each", "connections reused"])
def test_2000_messages_into_postfix_all_arrive_once(postfix, shield, reuse):
    need("smtp-source")
    before = postfix.count()
    front = shield(postfix, BUSY)
    smtp_source(front.port, 2000, 1024, reuse=reuse)
    wait_until(lambda: postfix.count() >= before + 2000, 60, "delivery of all")
    assert postfix.count() == before + 2000


def test_210_distinct_letters_by_smtplib_arrive_byte_for_byte_at_postfix(postfix, shield):
    front = shield(postfix, BUSY)
    before = set((postfix.box / "new").glob("*"))
    letters = [letter(n) for n in range(210)]

    def send(some):
        with smtplib.SMTP("127.0.0.1", front.port, timeout=60) as client:
            for data in some:
                client.sendmail("a@client.example", ["b@example.com"], data, ["BODY=8BITMIME"])

    front_keywords = front.wait_for_keyword("8BITMIME")
    assert front_keywords
    in_parallel(*[lambda n=n: send(letters[n::7]) for n in range(7)])

    def delivered():
        new = set((postfix.box / "new").glob("*")) - before
        return new if len(new) >= 210 else None

    files = wait_until(delivered, 30, "delivery of all")
    arrived = []
    for path in files:
        # Postfix's own header lines end where ours begin; its maildir lines end in LF.
        text = path.read_bytes()
        arrived.append(digest(text[text.index(b"Subject: letter") :].replace(b"\n", b"\r\n")))
    assert sorted(arrived) == sorted(map(digest, letters))


def test_210_distinct_letters_by_smtplib_arrive_byte_for_byte(sink, shield):
    box = sink()
    front = shield(box, BUSY)
    letters = [letter(n) for n in range(210)]

    def send(some):
        with smtplib.SMTP("127.0.0.1", front.port, timeout=60) as client:
            for data in some:
                client.sendmail("a@client.example", ["b@example.com"], data)

    in_parallel(*[lambda n=n: send(letters[n::7]) for n in range(7)])
    assert sorted(digest(body) for _, body in box.messages()) == sorted(map(digest, letters))


def test_letters_by_swaks_arrive_byte_for_byte(sink, shield, tmp_path):
    need("swaks")
    box = sink()
    front = shield(box)
    letters = [letter(1000 + n) for n in range(24)]
    paths = []
    for number, data in enumerate(letters):
        path = tmp_path / f"letter{number}"
        # swaks puts the CRs in, and takes the last line's end for its own.
        path.write_bytes(data.replace(b"\r\n", b"\n"))
        paths.append(path)

    def send(some):
        for path in some:
            done = subprocess.run(
                ["swaks", "--server", f"127.0.0.1:{front.port}", "--from", "a@client.example", "--to",
                 "b@example.com", "--helo", "swaks.client.example", "--data", f"@{path}", "--timeout", "30"],
                capture_output=True, timeout=60)
            assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-2000:]

    in_parallel(*[lambda n=n: send(paths[n::3]) for n in range(3)])
    arrived = sorted(digest(body.rstrip(b"\r\n")) for _, body in box.messages())
    assert arrived == sorted(digest(data.rstrip(b"\r\n")) for data in letters)


def test_a_pipelined_envelope_gets_its_replies_in_order(sink, shield):
    box = sink("--reject-recipient", "nobody")
    front = shield(box)
    with front.dialogue() as client:
        client.greet()
        for _ in range(20):
            client.send(
                "MAIL FROM:<a@client.example>\r\nRCPT TO:<nobody@example.com>\r\n"
                "RCPT TO:<b@example.com>\r\nRCPT TO:<nobody2@example.com>\r\nDATA\r\n")
            assert [client.reply().code for _ in range(5)] == [250, 550, 250, 550, 354]
            client.send("Subject: x\r\n\r\nhello\r\n.\r\nRSET\r\nNOOP\r\n")
            assert [client.reply().code for _ in range(3)] == [250, 250, 250]
        client.command("QUIT", 221)
        client.until_closed()
    assert box.counts()["messages"] == 20


def test_a_group_that_ends_in_quit_after_the_dot_hears_both_replies(sink, shield):
    box = sink()
    front = shield(box)
    with front.dialogue() as client:
        client.greet()
        client.open_data()
        client.send("Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n")
        import socket

        client.socket.shutdown(socket.SHUT_WR)
        client.expect(250)
        client.expect(221)
        assert client.until_closed() == b""
    assert len(box.messages()) == 1


def test_any_split_of_the_same_bytes_gives_the_downstream_the_same(sink, shield):
    box = sink()
    front = shield(box)
    data = letter(77, 3_000)
    from harness import stuffed

    wire = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\n"
    body = stuffed(data) + b".\r\n"
    for size in (1, 2, 3, 5, 64, 1_000, 100_000):
        with front.dialogue() as client:
            client.greet()
            client.pieces([wire[at : at + size] for at in range(0, len(wire), size)], pause=0)
            client.expect(250)
            client.expect(250)
            client.command("DATA", 354)
            client.pieces([body[at : at + size] for at in range(0, len(body), size)], pause=0)
            client.expect(250)
    assert [digest(stored) for _, stored in box.messages()] == [digest(data)] * 7


def test_8bitmime_smtputf8_and_dsn_parameters_reach_the_downstream_as_they_were(sink, shield):
    box = sink()
    front = shield(box)
    front.wait_for_keyword("DSN")
    mail = "MAIL FROM:<\u00fcser@client.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ1"
    rcpt = "RCPT TO:<\u00e4@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@example.com"
    body = "Subject: \u20ac\r\n\r\ncaf\u00e9\r\n".encode()
    with front.dialogue() as client:
        client.greet()
        client.command(mail, 250)
        client.command(rcpt, 250)
        client.command("DATA", 354)
        client.send(body + b".\r\n")
        client.expect(250)
    [(envelope, stored)] = box.messages()
    assert stored == body
    for word in ("BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=QQ1", "<\u00fcser@client.example>"):
        assert word in envelope[0], envelope
    assert envelope[1].endswith("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@example.com"), envelope


def test_what_the_downstream_offers_and_sluice_carries_is_offered_and_nothing_else(sink, shield):
    strange = ("XCLIENT NAME ADDR", "XFORWARD NAME", "CHUNKING", "BINARYMIME", "ETRN", "BURL imap",
               "PIPECONNECT", "X_PIPE_CONNECT", "STARTTLS", "AUTH PLAIN LOGIN", "XVERP", "DELIVERBY 60",
               "REQUIRETLS", "MT-PRIORITY", "FUTURERELEASE 1 2", "X-UNHEARD-OF", "ATRN", "CHECKPOINT")
    offers = [word for keyword in strange for word in ("--offer", keyword)]
    box = sink(*offers, store=False)
    front = shield(box)
    front.wait_for_keyword("DSN")
    offered = {line.split()[0] for line in front.keywords()}
    assert {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"} <= offered
    # STARTTLS is ours to offer, not the downstream's, and there is no certificate here.
    assert not offered & {word.split()[0] for word in strange}, offered


def test_a_keyword_the_downstream_lacks_is_not_offered_and_its_parameter_refused(sink, shield):
    box = sink("--withhold", "SMTPUTF8", "--withhold", "DSN", store=False)
    front = shield(box)
    front.wait_for_keyword("8BITMIME")
    offered = {line.split()[0] for line in front.keywords()}
    assert not offered & {"SMTPUTF8", "DSN"}
    with front.dialogue() as client:
        client.greet()
        reply = client.command("MAIL FROM:<a@client.example> RET=HDRS")
        assert reply.code in (501, 504, 555) and reply.enhanced.startswith("5."), reply


def test_size_is_the_downstreams_and_held_at_mail_and_in_the_body(sink, shield):
    box = sink()
    front = shield(box, {"smtp": {"message_bytes": 65_536}})
    sizes = [line for line in front.keywords() if line.startswith("SIZE")]
    assert sizes == ["SIZE 65536"]
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example> SIZE=65537", 552, "5.3.4")
        assert client.deliver(b"x" * 500 + b"\r\n").code == 250
        client.open_data()
        client.send(b"y" * 70 + b"\r\n")
        for _ in range(1000):
            client.send(b"y" * 70 + b"\r\n")
        client.send(b".\r\n")
        client.expect(552, "5.3.4")
    assert len(box.messages()) == 1


def test_downstream_replies_keep_code_enhanced_code_lines_and_text(sink, shield):
    box = sink(
        "--answer", r"mail=250 2.1.0 your mail, sir",
        "--answer", r"rcpt=550-5.7.1 We do not\n550-5.7.1 like you:\n550 5.7.1 see https://example.com/why?id=7",
        store=False)
    front = shield(box)
    with front.dialogue() as client:
        client.greet()
        assert client.command("MAIL FROM:<a@client.example>", 250).lines == ["2.1.0 your mail, sir"]
        reply = client.command("RCPT TO:<b@example.com>", 550)
        assert reply.lines == [
            "5.7.1 We do not", "5.7.1 like you:", "5.7.1 see https://example.com/why?id=7"]
    for stage, code, enhanced in (("mail", 451, "4.7.1"), ("data", 554, "5.6.0"), ("dot", 452, "4.3.1")):
        other = sink("--answer", f"{stage}={code} {enhanced} because of {stage}", store=False)
        front = shield(other)
        with front.dialogue() as client:
            client.greet()
            reply = None
            for line in ("MAIL FROM:<a@client.example>", "RCPT TO:<b@example.com>", "DATA", "hi\r\n."):
                reply = client.command(line)
                if reply.code >= 400:
                    break
            assert (reply.code, reply.lines) == (code, [f"{enhanced} because of {stage}"])
            client.command("RSET", 250)
            client.command("NOOP", 250)


def test_postfix_refusals_pass_as_postfix_words_them(postfix, shield):
    front = shield(postfix)
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        reply = client.command("RCPT TO:<nobody@example.com>", 550, "5.1.1")
        assert "no such user, says Postfix" in reply.lines[-1]
        reply = client.command("RCPT TO:<b@elsewhere.example>", 554, "5.7.1")
        assert "Relay access denied" in reply.lines[-1]
        client.command("RCPT TO:<b@example.com>", 250)
        client.command("QUIT", 221)


@pytest.mark.parametrize("identity", ["proxy_v1", "proxy_v2"])
def test_postfix_learns_the_true_client_by(postfix, shield, identity):
    client_address = {"proxy_v1": "127.0.71.9", "proxy_v2": "127.0.72.9"}[identity]
    front = shield(postfix.proxy_port, {"downstream": {"identity": identity}})
    with front.dialogue(client_address) as client:
        client.greet()
        assert client.deliver().code == 250
        client.command("QUIT", 221)
    wait_until(lambda: f"connect from unknown[{client_address}]" in postfix.log, 5, "the client in the log")
    # It must not be able to relay as the proxy could.
    with front.dialogue(client_address) as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RCPT TO:<b@elsewhere.example>", 554)


def test_a_known_good_sender_is_remembered_after_its_first_message(sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": {"banner": {"clean": "2s"}}})
    with front.dialogue("127.1.9.1") as client:
        assert 1.8 < client.expect(220).at < 2.5
        client.hello()
        assert client.deliver().code == 250
        client.command("QUIT", 221)
    with front.dialogue("127.1.9.1") as client:
        assert client.expect(220).at < 0.3


def test_commands_that_need_no_downstream_are_answered_here(recorder, shield):
    back = recorder()
    front = shield(back, {"downstream": {"probe_every": "1h"}, "delays": NO_DELAYS})
    front.wait_for_keyword("8BITMIME")
    before = len(back.received)
    with front.dialogue() as client:
        client.expect(220)
        client.command("HELO h.client.example", 250)
        client.command("NOOP", 250)
        client.command("NOOP with words", 250)
        client.command("RSET", 250)
        client.command("VRFY postmaster", 252)
        client.command("EXPN list", 502)
        client.command("HELP", 214)
        client.command("QUIT", 221)
        assert client.until_closed() == b""
    assert len(back.received) == before, "the downstream was opened for nothing"
