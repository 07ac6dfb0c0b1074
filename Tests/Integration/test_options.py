# SPDX-License-Identifier: Apache-2.0
"""Every option of every command is run at least once: the commands are walked, and one that has no example here is a
failure. The examples stand in a table: a command line, and what must be seen of it."""

import contextlib
import dataclasses
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess

import pytest
from harness import ROOT, SLUICE, Program, free_port, wait_until


def run(*words, status=0, cwd=ROOT, seconds=120, binary=SLUICE):
    done = subprocess.run([binary, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=seconds)
    text = done.stdout + done.stderr
    assert done.returncode == status, f"{words}: {done.returncode}\n{text}"
    return text


def commands():
    """Each command that does something, as its words, and its options."""
    found = {}

    def walk(command, path):
        below = [one for one in command.get("subcommands", []) if one["commandName"] != "help"]
        for one in below:
            walk(one, [*path, one["commandName"]])
        if not below:
            named = [one for one in command.get("arguments", []) if one["kind"] != "positional"]
            found[" ".join(path)] = [
                [("--" if name["kind"] == "long" else "-") + name["name"] for name in one["names"]] for one in named
            ]

    walk(json.loads(run("--experimental-dump-help"))["command"], [])
    return found


COMMANDS = commands()
# Those that ArgumentParser adds to each command.
EVERYWHERE = {"--help", "--version"}


@dataclasses.dataclass
class Example:
    """Words as they are written, with {names} of what a test lays ready: see `place`."""

    words: str
    #: What its output has, as a regular expression.
    shows: str
    status: int = 0
    #: What it must have written: a name of `place`, and what is in it.
    writes: tuple[str, str] = ()
    #: A service: it says this when it is there, and is ended by TERM.
    ready: str = ""
    #: What a client hears first of a service.
    greets: str = ""
    #: It takes long, and this script runs it with every test.
    elsewhere: str = ""


# A rule that can never match: whoever reads the table says so.
READS_TABLE = r"access\.cidr:2"
SERVICE = "serve --listen 127.0.0.1:{port} --downstream 127.0.0.1:{sink} --identity none"
CONFIGURED = "--config {config}"
SMALL = "simulate --scenario {scenario} --after 0"
EXAMPLES = [
    Example(SERVICE, r"downstream 127\.0\.0\.1:{sink}, mode observe", ready="sluice ready", greets="220 "),
    Example(
        SERVICE + " --listen [::1]:{port} --mode enforce --hostname mx.option.example --drain-seconds 7",
        r"(?s)listens on \[::1\]:{port}.*mode enforce.*draining: no new clients, 7 s", ready="sluice ready"),
    Example(
        SERVICE + " --hostname mx.option.example", r"ready", ready="sluice ready", greets="220 mx.option.example "),
    Example(SERVICE + " --access {table}", READS_TABLE, ready="sluice ready"),
    Example("serve --config {config} --identity none", r"127\.0\.0\.1:{port}", ready="sluice ready",
            greets="220 mx.config.example "),
    Example(f"check {CONFIGURED} --dump", r"(?s)mx\.config\.example.*good"),
    Example("check -c {config}", "good"),
    Example(f"check {CONFIGURED} --files-only", "good"),
    Example(f"check {CONFIGURED} --reload", "good"),
    Example(
        "serve --listen 127.0.0.1:{port} --downstream 127.0.0.1:{sink} --identity xclient --no-preflight",
        "does not accept identity xclient", ready="sluice ready"),
    Example(
        "check --listen 127.0.0.1:{port} --downstream 127.0.0.1:{sink} --identity none --mode enforce "
        "--hostname mx.option.example --access {table} --dump", rf"(?s)mx\.option\.example.*{READS_TABLE}"),
    Example(f"check {CONFIGURED} --identity none --probe-downstream", r"does not relay|refuses to relay|no relay|good"),
    Example(f"explain 192.0.2.7 {CONFIGURED} --json", r'"tier"', status=1),
    Example(
        "explain 192.0.2.7 --access {table} --listen 127.0.0.1:{port} --downstream 127.0.0.1:{sink} --identity none "
        "--mode enforce --hostname mx.option.example", r"access\.cidr:1", status=2),
    Example(
        "demo --seconds 5 --scale 0.5 --seed 2 --plain --html {html}", r"Result of the demo",
        writes=("html", "<!DOCTYPE html>")),
    Example("sink --listen 127.0.0.1:{port} --store {folder} --log-peer", "messages", ready="sink ready", greets="220 "),
    Example(
        "sink --listen 127.0.0.1:{port} --answer banner=421\\x20not\\x20now --reject-recipient nobody --offer XNEW "
        "--withhold SIZE --auth --open-relay --connections 5 --delay-reply ehlo=0.1",
        "messages", ready="sink ready", greets="421 not now"),
    Example(
        "sink --listen 127.0.0.1:{port} --die-at mail --die-by rst --stall-at rcpt --garbage-at banner "
        "--fault-after-bytes 10 --fault-times 1 --proxy", "messages", ready="sink ready"),
    Example(
        "flood hold 127.0.0.1:{sink} --connections 20 --seconds 0.2 --ramp-seconds 20 --rate 1000 --burst 10 "
        "--connections-per-source 5 --sources 127.64.0.0/10 --spread-over 2 --say QUIT --early --watch --threads 2",
        r"DONE .*asked=20"),
    Example(
        "flood hold 127.0.0.1:{sink} --connections 4 --seconds 0.2 --sweep 0.1 --lateness 1 --sample 2",
        "LATENESS connections=2"),
    Example(
        "flood run 127.0.0.1:{sink} --scenario {scenario} --personas {personas} --seed 2 --scale 2 --seconds 4 "
        "--most-connections 200 --threads 2 --recipient you@example.com --daemon {pid} --behind {pid} --label mine "
        "--html {html} --json {json} --quiet", r"tried.*mine", writes=("json", '"scenario":"tried"')),
    Example("flood run 127.0.0.1:{sink} --scenario demo --print-lists", r"127\.\S+ bad"),
    Example(
        "flood run 127.0.0.1:{sink} --scenario {listed} --seconds 3 --quiet --with-lists --label mine --beside {report}",
        r"(?s)block lists.*which do not ship.*Both runs side by side.*mine \+ lists"),
    # In the machine's own network namespace that is refused; the other one is for servers elsewhere.
    Example("flood run 10.0.0.1:{sink} --namespace", "network namespace of the machine|interfaces other than lo", status=64),
    Example(
        "flood run 127.0.0.1:{sink} --scenario {scenario} --seconds 4 --i-own-this-server-and-may-load-it",
        "tried, what runs there"),
    Example("flood compare --real {report} {report} --html {html}", "How far", writes=("html", "<!DOCTYPE html>")),
    Example(f"{SMALL} --seed 7 --duration 3 --scale 2 --html {{html}} --json {{json}}", "seed 7",
            writes=("json", '"scenario":"tried"')),
    Example(f"{SMALL} --no-baseline --personas {{personas}}", "tried"),
    Example(f"{SMALL} --compare {{config}} --hostname mx.option.example", r"(?s)shipped defaults.*sluice\.yaml"),
    Example(
        f"{SMALL} {CONFIGURED} --listen 127.0.0.1:{{port}} --downstream 127.0.0.1:{{sink}} --identity none "
        "--mode enforce --access {table}", rf"(?s){READS_TABLE}|sluice\.yaml"),
    Example("simulate --after 0 --scenario {listed}", r"without Sluice\s+as shipped\s+with lists"),
    Example("simulate --after 0 --scenario {listed} --lists on", r"(?s)which do not ship.*--lists on"),
    Example("simulate --after 0 --scenario {listed} --lists off", "--lists off"),
    Example(f"{SMALL} --trace 1", "connects from"),
    Example(f"{SMALL} --sweep banner=0..4/4 --csv {{csv}}", "banner", writes=("csv", "value,")),
    Example("simulate --headlines", r"H12 ", elsewhere="scripts/test"),
    Example("simulate --swarm 0.01", "0 broke a promise"),
    Example("simulate --swarm-worlds 3 --junit {junit}", "3 random worlds", writes=("junit", "3 from seed")),
    Example("simulate --swarm-seed 3", "swarm"),
]


def covered(command):
    """The options that stand in the examples of a command."""
    words = [one.words.split() for one in EXAMPLES if one.words.startswith(command + " ")]
    return {word for line in words for word in line if word.startswith("-")}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_has_an_example(command):
    known = {name for names in COMMANDS[command] for name in names}
    shown = covered(command)
    missing = [names for names in COMMANDS[command] if not shown.intersection(names) and not EVERYWHERE & set(names)]
    assert not missing, f"{command}: write an example for each of these into EXAMPLES"
    assert shown <= known, f"{command} has no {shown - known}"


def test_no_example_is_of_a_command_that_is_not_there():
    for one in EXAMPLES:
        assert any(one.words.startswith(command + " ") for command in COMMANDS), one.words


SCENARIO = """\
name: tried
duration: {value: 3s, source: test}
clients: {value: {B1: 6, L3: 2}, source: test}
latency: {value: 5ms, source: test}
"""


@pytest.fixture
def place(tmp_path, sink):
    """What examples name in braces."""
    box = sink(store=False)
    port = free_port()
    table = tmp_path / "access.cidr"
    table.write_text("192.0.2.0/24 reject\n192.0.2.7 bad\n")
    config = tmp_path / "sluice.yaml"
    config.write_text(
        f"hostname: mx.config.example\nlisteners: [{{address: '127.0.0.1:{port}', role: inbound}}]\n"
        f"downstream: {{address: '127.0.0.1:{box.port}', identity: none}}\n")
    scenario = tmp_path / "tried.yaml"
    scenario.write_text(SCENARIO)
    listed = tmp_path / "listed.yaml"
    listed.write_text(SCENARIO + "listed_are: {value: bad, source: test}\n")
    report = tmp_path / "report.json"
    run("simulate", "--scenario", scenario, "--after", "0", "--no-baseline", "--json", report)
    (tmp_path / "store").mkdir()
    return {
        "sink": box.port, "pid": box.program.process.pid, "port": port, "table": table, "config": config,
        "scenario": scenario, "listed": listed, "personas": ROOT / "tuning/personas", "report": report, "folder": tmp_path / "store",
        "html": tmp_path / "page.html", "json": tmp_path / "found.json", "csv": tmp_path / "found.csv",
        "junit": tmp_path / "found.xml",
    }  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.words[:70])
def test_an_example_runs(example, place):
    if example.elsewhere:
        assert f"sluice {example.words} " in (ROOT / example.elsewhere).read_text()
        return
    words = [word.format(**place).replace("\\x20", " ") for word in example.words.split()]
    shows = re.sub(r"{(\w+)}", lambda name: re.escape(str(place[name[1]])), example.shows)
    if example.ready:
        service = Program([SLUICE, *words])
        try:
            service.wait_for(example.ready)
            if example.greets:
                with socket.create_connection(("127.0.0.1", place["port"]), 10) as client:
                    assert client.recv(200).decode().startswith(example.greets)
            service.signal(signal.SIGTERM)
            assert service.wait(20) == 0, service.log
        finally:
            service.kill()
        text = service.output.decode() + service.log
    else:
        text = run(*words, status=example.status)
    assert re.search(shows, text), text
    if example.writes:
        name, content = example.writes
        assert content in place[name].read_text()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_and_version_of_each_command(command):
    assert "USAGE: sluice" in run(*command.split(), "--help")
    assert re.fullmatch(r"sluice \d+\.\d+\.\d+ \(commit ([0-9a-f]{12}|unknown)\)\n", run(*command.split(), "--version"))


def test_the_version_names_the_commit_that_was_built():
    said = re.search(r"commit (\w+)", run("--version"))[1]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode != 0 or not (ROOT / ".git/logs/HEAD").is_file():
        assert said == "unknown"
        return
    built = subprocess.run(
        ["git", "log", "-1", "--format=%H", said], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0 and built.stdout.startswith(said), said
    # Of the newest commit, if the binary is younger than it.
    made = int(subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True).stdout)
    if os.stat(ROOT / ".git/logs/HEAD").st_mtime < os.stat(SLUICE).st_mtime and made < os.stat(SLUICE).st_mtime:
        assert head.stdout.startswith(said)


@pytest.mark.parametrize("words, hint", [
    ("serv", "did you mean 'sluice serve'?"),
    ("simulat --scenario x", "did you mean 'sluice simulate'?"),
    ("help floood", "did you mean 'sluice flood'?"),
    ("flood rnu 127.0.0.1:25", "did you mean 'sluice flood run'?"),
    ("help flood hodl", "did you mean 'sluice flood hold'?"),
    ("christmas", "the commands are serve, check, explain"),
    ("serve --downstraem x", "Did you mean '--downstream'?"),
    ("simulate --sweep baner=0..5", "did you mean 'banner'?"),
])
def test_a_slip_of_the_finger_is_named(words, hint):
    assert hint in run(*words.split(), status=64)


def test_a_run_says_how_far_it_is_on_a_terminal_and_nowhere_else():
    # Some seconds of work for either build.
    scale = "0.5" if "debug" in str(SLUICE) else "10"
    command = ["simulate", "--scenario", "demo", "--after", "0", "--scale", scale]
    ours, theirs = pty.openpty()
    done = subprocess.Popen([SLUICE, *command], stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    told = b""
    # Reading from a terminal whose other side is closed is an error.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 4096):
            told += piece
    os.close(ours)
    text = done.communicate()[0].decode()
    assert done.returncode == 0
    shares = [int(one) for one in re.findall(rb"simulating \d+ runs: (\d+) %, \d+ s so far", told)]
    assert len(shares) > 1 and shares == sorted(shares), told
    assert told.endswith(b"\r\x1b[2K"), "the line is taken away"
    quiet = subprocess.run([SLUICE, *command], capture_output=True, text=True, cwd=ROOT)
    assert quiet.stderr == ""
    # It changes nothing.
    assert re.findall(r"trace \w+", quiet.stdout) == re.findall(r"trace \w+", text)


def test_a_scenario_that_does_not_ship_is_named_by_its_neighbour():
    assert "did you mean 'mix-2025'?" in run("simulate", "--scenario", "mix-2052", status=66)


def test_the_binary_alone_has_all_it_needs(tmp_path, sink):
    alone = shutil.copy(SLUICE, tmp_path / "sluice")
    empty = tmp_path / "empty"
    empty.mkdir()
    box = sink(store=False)
    text = run("simulate", "--scenario", "ordinary", "--duration", 5, "--after", 0, cwd=empty, binary=alone)
    assert "no honest mail lost" in text
    text = run("demo", "--seconds", 5, "--scale", 0.2, "--plain", "--html", empty / "page.html", cwd=empty, binary=alone)
    assert "Result of the demo" in text
    text = run(
        "flood", "run", f"127.0.0.1:{box.port}", "--scenario", "demo", "--seconds", 2, "--quiet", cwd=empty, binary=alone,
        seconds=60)
    assert "impatient" in text
    assert [one.name for one in empty.iterdir()] == ["page.html"]
