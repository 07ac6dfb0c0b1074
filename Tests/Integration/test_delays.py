# SPDX-License-Identifier: Apache-2.0
"""Who waits how long: the tiers, the stutter, early talkers, the second chance, and observe mode."""

import time

import pytest

from harness import Closed, in_parallel, source, wait_until

# T3 stretched over seconds, so that a test can watch; the ceilings for others are the real ones.
SHORT_BAD = {
    "banner": {"bad": "6s"},
    "helo": {"bad": "2s"},
    "mail": {"bad": "2s"},
    "rcpt": {"bad": "2s"},
    "rcpt_rejected": {"bad": "2s"},
    "data": {"bad": "2s"},
    "other": {"bad": "1s"},
}


def quiet(**more):
    """A configuration under which only clients make the shield open the downstream."""
    return {"delays": SHORT_BAD, "downstream": {"probe_every": "1h"}, **more}


def test_the_banner_comes_at_once_for_t0_at_4_s_for_t1_at_22_s_for_t2(sink, shield):
    box = sink(store=False)
    front = shield(box)

    def banner(address):
        with front.dialogue(address) as client:
            reply = client.expect(220)
            # Legitimate or not yet known: the whole banner in one piece.
            assert len(reply.arrivals) == 1, reply.arrivals
            at = reply.at
            client.hello()
            client.command("QUIT", 221)
            return at

    known, clean, second, suspicious = in_parallel(
        lambda: banner(source(0, 10)),
        lambda: banner(source(1, 10)),
        lambda: banner(source(1, 11)),
        lambda: banner(source(2, 10)),
    )
    assert known < 0.2
    assert abs(clean - 4) <= 0.2 and abs(second - 4) <= 0.2, (clean, second)
    assert abs(suspicious - 22) <= 0.2, suspicious


def test_t3_hears_the_banner_byte_by_byte_is_put_off_at_rcpt_and_never_reaches_the_downstream(
    recorder, shield
):
    back = recorder()
    front = shield(back, quiet())
    front.wait_for_keyword("8BITMIME")
    time.sleep(0.3)
    before = len(back.received)
    with front.dialogue(source(3, 10)) as client:
        banner = client.expect(220)
        times = [at for at, _ in banner.arrivals]
        assert len(times) >= 10, f"not a stutter:\n{client}"
        assert max(len(data) for _, data in banner.arrivals) <= 2, client
        assert 5 <= banner.at <= 7.5, banner.at
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        assert max(gaps) < 2, "a gap in which a client would take us for dead"
        client.hello()
        client.command("MAIL FROM:<a@bot.example>", 250)
        client.command("RCPT TO:<b@example.com>", 450, "4.7.1")
        client.command("QUIT", 221)
    assert len(back.received) == before, "the downstream was opened for a T3 peer"
    print(f"transcript of T3:\n{client}")


def test_who_talks_before_the_banner_is_found_and_put_off(sink, shield):
    box = sink(store=False)
    front = shield(box, quiet())
    with front.dialogue(source(1, 20)) as client:
        time.sleep(1)
        client.send(f"EHLO {client.name}\r\n")
        with_banner = client.reply(30)
        assert with_banner.code == 220 or with_banner.code >= 400
        if with_banner.code == 220:
            client.expect(250)
            client.command("MAIL FROM:<a@bot.example>", 250)
            client.command("RCPT TO:<b@example.com>", 450, "4.7.1")
    line = front.program.wait_for(r"PREGREET")
    assert "127.1.20.1" in line, line
    assert box.counts()["messages"] == 0


def test_a_whole_dialogue_before_the_banner_delivers_nothing(sink, shield):
    box = sink(store=False)
    front = shield(box, quiet())
    with front.dialogue(source(1, 21)) as client:
        client.send(
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n"
            b"Subject: spam\r\n\r\nspam\r\n.\r\nQUIT\r\n")
        # How much of it is answered, and how slowly, is the tarpit's affair.
        codes = []
        try:
            while codes[-1:] != [221]:
                codes.append(client.reply(6).code)
        except (Closed, AssertionError):
            pass
        assert 354 not in codes, codes
    assert box.counts()["messages"] == 0
    front.program.wait_for(r"PREGREET.*127\.1\.21\.1|127\.1\.21\.1.*pregreet")


def test_known_senders_that_talk_early_are_not_punished(sink, shield):
    box = sink(store=False)
    front = shield(box, quiet())
    with front.dialogue(source(0, 22)) as client:
        client.send(f"EHLO {client.name}\r\n")
        client.expect(220)
        client.expect(250)
        assert client.deliver().code == 250


def test_who_left_while_delayed_waits_half_then_not_at_all(sink, shield):
    box = sink(store=False)
    front = shield(
        box,
        {
            "delays": {"banner": {"clean": "2s", "suspicious": "8s"}},
            "reputation": {"second_chance": True, "second_chance_after": "2s"},
        },
    )

    def leave(address):
        with front.dialogue(address) as client:
            assert client.receive(1) is None, "a banner before its time"
        time.sleep(2.4)

    def wait(address):
        with front.dialogue(address) as client:
            at = client.expect(220).at
            client.command("QUIT", 221)
            return at

    def half():
        leave(source(2, 30, 1))
        # From a neighbour: what counts is the /24.
        return wait(source(2, 30, 9))

    def none():
        leave(source(2, 31))
        leave(source(2, 31))
        return wait(source(2, 31))

    def hasty():
        with front.dialogue(source(2, 32)) as client:
            client.receive(0.5)
        # Back sooner than second_chance_after: nothing earned.
        return wait(source(2, 32))

    after_one, after_two, too_soon = in_parallel(half, none, hasty)
    assert abs(after_one - 4) < 0.4, after_one
    assert after_two < 0.4, after_two
    assert abs(too_soon - 8) < 0.4, too_soon


def test_observe_mode_delays_nobody_but_says_what_it_would_have_done(sink, shield):
    box = sink(store=False)
    front = shield(box, {"mode": "observe"})

    def deliver(address, early=False):
        with front.dialogue(address) as client:
            if early:
                client.send(f"EHLO {client.name}\r\n")
            assert client.expect(220).at < 0.3
            if early:
                client.expect(250)
            else:
                assert client.hello().took < 0.3
            assert client.deliver().code == 250
            client.command("QUIT", 221)
            return client.age

    ages = in_parallel(
        lambda: deliver(source(1, 40)),
        lambda: deliver(source(2, 40)),
        lambda: deliver(source(3, 40)),
        lambda: deliver(source(1, 41), early=True),
    )
    assert max(ages) < 1.5, ages
    assert box.counts()["messages"] == 4
    front.program.wait_for(r"127\.2\.40\.1.*(T2|suspicious)")
    front.program.wait_for(r"127\.3\.40\.1.*(T3|bad)")


def test_each_session_leaves_one_closing_line_that_explains_it(sink, shield):
    box = sink(store=False)
    front = shield(box)
    with front.dialogue(source(0, 50, 77)) as client:
        client.greet()
        assert client.deliver().code == 250
        client.command("QUIT", 221)
        client.until_closed()

    def closing():
        return [
            line
            for line in front.log.splitlines()
            if "127.0.50.77" in line and "DISCONNECT" in line.upper()
        ]

    [line] = wait_until(closing, 5, "a closing line")
    assert "T0" in line, line


def test_rcpt_refusals_slow_a_harvester_more_each_time(sink, shield):
    box = sink("--reject-recipient", "nobody", store=False)
    front = shield(box, {"delays": {"banner": {"clean": "0s"}, "helo": {"clean": "0s"}}})
    with front.dialogue(source(1, 60)) as client:
        client.greet()
        client.command("MAIL FROM:<a@client.example>", 250)
        took = [client.command(f"RCPT TO:<nobody{n}@example.com>", 550).took for n in range(2)]
    assert took[0] >= 0.9 and took[1] >= took[0] + 0.5, took


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_nothing_is_added_between_the_dot_and_its_reply(sink, shield, kind):
    box = sink(store=False)
    front = shield(
        box, {"delays": {s: {"clean": "0s", "suspicious": "0s"} for s in ("banner", "helo", "mail", "rcpt", "data")}}
    )
    with front.dialogue(source(kind, 70 + kind)) as client:
        client.greet()
        reply = client.deliver()
        assert reply.code == 250 and reply.took < 0.3, reply
