# SPDX-License-Identifier: Apache-2.0
"""`sluice flood hold`: it holds what it says it holds, leaves nothing behind, and goes to loopback only."""

import re
import signal
import subprocess

import pytest
from harness import NO_DELAYS, SLUICE, Program, Shield, Sink, free_port, wait_until


def flood(port, *options):
    command = [SLUICE, "flood", "hold", f"127.0.0.1:{port}", "--seconds", "60", *options]
    return Program(command)


def lines(program, word):
    """The figures of each line that begins so."""
    found = re.findall(rf"^{word} (.*)$", program.output.decode(), re.M)
    return [dict(pair.split("=") for pair in line.split()) for line in found]


def figures(program, word, seconds=20):
    wait_until(lambda: lines(program, word) or not program.running, seconds, f"{word} said")
    return {name: float(value) for name, value in lines(program, word)[-1].items()}


@pytest.fixture
def front(tmp_path):
    box = Sink(tmp_path / "sink", store=False).start()
    shield = Shield(
        tmp_path / "shield", box.port,
        {
            "workers": 2,
            "limits": {"connections": 8_000},
            "delays": {"banner": {"suspicious": "25s", "bad": "60s"}},
            "tarpit": {"sessions_per_source": 100},
            "log": {"level": "warning"},
        },
    ).start()
    yield shield
    shield.stop()
    box.stop()


def test_two_thousand_are_held_and_all_are_gone_after_term(front):
    client = flood(front.port, "--connections", "2000", "--sources", "127.2.0.0/16")
    ready = figures(client, "READY")
    assert ready["held"] == ready["connected"] == ready["asked"] == 2000
    client.signal(signal.SIGUSR1)
    assert figures(client, "STAT")["bytes"] == 0, "nobody has heard a banner yet"

    def open_now():
        text = subprocess.check_output(["ss", "-Htn", "state", "established", f"dport = :{front.port}"])
        return len(text.splitlines())

    assert open_now() == 2000
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 0
    done = figures(client, "DONE")
    assert done["held"] == 2000 and done["peer_closed"] == 0
    wait_until(lambda: open_now() == 0, 5, "all connections gone")


def test_bytes_of_the_tarpit_are_counted_and_timed(front):
    # Some thirty bytes over 60 s: the interval is not the point here, that there are figures is.
    client = flood(
        front.port, "--connections", "300", "--sources", "127.3.0.0/16", "--sweep", "0.2",
        "--lateness", "2", "--sample", "50", "--spread-over", "2",
    )
    figures(client, "READY")

    def heard():
        client.signal(signal.SIGUSR1)
        return lines(client, "STAT") and int(lines(client, "STAT")[-1]["bytes"]) > 600

    wait_until(heard, 15, "two bytes for each")
    client.signal(signal.SIGINT)
    assert client.wait(10) == 0
    late = figures(client, "LATENESS")
    assert late["connections"] == 50 and late["gaps"] >= 25
    assert late["gap_p50_us"] < 500_000


def test_it_talks_when_told_to(tmp_path):
    box = Sink(tmp_path / "sink", store=False).start()
    shield = Shield(tmp_path / "shield", box.port, {"delays": NO_DELAYS}).start()
    client = flood(shield.port, "--connections", "50", "--say", "EHLO a.example", "--say", "QUIT")
    figures(client, "READY")

    def all_gone():
        client.signal(signal.SIGUSR1)
        return lines(client, "STAT") and lines(client, "STAT")[-1]["peer_closed"] == "50"

    wait_until(all_gone, 10, "everybody said QUIT and was let go")
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 0
    assert figures(client, "DONE")["said"] == 100
    shield.stop()
    box.stop()


def test_the_early_talker_speaks_before_the_banner(front):
    client = flood(
        front.port, "--connections", "20", "--sources", "127.2.0.0/16", "--early", "--say", "EHLO early.example")
    figures(client, "READY")
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 0
    assert figures(client, "DONE")["said"] == 20


def test_nobody_there_is_refused_not_held():
    client = flood(free_port(), "--connections", "30", "--threads", "2")
    ready = figures(client, "READY")
    assert ready["refused"] == 30 and ready["held"] == 0
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 0


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["192.0.2.1:25"], "loopback only"),
        (["[2001:db8::1]:25"], "loopback only"),
        (["localhost.example.com:25"], "loopback only"),
        (["127.0.0.1:0"], "port must be 1…65535"),
        (["127.0.0.1:25", "--connections", "0"], "--connections takes 1…2000000"),
        (["127.0.0.1:25", "--connections", "2000001"], "--connections takes 1…2000000"),
        (["127.0.0.1:25", "--threads", "5"], "--threads takes 1…4"),
        (["127.0.0.1:25", "--burst", "0"], "--burst takes 1…4096"),
        (["127.0.0.1:25", "--seconds", "100000"], "--seconds takes 0…86400"),
        (["127.0.0.1:25", "--sweep", "0"], "--sweep takes 0.05…600"),
        (["127.0.0.1:25", "--sweep", "1", "--watch"], "exclude each other"),
        (["127.0.0.1:25", "--early"], "--early needs a --say"),
        (["127.0.0.1:25", "--sources", "10.0.0.0/8"], "a network in 127.0.0.0/8"),
        (["127.0.0.1:25", "--sources", "127.0.0.1/24"], "a network in 127.0.0.0/8"),
        (["127.0.0.1:25", "--sources", "127.1.2.0/24", "--connections", "100000"], "is too small for 100000"),
        (["[::1]:25", "--connections", "30000"], "takes 1…20000"),
    ],
)
def test_what_it_will_not_do_it_says(arguments, sentence):
    done = subprocess.run([SLUICE, "flood", "hold", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 64
    assert sentence in done.stderr
