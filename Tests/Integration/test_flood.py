# SPDX-License-Identifier: Apache-2.0
"""`sluice flood`: it holds what it says it holds, counts what the other side counts, leaves nothing behind, and
goes to loopback only."""

import json
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


# `sluice flood run`: the clients of a scenario.

BOT = """\
id: B
kind: bot
patience: {value: PATIENCE, source: "of this test"}
tries: {value: 1, source: "of this test"}
quits: {value: 0%, source: "of this test"}
addresses: {value: 2000, source: "of this test"}
per_network: {value: 200, source: "of this test"}
"""

SENDER = """\
id: L
kind: sender
patience: {value: 60s, source: "of this test"}
retries: {value: [2s, 2s], source: "of this test"}
addresses: {value: 20, source: "of this test"}
"""

SCENARIO = """\
name: tried
duration: {value: DURATION, source: "of this test"}
clients: {value: CLIENTS, source: "of this test"}
at_once: {value: ATONCE, source: "of this test"}
"""


@pytest.fixture
def run(tmp_path):
    """run(port, clients, …): `sluice flood run` with personas B and L; its report is `finding(…)`."""
    made = []

    def make(port, clients="{B: 0}", *options, at_once="{B: 0}", duration="3s", patience="{uniform: [1s, 3s]}"):
        folder = tmp_path / f"flood{len(made)}"
        (folder / "personas").mkdir(parents=True)
        (folder / "personas" / "b.yaml").write_text(BOT.replace("PATIENCE", patience))
        (folder / "personas" / "l.yaml").write_text(SENDER)
        text = SCENARIO.replace("DURATION", duration).replace("CLIENTS", clients).replace("ATONCE", at_once)
        (folder / "tried.yaml").write_text(text)
        program = Program(
            [SLUICE, "flood", "run", f"127.0.0.1:{port}", "--scenario", str(folder / "tried.yaml"),
             "--personas", str(folder / "personas"), "--json", str(folder / "found.json"), *options])
        program.folder = folder
        made.append(program)
        return program

    yield make
    for program in made:
        program.kill()


def finding(program, seconds=30, code=0):
    """Its report, by persona, once it has ended."""
    assert program.wait(seconds) == code, program.log + program.output.decode()
    report = json.loads((program.folder / "found.json").read_text())[0]
    report["by"] = {one["id"]: one for one in report["personas"]}
    return report


def test_what_the_flood_counts_the_server_counts(run, sink):
    box = sink(store=False)
    flood = run(box.port, "{B: 100, L: 30}", "--seconds", "20", duration="2s")
    report = finding(flood)
    counts = box.counts()
    sent = [report["by"][name] for name in "BL"]
    assert sum(one["delivered"] for one in sent) == counts["messages"] > 200
    assert sum(one["connections"] for one in sent) == counts["connections"]
    assert sum(sum(one["endings"].values()) for one in sent) == counts["connections"]
    assert report["by"]["L"]["delivered"] == report["by"]["L"]["clients"] > 30
    assert not report["by"]["L"]["lost"]
    assert [check["broken"] for check in report["checks"]] == [0, 0, 0, 0]
    assert all(check["looked"] > 0 for check in report["checks"])
    assert report["kind"] == "real" and len(report["samples"]) >= 2


def test_a_shield_of_short_delays_loses_no_honest_mail_and_some_bots(run, sink, shield):
    box = sink(store=False)
    # The flood's sources are 127.0.x.y: clean, and here all of them wait.
    front = shield(box, {"delays": {"banner": {"clean": "2s"}}}, access="# nobody is known\n")
    flood = run(front.port, "{B: 100, L: 10}", "--seconds", "20", "--daemon", str(front.pid))
    report = finding(flood)
    bots, honest = report["by"]["B"], report["by"]["L"]
    left = bots["endings"].get("left: banner", 0)
    # Of patience between 1 and 3 s half is shorter than 2 s.
    assert 0.35 < left / bots["connections"] < 0.65, bots["endings"]
    assert bots["delivered"] + honest["delivered"] == box.counts()["messages"]
    assert honest["delivered"] == honest["clients"] > 10 and not honest["lost"]
    assert [check["broken"] for check in report["checks"]] == [0, 0, 0, 0]
    assert max(sample["memory"] for sample in report["samples"]) > 1 << 20


def test_postfix_s_own_sink_gets_all_honest_mail(run, smtp_sink):
    port, folder = smtp_sink()
    report = finding(
        run(port, "{L: 40}", "--seconds", "20", "--threads", "2", "--recipient", "b@example.com", duration="2s"))
    honest = report["by"]["L"]
    assert honest["delivered"] == honest["clients"] > 40 and not honest["lost"]
    assert len(list(folder.iterdir())) == honest["delivered"]


def test_a_real_postfix_gets_all_honest_mail(run, postfix):
    before = postfix.count()
    report = finding(
        run(postfix.port, "{L: 15, B: 5}", "--seconds", "25", "--recipient", "b@example.com", duration="2s"))
    sent = sum(one["delivered"] for one in report["personas"])
    assert report["by"]["L"]["delivered"] == report["by"]["L"]["clients"] > 15
    assert not report["by"]["L"]["lost"]
    wait_until(lambda: postfix.count() - before == sent, 10, f"{sent} messages in the box")


def test_five_thousand_bots_at_once_and_term_ends_it_with_a_report(run, sink, shield):
    box = sink(store=False)
    front = shield(
        box, {"limits": {"connections": 8_000}, "delays": {"banner": {"clean": "25s"}}},
        access="# nobody is known\n")
    flood = run(front.port, at_once="{B: 5000}", duration="60s", patience="50s")

    def all_there():
        return re.search(r": 5000 there, 5000 without a banner", flood.output.decode())

    wait_until(all_there, 15, "5,000 bots there")
    flood.signal(signal.SIGTERM)
    report = finding(flood, 10)
    assert b"interrupted" in flood.output
    assert report["by"]["B"]["connections"] == 5000
    assert report["by"]["B"]["endings"] == {"still there": 5000}
    # Two hundred bytes a bot and what is the same for all: buffers, and lists that grow by doubling.
    own = int(re.search(r"(\d+) bytes of its own memory", flood.output.decode()).group(1))
    assert own < 1_500


def test_the_bound_on_connections_holds(run, sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": {"banner": {"clean": "20s"}}}, access="# nobody is known\n")
    flood = run(
        front.port, "{B: 200}", "--most-connections", "150", "--seconds", "3", patience="50s")
    report = finding(flood)
    assert max(sample["held"] for sample in report["samples"]) == 150
    assert report["by"]["B"]["connections"] == 150
    assert b"at most 150 connections at once" in flood.output
    assert b"--most-connections was reached" in flood.output


def test_a_server_that_is_not_there_loses_honest_mail_and_says_so(run):
    flood = run(free_port(), "{L: 20}", "--seconds", "15", duration="1s")
    report = finding(flood, code=1)
    assert sum(report["by"]["L"]["lost"].values()) == report["by"]["L"]["clients"] > 5
    assert re.search(rb"BROKEN\s+no honest mail is lost", flood.output)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["192.0.2.1:25"], "loopback only"),
        (["10.1.2.3:25"], "loopback only"),
        (["[2001:db8::1]:25"], "loopback only"),
        (["[fd00::1]:25"], "loopback only"),
        (["[::ffff:192.0.2.1]:25"], "loopback only"),
        (["0.0.0.0:25"], "loopback only"),
        (["127.0.0.1:25", "[2001:db8::1]:25"], "loopback only"),
        (["10.1.2.3:25", "--namespace"], "--namespace, but this"),
        (["192.0.2.1:25", "--namespace"], "loopback only"),
        (["mx.example.com:25"], "write 127.0.0.1:PORT"),
        (["127.0.0.1:0"], "port 1…65535"),
        (["127.0.0.1:25", "127.0.0.2:25"], "one of IPv4 and one of IPv6"),
        (["127.0.0.1:25", "--most-connections", "200001"], "--most-connections takes 1…200000"),
        (["127.0.0.1:25", "--seconds", "3601"], "--seconds takes 1…3600"),
        (["127.0.0.1:25", "--scale", "0"], "--scale takes 0.001…1000"),
        (["127.0.0.1:25", "--threads", "0"], "--threads takes 1…4"),
        (["127.0.0.1:25", "--recipient", "a@b> NOTIFY"], "--recipient takes"),
        (["127.0.0.1:25", "--daemon", "999999999"], "there is no process"),
    ],
)
def test_what_a_run_will_not_do_it_says(arguments, sentence):
    done = subprocess.run([SLUICE, "flood", "run", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 64
    assert sentence in done.stderr
