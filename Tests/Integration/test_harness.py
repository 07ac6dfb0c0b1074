# SPDX-License-Identifier: Apache-2.0
"""The receivers and clients of these tests keep their own promises: without that the others prove nothing."""

import socket
import time

import pytest

from harness import Closed, Dialogue, stuffed

MESSAGE = b"Subject: x\r\n\r\n.a line\r\n..two\r\nplain\r\n"


def test_sink_stores_the_message_unstuffed_with_its_envelope(sink):
    box = sink()
    with Dialogue(box.port) as client:
        client.greet()
        assert client.deliver(MESSAGE).code == 250
        client.command("QUIT", 221)
    [(envelope, body)] = box.messages()
    assert body == MESSAGE
    assert envelope == ["MAIL FROM:<a@client.example>", "RCPT TO:<b@example.com>"]
    counts = box.stop()
    assert counts["messages"] == 1 and counts["bytes"] == len(MESSAGE)
    assert counts["bare_lf"] == 0 and counts["bare_cr"] == 0


def test_sink_gives_the_same_for_any_split(sink):
    box = sink()
    wire = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + stuffed(MESSAGE) + b".\r\nQUIT\r\n"
    for size in (1, 2, 3, 7, len(wire)):
        with Dialogue(box.port) as client:
            client.expect(220)
            client.pieces([wire[at : at + size] for at in range(0, len(wire), size)], pause=0)
            codes = [client.reply().code for _ in range(6)]
            assert codes == [250, 250, 250, 354, 250, 221]
            assert client.until_closed() == b""
    assert [body for _, body in box.messages()] == [MESSAGE] * 5


@pytest.mark.parametrize(
    "vector", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\r\n\0.\r\n"]
)
def test_sink_ends_a_message_at_crlf_dot_crlf_only(sink, vector):
    box = sink()
    with Dialogue(box.port) as client:
        client.greet()
        client.open_data()
        client.send(b"a" + vector + b"MAIL FROM:<smuggled@x>\r\n.\r\n")
        client.expect(250)
        client.command("NOOP", 250)
    [(envelope, body)] = box.messages()
    assert b"smuggled" in body and "smuggled" not in "".join(envelope)
    counts = box.counts()
    assert counts["bare_lf"] == (vector.replace(b"\r\n", b"").count(b"\n"))
    assert counts["bare_cr"] == (vector.replace(b"\r\n", b"").count(b"\r"))


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail", "rcpt", "data", "body", "dot", "after-dot", "quit"])
def test_sink_dies_where_it_is_told_to(sink, stage, by):
    box = sink("--die-at", stage, "--die-by", by)
    reached = []
    with pytest.raises((Closed, ConnectionError)), Dialogue(box.port) as client:
        client.expect(220)
        for name, line, code in (
            ("ehlo", "EHLO x", 250),
            ("mail", "MAIL FROM:<a@b>", 250),
            ("rcpt", "RCPT TO:<c@d>", 250),
            ("data", "DATA", 354),
            ("dot", "text\r\n.", 250),
            ("quit", "QUIT", 221),
        ):
            reached.append(name)
            client.command(line, code)
        client.reply()
    assert reached[-1:] == {"banner": [], "body": ["dot"], "after-dot": ["dot"]}.get(stage, [stage])
    stored = 1 if stage in ("after-dot", "quit") else 0
    assert len(box.messages()) == stored and box.stop()["messages"] == stored


def test_sink_stalls_delays_and_garbles(sink):
    box = sink("--stall-at", "rcpt", "--delay-reply", "mail=0.5", "--garbage-at", "data")
    with Dialogue(box.port) as client:
        client.greet()
        assert 0.45 < client.command("MAIL FROM:<a@b>", 250).took < 0.8
        with pytest.raises(AssertionError, match="no reply within"):
            client.command("RCPT TO:<c@d>", 250, timeout=0.5)
        assert client.still_open()
    other = sink("--garbage-at", "mail", "--fault-times", "1")
    with Dialogue(other.port) as client:
        client.greet()
        client.send("MAIL FROM:<a@b>\r\n")
        assert b"garbage" in client.receive(2)
        client.command("MAIL FROM:<a@b>", 250)


def test_sink_takes_a_log_in(sink):
    box = sink("--auth")
    with Dialogue(box.port) as client:
        assert "AUTH PLAIN LOGIN" in client.greet().lines
        client.command("AUTH PLAIN AHRlc3QAd3Jvbmc=", 535, "5.7.8")
        client.command("AUTH PLAIN", 334)
        client.command("AHRlc3QAdGVzdA==", 235)
        client.command("AUTH LOGIN", 334)
        client.command("dGVzdA==", 334)
        client.command("dGVzdA==", 235)


def test_sink_answers_and_refuses_as_told(sink):
    box = sink("--reject-recipient", "nobody", "--answer", r"mail=250-2.1.0 first\n250 2.1.0 second")
    with Dialogue(box.port) as client:
        client.greet()
        assert client.command("MAIL FROM:<a@b>", 250).lines == ["2.1.0 first", "2.1.0 second"]
        client.command("RCPT TO:<nobody@b>", 550, "5.1.1")
        client.command("DATA", 554)


def test_sink_reads_proxy_headers_of_both_versions(sink):
    box = sink("--proxy", "--log-peer")
    with Dialogue(box.port) as client:
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 25\r\n")
        client.greet()
    with Dialogue(box.port) as client:
        head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11, 0, 12])
        addresses = socket.inet_aton("192.0.2.9") + socket.inet_aton("192.0.2.8") + b"\x04\xd3\x00\x19"
        client.pieces([head[:5], head[5:], addresses])
        client.greet()
    box.program.wait_for(r"proxied 192\.0\.2\.7:1234")
    box.program.wait_for(r"proxied 192\.0\.2\.9:1235")


def test_sink_bears_garbage_and_many_clients(sink):
    box = sink(store=False)
    clients = [Dialogue(box.port, f"127.0.0.{1 + n % 200}") for n in range(500)]
    for n, client in enumerate(clients):
        client.send(bytes((n * 7 + i * 13) % 256 for i in range(200)))
    for client in clients[::2]:
        client.reset()
    with Dialogue(box.port) as client:
        client.greet()
        assert client.deliver().code == 250
    for client in clients:
        client.close()
    assert box.stop()["messages"] == 1


def test_dialogue_knows_when_each_byte_came():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Dialogue(listener.getsockname()[1], "127.9.9.9") as client:
            peer, address = listener.accept()
            assert address[0] == "127.9.9.9"
            import threading

            def drip():
                for byte in b"220-a\r\n220 b\r\n":
                    peer.sendall(bytes([byte]))
                    time.sleep(0.02)

            threading.Thread(target=drip, daemon=True).start()
            reply = client.expect(220)
            assert reply.lines == ["a", "b"] and len(reply.arrivals) >= 10
            peer.close()
            assert client.until_closed() == b""
