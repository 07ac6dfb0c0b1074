# SPDX-License-Identifier: Apache-2.0
"""The rate table holds: bytes are shaped, counts are limited, each action does what its name says."""

import time

import pytest

from harness import NO_DELAYS, Closed, in_parallel, source, stuffed

BYTES_PER_SECOND = 32 * 1024


def front_with(shield, box, rates, **more):
    return shield(box, {"delays": NO_DELAYS, **more}, rates=rates)


@pytest.mark.alone
def test_a_sender_at_32k_a_second_is_shaped_within_5_percent_over_20_s(sink, shield):
    box = sink()
    front = front_with(
        shield, box,
        "127.1.100.0/24 bytes=32k/s per=/32 over=slow\n127.1.101.0/24 bytes=32k/s per=/24 over=slow\n")
    line = b"z" * 62 + b"\r\n"
    size = BYTES_PER_SECOND * 20
    body = (line * (size // len(line)))[: size - 2 - size % len(line)]
    body = body[: len(body) // len(line) * len(line)]

    def rate(address, share=1.0):
        data = body[: int(len(body) * share) // len(line) * len(line)]
        with front.dialogue(address, timeout=90) as client:
            client.greet()
            client.open_data()
            started = time.monotonic()
            client.send(stuffed(data) + b".\r\n")
            assert client.reply().code == 250
            return len(data) / (time.monotonic() - started)

    def unlimited():
        return rate(source(1, 102))

    alone, one, two, free = in_parallel(
        lambda: rate(source(1, 100)),
        # Two in one /24 share what one would have.
        lambda: rate(source(1, 101, 1), 0.5),
        lambda: rate(source(1, 101, 2), 0.5),
        unlimited,
    )
    # Each sent half of what one would have: both together took as long as the slower of them.
    both = 2 * min(one, two)
    print(f"shaped: {alone:.0f} B/s of {BYTES_PER_SECOND}, shared {one:.0f} + {two:.0f} B/s, free {free:.0f}")
    assert abs(alone / BYTES_PER_SECOND - 1) <= 0.05, alone
    assert abs(both / BYTES_PER_SECOND - 1) <= 0.10, (one, two)
    assert free > 20 * BYTES_PER_SECOND
    assert len(box.messages()) == 4


def outcome(front, address, recipients=1, messages=1):
    """(code, enhanced) of the first refusal, "closed" for a silent end, None when all went well."""
    try:
        with front.dialogue(address, timeout=8) as client:
            for line in [None, f"EHLO {client.name}"]:
                reply = client.reply() if line is None else client.command(line)
                if reply.code >= 400:
                    return reply.code, reply.enhanced
            for message in range(messages):
                lines = ["MAIL FROM:<a@client.example>"]
                lines += [f"RCPT TO:<b{n}@example.com>" for n in range(recipients)]
                for line in [*lines, "DATA", f"m: {message}\r\n\r\nx\r\n."]:
                    reply = client.command(line)
                    if reply.code >= 400:
                        return reply.code, reply.enhanced
            client.command("QUIT", 221)
    except (Closed, ConnectionError):
        return "closed", ""
    return None


def held_to(over, result):
    if over == "tempfail":
        return result and result[0] != "closed" and 400 <= result[0] < 500 and result[1].startswith("4.")
    if over == "refuse":
        return result and result[0] != "closed" and 500 <= result[0] < 600 and result[1].startswith("5.")
    return result and result[0] == "closed"


@pytest.mark.parametrize("over", ["tempfail", "refuse", "drop"])
def test_connections_messages_and_recipients_over_the_limit_are(sink, shield, over):
    box = sink(store=False)
    front = front_with(
        shield, box,
        f"127.1.110.0/24 conn=3/h per=/32 over={over}\n"
        f"127.1.111.0/24 msgs=3/h per=/32 over={over}\n"
        f"127.1.112.0/24 rcpt=3/h per=/32 over={over}\n"
        f"127.1.113.0/24 conn=3/h per=/24 over={over}\n")
    one = source(1, 110)
    results = [outcome(front, one) for _ in range(4)]
    assert results[:3] == [None] * 3 and held_to(over, results[3]), ("conn", results)
    assert outcome(front, source(1, 110, 2)) is None, "per=/32: a neighbour has a bucket of its own"

    assert outcome(front, source(1, 111), messages=3) is None
    assert held_to(over, outcome(front, source(1, 111), messages=1)), "msgs"

    assert outcome(front, source(1, 112), recipients=3) is None
    assert held_to(over, outcome(front, source(1, 112), recipients=1)), "rcpt"

    for host in (1, 2, 3):
        assert outcome(front, source(1, 113, host)) is None
    assert held_to(over, outcome(front, source(1, 113, 4))), "per=/24: neighbours share a bucket"


@pytest.mark.parametrize("over", ["tempfail", "refuse", "drop"])
def test_concurrent_sessions_over_the_limit_are(sink, shield, over):
    box = sink(store=False)
    front = front_with(shield, box, f"127.1.120.0/24 concurrency=2 per=/32 over={over}\n")
    address = source(1, 120)
    with front.dialogue(address) as one, front.dialogue(address) as two:
        one.greet()
        two.greet()
        assert held_to(over, outcome(front, address))
        assert outcome(front, source(1, 120, 2)) is None
        one.command("QUIT", 221)
        one.until_closed()
        time.sleep(0.3)
        assert outcome(front, address) is None, "a place that was left is free again"


def test_over_slow_puts_off_but_lets_all_through(sink, shield):
    box = sink(store=False)
    front = front_with(
        shield, box,
        "127.1.130.0/24 conn=30/min burst=1 per=/32 over=slow\n"
        "127.1.131.0/24 msgs=30/min burst=1 per=/32 over=slow\n"
        "127.1.132.0/24 rcpt=60/min burst=1 per=/32 over=slow\n")

    def took(job):
        started = time.monotonic()
        assert job() is None
        return time.monotonic() - started

    def connections():
        # Both together, so that a machine that dawdles over the first does not refill the bucket unseen.
        return took(lambda: outcome(front, source(1, 130)) or outcome(front, source(1, 130)))

    conn, msgs, rcpt = in_parallel(
        connections,
        lambda: took(lambda: outcome(front, source(1, 131), messages=3)),
        lambda: took(lambda: outcome(front, source(1, 132), recipients=4)),
    )
    assert conn >= 1.5, conn
    assert msgs >= 3.0, msgs
    assert rcpt >= 2.0, rcpt


def test_a_rule_gives_a_class_and_a_delay(sink, shield):
    box = sink(store=False)
    front = shield(
        box, rates="127.1.140.0/24 class=trusted\n127.1.141.0/24 class=suspicious\n127.1.142.0/24 delay=2s\n",
        config={"delays": {"banner": {"suspicious": "6s"}}})

    def banner(address):
        with front.dialogue(address) as client:
            return client.expect(220).at

    trusted, suspicious, delayed = in_parallel(
        lambda: banner(source(1, 140)), lambda: banner(source(1, 141)), lambda: banner(source(1, 142)))
    assert trusted < 0.3
    assert abs(suspicious - 6) < 0.3, suspicious
    assert abs(delayed - 2) < 0.3, delayed


def test_errors_over_the_limit_are_put_off(sink, shield):
    box = sink("--reject-recipient", "nobody", store=False)
    front = front_with(shield, box, "127.1.150.0/24 errors=4/h per=/32 over=tempfail\n")
    codes = []
    for _ in range(3):
        try:
            with front.dialogue(source(1, 150), timeout=20) as client:
                client.greet()
                client.command("MAIL FROM:<a@client.example>", 250)
                for n in range(3):
                    codes.append(client.command(f"RCPT TO:<nobody{n}@example.com>").code)
        except (Closed, AssertionError):
            codes.append("ended")
    assert any(code == "ended" or code < 500 for code in codes), codes
