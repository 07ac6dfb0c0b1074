# SPDX-License-Identifier: Apache-2.0
"""`sluice flood`: it holds what it says it holds, counts what the other side counts, leaves nothing behind, and
goes to loopback only."""

import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from harness import NO_DELAYS, SLUICE, Program, Shield, Sink, free_port, wait_until
from secure import Keys


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

    def make(port, clients="{B: 0}", *options, at_once="{B: 0}", duration="3s", patience="{uniform: [1s, 3s]}",
             scenario="", bot="", sender=""):
        folder = tmp_path / f"flood{len(made)}"
        (folder / "personas").mkdir(parents=True)
        (folder / "personas" / "b.yaml").write_text(BOT.replace("PATIENCE", patience) + bot)
        (folder / "personas" / "l.yaml").write_text(SENDER + sender)
        text = SCENARIO.replace("DURATION", duration).replace("CLIENTS", clients).replace("ATONCE", at_once)
        (folder / "tried.yaml").write_text(text + scenario)
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


class Greeter:
    """Says `words` to everybody and notes what comes back: when, and how it ended."""

    def __init__(self, words, send_buffer=None):
        self.words = words
        # Of each connection: seconds to its first word, whether it was reset, octets its socket took in 0.3 s.
        self.answered, self.resets, self.ends, self.taken = [], [], [], []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        if send_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.port = self.listener.getsockname()[1]
        self.stopping = False
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        known = selectors.DefaultSelector()
        self.listener.setblocking(False)
        known.register(self.listener, selectors.EVENT_READ)
        while not self.stopping:
            for key, _ in known.select(0.05):
                if key.fileobj is self.listener:
                    one, _ = self.listener.accept()
                    one.setblocking(False)
                    at, sent = time.monotonic(), 0
                    try:
                        while sent < len(self.words):
                            sent += one.send(self.words[sent:])
                    except BlockingIOError:
                        pass
                    self.taken.append(sent)
                    known.register(one, selectors.EVENT_READ, {"at": at, "heard": False})
                    continue
                one, state = key.fileobj, key.data
                try:
                    piece = one.recv(4096)
                    if piece and not state["heard"]:
                        state["heard"] = True
                        self.answered.append(time.monotonic() - state["at"])
                    if piece:
                        continue
                    self.ends.append(time.monotonic() - state["at"])
                except ConnectionResetError:
                    self.resets.append(time.monotonic() - state["at"])
                known.unregister(one)
                one.close()
        for key in list(known.get_map().values()):
            key.fileobj.close()

    def stop(self):
        self.stopping = True
        self.thread.join(5)


@pytest.fixture
def greeter():
    made = []

    def make(*arguments):
        made.append(Greeter(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.stop()


PATIENT = {"patience": "50s"}


def test_latency_is_under_way_in_both_directions(run, greeter):
    server = greeter(b"220 mx.example\r\n")
    report = finding(
        run(server.port, at_once="{B: 50}", duration="2s", scenario="latency: {value: 300ms, source: test}\n",
            **PATIENT))
    # The banner takes 0.3 s to the client, its EHLO 0.3 s back.
    assert len(server.answered) == 50 and 0.58 < min(server.answered), server.answered
    assert sorted(server.answered)[25] < 0.9
    banner = report["by"]["B"]["banner"]
    assert 0.25 < banner["sum"] / banner["total"] < 0.6, banner


def test_latency_does_not_change_what_arrives(run, sink):
    box = sink(store=False)
    report = finding(
        run(box.port, "{B: 40, L: 20}", "--seconds", "12", duration="2s",
            scenario="latency: {value: {uniform: [10ms, 120ms]}, source: test}\n", **PATIENT))
    assert report["by"]["L"]["delivered"] == report["by"]["L"]["clients"] > 20
    assert sum(one["delivered"] for one in report["personas"]) == box.counts()["messages"] > 80
    assert [check["broken"] for check in report["checks"]] == [0, 0, 0, 0]
    # Banner, EHLO, MAIL, RCPT, DATA and the message: six ways there and back of 65 ms.
    held = report["by"]["L"]["delay"]
    assert 0.5 < held["sum"] / held["total"] < 1.2


def test_connections_break_by_a_reset_and_as_many_as_the_scenario_says(run, greeter):
    # Nobody hears a banner, so who is not reset stays until the end.
    server = greeter(b"")
    report = finding(
        run(server.port, at_once="{B: 400}", duration="3s", scenario="resets: {value: 100%, source: test}\n",
            **PATIENT))
    broken = report["by"]["B"]["endings"].get("broken", 0)
    # Each breaks at some moment within 60 s: in 3 s a twentieth of them, 20 ± 4.4.
    assert 6 <= broken <= 38, report["by"]["B"]["endings"]
    wait_until(lambda: len(server.resets) + len(server.ends) >= 400, 5, "all are closed")
    assert len([at for at in server.resets if at < 2.8]) == pytest.approx(broken, abs=3)
    assert report["by"]["B"]["endings"]["still there"] == 400 - broken


def test_without_resets_there_is_none(run, greeter):
    server = greeter(b"")
    report = finding(run(server.port, at_once="{B: 50}", duration="2s", patience="1s"))
    assert report["by"]["B"]["endings"] == {"left: banner": 50}
    wait_until(lambda: len(server.ends) == 50, 5, "all have closed")
    assert not server.resets


def test_slow_readers_leave_the_server_with_its_bytes(run, greeter):
    # A greeting of many lines, more than a slow reader's socket holds.
    words = b"220-word\r\n" * 20_000
    taken = {}
    for name, share in [("slow", "100%"), ("quick", "0%")]:
        server = greeter(words, 4_096)
        report = finding(
            run(server.port, at_once="{B: 20}", duration="2s",
                scenario=f"slow_readers: {{value: {share}, source: test}}\n", **PATIENT))
        assert report["by"]["B"]["endings"] == {"still there": 20}
        taken[name] = sorted(server.taken)[10]
    assert taken["slow"] < 16_384 and taken["quick"] > 3 * taken["slow"], taken


def test_a_slow_reader_hears_a_byte_a_millisecond(run, greeter):
    # 2,000 octets before the last line, of which the kernel may hold back a part until some are read.
    server = greeter(b"220-" + b"x" * 76 + b"\r\n" + (b"220-" + b"y" * 74 + b"\r\n") * 24 + b"220 mx\r\n")
    report = finding(
        run(server.port, at_once="{B: 20}", duration="5s",
            scenario="slow_readers: {value: 100%, source: test}\n", **PATIENT))
    assert len(server.answered) == 20
    assert all(1.8 < at < 4 for at in server.answered), server.answered


def test_let_through_is_whose_recipient_was_judged_though_nobody_was_known(run, sink):
    box = sink("--reject-recipient", "nobody", store=False)
    report = finding(
        run(box.port, at_once="{B: 30}", duration="4s", patience="50s",
            bot='unknown: {value: 100%, source: "of this test"}\n'))
    bots = report["by"]["B"]
    assert bots["letThrough"] == 30 and bots["delivered"] == 0
    assert box.counts()["messages"] == 0 and box.counts()["connections"] == 30


def test_lists_of_the_scenario_are_the_access_table(run, sink, shield):
    listed = 'listed: {value: 50%, source: "of this test"}\n'
    scenario = "listed_are: {value: reject, source: test}\n"
    printed = run(free_port(), "{B: 1}", "--print-lists", scenario=scenario, bot=listed)
    assert printed.wait(10) == 0
    printed.join()
    lines = printed.output.decode().splitlines()
    # 2,000 addresses, 200 of a network: ten networks are few, so it is addresses that are listed.
    assert len(lines) == 1_000 and all(re.fullmatch(r"127\.\S+/32 reject", line) for line in lines)
    assert run(free_port(), "{B: 1}", "--print-lists").wait(10) == 0

    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS}, access=printed.output.decode())
    report = finding(
        run(front.port, "{B: 100}", "--seconds", "8", duration="3s", patience="50s", scenario=scenario, bot=listed))
    bots = report["by"]["B"]
    assert 0.35 < bots["delivered"] / bots["connections"] < 0.65, bots["endings"]


def test_ipv6_clients_without_an_ipv6_target_are_counted(run, sink):
    box = sink(store=False)
    flood = run(
        box.port, at_once="{B: 40}", duration="3s", patience="50s", bot='ipv6: {value: 100%, source: "of this test"}\n')
    assert finding(flood)["by"]["B"]["delivered"] == 40
    assert b"40 connections of IPv6 clients used IPv4" in flood.output


ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.alone
def test_the_script_lays_the_forecast_beside_it(tmp_path):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("no network namespace to be had here")
    scenario = tmp_path / "tried.yaml"
    scenario.write_text(
        "name: tried\nduration: {value: 12s, source: test}\nclients: {value: {B1: 20, B2: 10, L3: 3}, source: test}\n"
        "latency: {value: 5ms, source: test}\nlisted_are: {value: bad, source: test}\n")
    done = subprocess.run(
        [ROOT / "scripts/flood", "--compare", "--quiet", "--scenario", str(scenario), "--seed", "3", "--out",
         str(tmp_path / "out")],
        capture_output=True, text=True, timeout=150, env={**os.environ, "SLUICE": str(SLUICE)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("How far the real run is from its forecast") == 2
    assert (tmp_path / "out" / "listed.cidr").read_text().count(" bad\n") > 10
    through = {}
    # As shipped, and with the lists of the scenario, which do not ship: each with its own forecast.
    for name in ["flood", "flood-with-lists"]:
        page = (tmp_path / "out" / f"{name}-compared.html").read_text()
        assert "of 5 seeds" in page and "tried: 2 runs compared" in page
        real, forecast = [json.loads((tmp_path / "out" / f"{name}{one}.json").read_text())[0] for one in ["", "-forecast-3"]]
        assert real["lists"] == forecast["lists"] == ("bad" if "lists" in name else "")
        found = [{one["id"]: one for one in report["personas"]} for report in [real, forecast]]
        for one in ["B1", "B2"]:
            assert 0.7 < found[0][one]["connections"] / found[1][one]["connections"] < 1.4
        through[name] = sum(one["letThrough"] for one in real["personas"] if one["kind"] == "bot")
    assert through["flood-with-lists"] < 0.5 * through["flood"], through
    assert "Both runs side by side" in done.stdout
    assert re.search(r"as shipped\s+with lists", done.stdout), done.stdout
    samples = json.loads((tmp_path / "out" / "flood.json").read_text())[0]["samples"]
    assert max(sample["downstream"] for sample in samples) > 0


def test_demo_shows_a_table_and_ends_with_a_report():
    done = subprocess.run(
        [SLUICE, "demo", "--seconds", "15", "--plain"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without a banner" in done.stdout and "are in the tarpit" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("report: "), last
    page = pathlib.Path(last.removeprefix("report: "))
    assert page.read_text().startswith("<!DOCTYPE html>")
    shutil.rmtree(page.parent)
    assert re.search(r"honest mail\s+(\d+) of \1 messages", done.stdout), done.stdout
    assert re.search(r"without Sluice\s+as shipped\s+with lists", done.stdout), done.stdout
    bots = re.search(r"bots' connections\s+([\d,]+)\s+([\d,]+) \(.*?\)\s+([\d,]+) ", done.stdout)
    without, shipped, listed = [int(one.replace(",", "")) for one in bots.groups()]
    # What ships keeps away about half of them; only lists keep away nine in ten.
    assert 0.3 * without < shipped < 0.8 * without and listed < 0.3 * without, bots[0]


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
        (["127.0.0.1:25", "--behind", "999999999"], "there is no process"),
    ],
)
def test_what_a_run_will_not_do_it_says(arguments, sentence):
    done = subprocess.run([SLUICE, "flood", "run", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 64
    assert sentence in done.stderr


# STARTTLS: of personas that want it, where it is offered.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Keys(tmp_path_factory.mktemp("keys")).make("mx")


BURNS = 'aim: {value: tls, source: "of this test"}\n'
HALF = 'tls: {value: 50%, source: "of this test"}\n'
# A message of several pieces, and the network's faults but breaks.
LARGE = 'bytes: {value: 200000, source: "of this test"}\n'
HINDERED = 'latency: {value: {uniform: [5ms, 40ms]}, source: "of this test"}\n'


@pytest.mark.parametrize("more, scenario", [("", ""), (LARGE, ""), (LARGE, HINDERED)], ids=["small", "large", "late"])
def test_who_wants_tls_sends_its_mail_in_tls_and_none_is_lost(run, sink, shield, certificate, more, scenario):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS, "tls": {"certificates": [certificate]}}, access="# nobody is known\n")
    flood = run(
        front.port, "{L: 20, B: 20}", "--seconds", "25", duration="3s", patience="60s", sender=HALF + more, bot=HALF,
        scenario=scenario)
    report = finding(flood, 60)
    honest, bots = report["by"]["L"], report["by"]["B"]
    assert honest["delivered"] == honest["clients"] > 30 and not honest["lost"]
    assert honest["delivered"] + bots["delivered"] == box.counts()["messages"]
    began = honest["handshakes"] + bots["handshakes"]
    assert 0.3 < began / (honest["connections"] + bots["connections"]) < 0.7
    assert honest["handshakesFailed"] == bots["handshakesFailed"] == 0
    assert front.statistic("tls_handshakes") == began
    assert front.statistic("tls_handshakes_failed") == 0
    wait_until(lambda: front.statistic("tls_sessions") == 0, 5, "every TLS session given back")
    assert [check["broken"] for check in report["checks"]] == [0, 0, 0, 0]
    assert re.search(rb"TLS: \d+ handshakes", flood.output)


def test_without_a_certificate_nobody_says_starttls(run, shield, recorder):
    box = recorder(keywords=["PIPELINING"])
    front = shield(box, {"delays": NO_DELAYS}, access="# nobody is known\n")
    report = finding(run(front.port, "{L: 10}", "--seconds", "20", duration="2s", sender=HALF))
    honest = report["by"]["L"]
    assert honest["delivered"] == honest["clients"] > 5 and honest["handshakes"] == 0
    assert front.statistic("tls_handshakes") == 0


def test_the_burner_leaves_when_the_server_has_done_its_part(run, sink, shield, certificate):
    box = sink(store=False)
    front = shield(
        box, {"delays": NO_DELAYS, "tls": {"certificates": [certificate]}}, access="# nobody is known\n")
    report = finding(
        run(front.port, "{B: 20}", "--seconds", "20", duration="2s", patience="30s", bot=HALF + BURNS))
    burner = report["by"]["B"]
    assert burner["endings"] == {"done": burner["connections"]} and burner["handshakes"] == burner["connections"] > 20
    assert front.statistic("tls_handshakes") == burner["handshakes"]
    wait_until(lambda: front.statistic("tls_handshakes_failed") == burner["handshakes"], 5, "all seen to have failed")


class BadTLS:
    """Offers STARTTLS, says 220, and then something that is no TLS, or nothing and goes."""

    def __init__(self, behind):
        self.behind = behind
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self.listener.getsockname()[1]
        self.heard = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            with one, contextlib.suppress(OSError):
                one.settimeout(5)
                one.sendall(b"220 mx\r\n")
                one.recv(4096)
                one.sendall(b"250-mx\r\n250 STARTTLS\r\n")
                one.recv(4096)
                one.sendall(b"220 go\r\n")
                self.heard.append(one.recv(4096)[:1])
                one.sendall(self.behind)

    def stop(self):
        self.listener.close()


@pytest.mark.parametrize("behind", [b"250 forged.example\r\n", b""], ids=["clear text", "nothing"])
def test_a_handshake_that_fails_is_counted_and_mail_is_tried_again(run, behind):
    server = BadTLS(behind)
    flood = run(
        server.port, "{B: 0}", "--seconds", "20", at_once="{L: 3}", duration="1s", sender=HALF.replace("50", "100"))
    report = finding(flood, 40, code=1)
    server.stop()
    honest = report["by"]["L"]
    # A try and two retries of each, and every time a ClientHello.
    assert honest["connections"] == honest["handshakes"] == honest["handshakesFailed"] == 9
    assert server.heard == [b"\x16"] * 9
    assert sum(honest["lost"].values()) == 3
    assert re.search(rb"TLS: 9 handshakes, 9 failed", flood.output)
