# SPDX-License-Identifier: Apache-2.0
"""One parser decides where a line and a message end; whatever is strange is refused, never passed on."""

import time

import pytest

from harness import NO_DELAYS, Closed, in_parallel, stuffed

VECTORS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "LF.CR": b"\n.\r",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "LFCR.LFCR": b"\n\r.\n\r",
}

SMUGGLED = (
    b"MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n"
)


def drain(client, seconds=5.0):
    """All replies until nothing more comes for a while or the server closes."""
    codes = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            codes.append(client.reply(0.4).code)
        except (Closed, ConnectionError):
            codes.append("closed")
            return codes
        except AssertionError:
            return codes
    return codes


def splits(prefix, vector, rest):
    """The same bytes in one piece, cut at every place in the vector, and byte by byte around it."""
    yield [prefix + vector + rest]
    for at in range(len(vector) + 1):
        yield [prefix + vector[:at], vector[at:] + rest]
    yield [prefix, *[bytes([byte]) for byte in vector], rest]


@pytest.mark.parametrize("mode", ["reject", "normalize"])
@pytest.mark.parametrize("name", VECTORS)
def test_no_message_hides_behind(sink, shield, name, mode):
    vector = VECTORS[name]
    box = sink()
    front = shield(box, {"smtp": {"bare_newline": mode}, "delays": NO_DELAYS})
    bare = vector.replace(b"\r\n", b"")

    def attempt(pieces):
        with front.dialogue() as client:
            client.greet()
            client.open_data()
            try:
                client.pieces(pieces)
            except ConnectionError:
                return
            codes = drain(client, 2.0)
            if mode == "reject" and (b"\r" in bare or b"\n" in bare):
                assert 250 not in codes, (pieces, codes)
                assert codes and codes[0] in (521, 550, 554, 500, "closed"), (pieces, codes)
            # Never a second dialogue: one answer for one message.
            assert codes.count(250) <= 1 and 354 not in codes, (pieces, codes)

    attempts = splits(b"Subject: carrier\r\n\r\ncarrier", vector, SMUGGLED + b".\r\n")
    in_parallel(*[lambda pieces=pieces: attempt(pieces) for pieces in attempts])
    for envelope, body in box.messages():
        assert "smuggled" not in "".join(envelope), envelope
        assert b"carrier" in body
    counts = box.counts()
    # What the downstream saw was clean, whatever we were sent.
    assert counts["bare_lf"] == 0 and counts["bare_cr"] == 0, counts
    assert len({tuple(envelope) for envelope, _ in box.messages()}) <= 1


def test_normalize_turns_a_bare_lf_into_crlf_and_keeps_dots_harmless(sink, shield):
    box = sink()
    front = shield(box, {"smtp": {"bare_newline": "normalize"}, "delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        client.open_data()
        client.send(b"Subject: x\n\none\ntwo\r\n.\r\n")
        client.expect(250)
    assert box.messages()[0][1] == b"Subject: x\r\n\r\none\r\ntwo\r\n"


def test_as_shipped_a_bare_lf_ends_a_line_and_changes_no_text(sink, shield):
    box = sink()
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        client.send(b"MAIL FROM:<a@client.example>\n")
        client.expect(250)
        client.send(b"RCPT TO:<b@example.com>\n")
        client.expect(250)
        client.send(b"DATA\n")
        client.expect(354)
        client.send(b"Subject: x\n\n..stuffed\n...twice\n.not stuffed\n..\n.\n.\r\nlast\r\n.\r\n")
        client.expect(250)
    text = b"Subject: x\r\n\r\n.stuffed\r\n..twice\r\n.not stuffed\r\n.\r\n.\r\n.\r\nlast\r\n"
    assert box.messages()[0][1] == text


def test_with_reject_a_bare_lf_ends_no_command(recorder, shield):
    back = recorder()
    front = shield(back, {"smtp": {"bare_newline": "reject"}, "delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        client.send(b"MAIL FROM:<a@client.example>\nRCPT TO:<b@example.com>\nDATA\n")
        codes = drain(client, 2)
        assert 354 not in codes and 250 not in codes, codes
    assert b"RCPT" not in back.bytes
    with front.dialogue() as client:
        client.greet()
        client.send(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b\rc@example.com>\r\n")
        codes = drain(client, 2)
        assert codes[0] == 250 and (len(codes) < 2 or codes[1] == "closed" or codes[1] >= 500), codes


def test_a_body_sent_before_354_is_refused_and_ends_the_session(sink, shield):
    box = sink()
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue("127.1.80.1") as client:
        client.greet()
        client.envelope()
        client.send(b"DATA\r\nSubject: early\r\n\r\nearly\r\n.\r\n")
        codes = drain(client, 3)
        assert 250 not in codes and codes[0] in (354, 421, 503, 521, 554, "closed"), codes
    assert box.messages() == []


@pytest.mark.parametrize(
    "line",
    [b"MAIL FROM:<a\0b@client.example>\r\n", b"NOOP \0\r\n", b"NOOP \x01\x02\r\n", b"\x80\x81\x82\xff\r\n",
     b"MAIL FROM:<\xff\xfe@client.example>\r\n", b"RCPT TO:<b@example.com>\x00\r\n", b"NO\0OP\r\n"],
    ids=["NUL in a path", "NUL", "control", "8 bit alone", "8 bit in a path", "NUL at the end", "NUL in a verb"],
)
def test_control_and_8_bit_octets_in_a_command_are_refused_and_not_passed_on(recorder, shield, line):
    back = recorder()
    front = shield(back, {"delays": NO_DELAYS})
    with front.dialogue("127.1.81.1") as client:
        client.greet()
        client.send(line)
        try:
            reply = client.reply()
            assert 500 <= reply.code < 600 and reply.enhanced.startswith("5."), reply
        except Closed:
            pass
    assert line.strip() not in back.bytes and b"\0" not in back.bytes and b"\xff" not in back.bytes


@pytest.mark.parametrize(
    "name, data, signal",
    [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "non_smtp"),
        ("POST", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nEHLO x\r\n\r\n", "non_smtp"),
        ("a header line", b"Subject: this is no command\r\n", "non_smtp"),
        ("TLS", bytes.fromhex("16030100c8010000c40303") + bytes(range(190)), "tls_hello"),
    ],
    ids=["GET", "POST", "a header line", "TLS"],
)
def test_other_protocols_on_a_mail_port_are_found_and_reach_nobody(recorder, shield, name, data, signal):
    back = recorder()
    front = shield(back, {"delays": NO_DELAYS})
    with front.dialogue("127.1.82.1") as client:
        client.expect(220)
        client.send(data)
        codes = drain(client, 4)
        assert 250 not in codes and 354 not in codes, codes
    front.program.wait_for(signal + "|" + signal.replace("_", "[ -]"), 5)
    assert data[:12] not in back.bytes


def test_every_limit_has_its_reply(sink, shield):
    box = sink("--reject-recipient", "nobody", store=False)
    front = shield(
        box,
        {
            "delays": NO_DELAYS,
            "smtp": {
                "command_bytes": 600, "text_line_bytes": 2000, "recipients": 5, "commands": 40, "errors": 8,
                "unknown_commands": 3,
            },
        },
    )
    with front.dialogue() as client:
        client.greet()
        reply = client.command("NOOP " + "x" * 700)
        assert reply.code == 500 and reply.enhanced.startswith("5.5."), reply
        # It may end the session, since nobody honest says such a thing.
        if not client.still_open(0.2):
            assert client.waiting == b""
        else:
            client.command("NOOP", 250)
    with front.dialogue() as client:
        client.greet()
        client.open_data()
        client.send(b"Subject: x\r\n\r\n" + b"y" * 3000 + b"\r\n.\r\n")
        client.expect(554, "5.6.0")
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        for n in range(5):
            client.command(f"RCPT TO:<b{n}@example.com>", 250)
        client.command("RCPT TO:<b6@example.com>", 452, "4.5.3")
        client.command("DATA", 354)
        client.send("x: y\r\n\r\nz\r\n.\r\n")
        client.expect(250)
    for what, line in (("commands", "NOOP"), ("errors", "RCPT TO:<x@example.com>"), ("unknown", "XYZZY")):
        with front.dialogue() as client:
            client.greet()
            code, count = 0, 0
            while code != 421:
                code = client.command(line).code
                count += 1
                assert count <= 42, f"no limit on {what}"
            assert client.until_closed() == b""
            assert count >= {"commands": 30, "errors": 7, "unknown": 2}[what], (what, count)


def test_an_endless_line_is_refused_and_the_session_lives_or_ends_cleanly(sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        try:
            for _ in range(200):
                client.send(b"x" * 10_000)
            client.send(b"\r\n")
        except ConnectionError:
            pass
        codes = drain(client, 3)
        assert codes and codes[0] in (500, 421, "closed"), codes
        assert 250 not in codes


def test_commands_out_of_order_are_503_and_open_nothing(recorder, shield):
    back = recorder()
    front = shield(back, {
        "delays": NO_DELAYS, "downstream": {"probe_every": "1h"}, "smtp": {"syntax": "strict"}})
    front.wait_for_keyword("8BITMIME")
    before = len(back.received)
    with front.dialogue() as client:
        client.expect(220)
        client.command("MAIL FROM:<a@client.example>", 503, "5.5.1")
        client.command("RCPT TO:<b@example.com>", 503, "5.5.1")
        client.command("DATA", 503, "5.5.1")
        client.hello()
        client.command("RCPT TO:<b@example.com>", 503, "5.5.1")
        client.command("DATA", 503, "5.5.1")
        assert client.command("MAIL FROM: a@b").code in (501, 553)
        assert client.command("MAIL").code == 501
    assert len(back.received) == before
    with front.dialogue() as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("MAIL FROM:<c@client.example>", 503, "5.5.1")
        assert client.command("DATA").code in (503, 554)
        # A new EHLO forgets the transaction.
        client.hello()
        client.command("RCPT TO:<b@example.com>", 503)


@pytest.mark.parametrize(
    "line",
    ["STARTTLS", "AUTH PLAIN AHRlc3QAdGVzdA==", "AUTH LOGIN", "XCLIENT ADDR=127.0.0.1", "XFORWARD NAME=x",
     "ETRN example.com", "BDAT 5 LAST", "BURL imap://x", "TURN", "ATRN", "DEBUG", "WIZ", "XEXCH50 1 2"],
)
def test_inbound_refuses_and_never_passes_on(recorder, shield, line):
    back = recorder(keywords=("PIPELINING", line, "STARTTLS", "AUTH PLAIN LOGIN", "CHUNKING", "XCLIENT ADDR"))
    front = shield(back, {"delays": NO_DELAYS})
    with front.dialogue() as client:
        client.greet()
        reply = client.command(line)
        assert reply.code in (454, 500, 502, 503, 504, 538, 550), reply
        assert reply.enhanced[:2] == f"{reply.code // 100}.", reply
        assert client.deliver().code == 250
    assert line.split()[0].encode() not in back.bytes


def auth_config(**more):
    delays = {key: value for key, value in NO_DELAYS.items() if key != "auth_failure"}
    return {"delays": delays, "tls": {"auth_on_clear": "yes"}, **more}


def test_outbound_passes_auth_with_all_its_challenge_lines(sink, shield):
    box = sink("--auth")
    front = shield(box, auth_config(), role="outbound")
    front.wait_for_keyword("AUTH")
    address = "127.1.90.1"
    for lines in (
        [("AUTH PLAIN AHRlc3QAdGVzdA==", 235)],
        [("AUTH PLAIN", 334), ("AHRlc3QAdGVzdA==", 235)],
        [("AUTH LOGIN", 334), ("dGVzdA==", 334), ("dGVzdA==", 235)],
        [("AUTH LOGIN dGVzdA==", 334), ("dGVzdA==", 235)],
        [("AUTH LOGIN", 334), ("*", 501)],
    ):
        with front.dialogue(address) as client:
            client.greet()
            for line, code in lines:
                client.command(line, code)
            assert client.deliver().code == 250
            client.command("QUIT", 221)
    # The password stays out of the log.
    assert "AHRlc3QAdGVzdA" not in front.log and "dGVzdA==" not in front.log


def test_outbound_counts_and_slows_failed_log_ins(sink, shield):
    box = sink("--auth", store=False)
    front = shield(box, auth_config(smtp={"auth_failures": 3}), role="outbound")
    front.wait_for_keyword("AUTH")
    with front.dialogue("127.1.91.1") as client:
        client.greet()
        took = []
        for _ in range(2):
            took.append(client.command("AUTH PLAIN AHRlc3QAd3Jvbmc=", 535, "5.7.8").took)
        # 1 s a failure for T1; more once it has become suspicious by it.
        assert took[0] >= 0.9 and took[1] >= 1.8, took
        last = client.command("AUTH PLAIN AHRlc3QAd3Jvbmc=")
        assert last.code in (421, 535), last
        if last.code == 535:
            client.expect(421, "4.7.0")
        client.until_closed()
    front.program.wait_for("auth_failure")


@pytest.mark.parametrize("line", ["AUTH PLAIN  {}", "AUTH PLAIN {} x", "AUTH PLAIN\n{} ", "AUTH PLAIN\nx {}"])
def test_outbound_log_in_of_another_form_is_refused_here(sink, shield, line):
    box = sink("--auth", store=False)
    front = shield(box, auth_config(delays=NO_DELAYS), role="outbound")
    front.wait_for_keyword("AUTH")
    with front.dialogue("127.1.93.1") as client:
        client.greet()
        *first, last = line.format("AHRlc3QAdGVzdA==").split("\n")
        for word in first:
            client.command(word, 334)
        client.command(last, 501, "5.5.2")
        # The exchange has ended on both sides: what follows is a command again.
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RSET", 250)
        client.command("AUTH PLAIN AHRlc3QAdGVzdA==", 235)


def test_outbound_passes_long_lines_of_auth_whole(recorder, shield):
    """An OAuth token at once and as an answer: RFC 4954, 4 asks for 12,288 octets."""
    back = recorder(
        keywords=("PIPELINING", "AUTH XOAUTH2"),
        replies=((b"AUTH XOAUTH2 ", b"535 5.7.8 No"), (b"AUTH", b"334 "), (b"A", b"535 5.7.8 No"), (b"*", b"501 Off")),
    )
    front = shield(back, auth_config(delays=NO_DELAYS), role="outbound")
    front.wait_for_keyword("AUTH")
    token = "A" * 12_000
    with front.dialogue("127.1.94.1") as client:
        client.greet()
        client.command("AUTH XOAUTH2 " + token, 535)
        client.command("AUTH XOAUTH2", 334)
        client.command(token, 535)
        client.command("AUTH XOAUTH2", 334)
        client.command("A" * 20_000, 500, "5.5.6")
        client.command("MAIL FROM:<a@client.example>", 250)
    wire = back.bytes
    assert b"AUTH XOAUTH2 " + token.encode() + b"\r\n" in wire
    assert b"AUTH XOAUTH2\r\n" + token.encode() + b"\r\nAUTH XOAUTH2\r\n*\r\nMAIL FROM" in wire


def test_a_user_name_is_counted_over_all_workers(sink, shield):
    """One failure from each of several networks, which have workers of their own: all count."""
    box = sink("--auth", store=False)
    delays = {**NO_DELAYS, "auth_failure": {"clean": "300ms", "suspicious": "300ms", "bad": "300ms"}}
    front = shield(box, auth_config(delays=delays, workers=4), role="outbound")
    front.wait_for_keyword("AUTH")
    took = []
    for number in range(8):
        with front.dialogue(f"127.1.{110 + number}.1") as client:
            client.greet()
            took.append(client.command("AUTH PLAIN AHRlc3QAd3Jvbmc=", 535).took)
    for number, seconds in enumerate(took):
        assert 0.3 * (number + 1) - 0.05 <= seconds < 0.3 * (number + 1) + 0.25, took


def test_a_dialogue_in_the_body_is_only_text(sink, shield):
    box = sink()
    front = shield(box, {"delays": NO_DELAYS})
    body = b"Subject: x\r\n\r\nQUIT\r\nRSET\r\nMAIL FROM:<x@y>\r\nDATA\r\n.\r\n..\r\n.QUIT\r\n"
    with front.dialogue() as client:
        client.greet()
        client.open_data()
        client.send(stuffed(body) + b".\r\n")
        client.expect(250)
        client.command("NOOP", 250)
    [(_, stored)] = box.messages()
    assert stored == body


def test_client_bytes_cannot_write_lines_into_the_log(sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue("127.1.92.1") as client:
        client.expect(220)
        client.send(b"EHLO x\x1b[31mred\x07\x7fFORGED LINE disconnect from trusted\r\n")
        drain(client, 1)
    time.sleep(0.3)
    assert "\x1b" not in front.log and "\x07" not in front.log
