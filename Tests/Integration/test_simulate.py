# SPDX-License-Identifier: Apache-2.0
"""`sluice simulate` from outside: the same seed is the same run, in each build and on any number of cores, and the
commands that reports and failures print really do it again."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

import harness
from secure import Keys

DEBUG = os.environ.get("SLUICE_DEBUG", str(harness.ROOT / ".build/debug/sluice"))

# A network and a mail server that fail in all the ways there are.
FAULTS = """\
name: faults
about: a bad day
duration: {value: 30s, source: assumption}
clients: {value: {B1: 4, B2: 0.5, B7: 0.5, L3: 2, L4: 1, L5: 1, P-callout: 0.5}, source: assumption}
bursts: {value: [{at: 10s, lasting: 5s, times: 5}], source: assumption}
resets: {value: 10%, source: assumption}
slow_readers: {value: 20%, source: assumption}
listed_are: {value: suspicious, source: assumption}
downstream:
  connections: {value: 20, source: assumption}
  capacity: {value: 10, source: assumption}
  breaks: {value: 10%, source: assumption}
  outages: {value: [{at: 15s, lasting: 5s}], source: assumption}
"""

# Scenarios by their options; short, for a debug build runs them too.
RUNS = {
    "mix-2025": ["--scenario", "mix-2025", "--duration", "20", "--scale", "0.2", "--after", "400"],
    "mix-2010": ["--scenario", "mix-2010", "--duration", "20", "--scale", "0.2", "--after", "400"],
    "curve": ["--scenario", "curve", "--duration", "10"],
    "faults": ["--scenario", "FAULTS", "--after", "4000"],
    "swarm-3": ["--swarm-seed", "3"],
    "swarm-11": ["--swarm-seed", "11"],
}


def simulate(*arguments, binary=None, cores=None, status=(0, 1)):
    command = [binary or harness.SLUICE, "simulate", *map(str, arguments)]
    if cores is not None:
        command = ["taskset", "-c", cores, *command]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode in status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run(tmp_path):
    """Runs one of RUNS and gives what follows from the seed: everything but the time it took."""

    def one(name, *more, **how):
        (tmp_path / "faults.yaml").write_text(FAULTS)
        found = tmp_path / "found.json"
        options = [str(tmp_path / "faults.yaml") if o == "FAULTS" else o for o in RUNS[name]]
        simulate(*options, *more, "--json", found, **how)
        reports = json.loads(found.read_text())
        for report in reports:
            del report["took"]
            # What arrays have in reserve, not what happened.
            del report["bytesEach"]
        return reports

    return one


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_is_the_same_run_in_debug_and_release(run, name):
    if not os.access(DEBUG, os.X_OK):
        pytest.skip(f"{DEBUG} is missing: swift build, or set SLUICE_DEBUG")
    release = run(name)
    debug = run(name, binary=DEBUG)
    assert release[0]["trace"] and release[0]["events"] > 500
    assert [r["trace"] for r in debug] == [r["trace"] for r in release]
    assert debug == release


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_is_the_same_run_on_one_core_and_on_all(run, name):
    if not shutil.which("taskset"):
        pytest.skip("taskset is missing")
    core = str(min(os.sched_getaffinity(0)))
    assert run(name, cores=core) == run(name)


def test_another_seed_is_another_run(run):
    first = run("mix-2025", "--seed", 1)[0]["trace"]
    assert run("mix-2025", "--seed", 2)[0]["trace"] != first
    assert run("mix-2025", "--seed", 1)[0]["trace"] == first


def test_faults_do_happen_and_no_promise_breaks_but_that_mail_may_be_late(run):
    report = run("faults")[0]
    endings = {}
    for persona in report["personas"]:
        for name, count in persona["endings"].items():
            endings[name.split(":")[0]] = endings.get(name.split(":")[0], 0) + count
    # Broken ones are cut off by the network; deferred ones met the mail server's absence.
    assert endings.get("deferred (4xx)", 0) > 0, endings
    assert endings.get("cut off", 0) + endings.get("broken", 0) > 0, endings
    for check in report["checks"]:
        if check["name"] != "no honest mail lost":
            assert check["broken"] == 0, check


def again(text):
    """The command that a report says does it again."""
    line = next(line for line in text.splitlines() if line.strip().startswith("again: "))
    words = shlex.split(line.split("again: ", 1)[1])
    assert words[:2] == ["sluice", "simulate"]
    return words[2:]


def test_a_sweep_names_the_command_that_repeats_it(tmp_path):
    folder = tmp_path / "its personas"
    shutil.copytree(harness.ROOT / "tuning/personas", folder)
    config = tmp_path / "some config.yaml"
    shutil.copy(harness.ROOT / "tuning/strangers.yaml", config)
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    text = simulate(
        "--scenario", "curve", "--sweep", "banner=25..31/6", "--seed", 5, "--duration", 20,
        "--scale", 0.5, "--after", 90000, "--personas", folder, "--config", config,
        "--hostname", "mx.example.net", "--csv", first,
    )  # fmt: skip
    command = again(text)
    for option in ["--duration", "--scale", "--after", "--personas", "--config", "--hostname"]:
        assert option in command, command
    simulate(*command, "--csv", second)
    assert first.read_text() == second.read_text()
    # Not by chance: without its options it is another run.
    plain = tmp_path / "3.csv"
    simulate("--scenario", "curve", "--sweep", "banner=25..31/6", "--csv", plain)
    assert plain.read_text() != first.read_text()


def test_a_run_names_the_command_that_repeats_it(tmp_path):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    simulate(
        "--scenario", "ordinary", "--duration", 20, "--scale", 2, "--seed", 3, "--after", 50000,
        "--config", "tuning/strangers.yaml", "--no-baseline", "--json", first,
    )  # fmt: skip
    report = json.loads(first.read_text())[0]
    words = shlex.split(report["command"])
    simulate(*words[2:], "--no-baseline", "--json", second)
    assert json.loads(second.read_text())[0]["trace"] == report["trace"]


def shares(csv, value, what, whole):
    found = {}
    lines = [line.split(",") for line in csv.splitlines()]
    names = lines[0]
    for line in lines[1:]:
        row = dict(zip(names, line, strict=True))
        if float(row["value"]) == value:
            found[row["id"]] = int(row[what]) / max(int(row[whole]), 1)
    return found


def test_the_sweep_that_ships_says_what_the_page_beside_it_says():
    page = (harness.ROOT / "tuning/curve.md").read_text()
    csv = (harness.ROOT / "tuning/curve/banner.csv").read_text()
    ids = {line.split(",")[1] for line in csv.splitlines()[1:]}
    shipped = {
        line.split(":")[1].strip()
        for file in pathlib.Path(harness.ROOT / "tuning/personas").glob("*.yaml")
        for line in file.read_text().splitlines()
        if line.startswith("id:")
    }
    assert shipped - ids == {"B5", "B10", "B12", "B13"}, "run the commands of tuning/curve.md again"
    lost = {id: 0.0 for id in ids}
    steps = {}
    for value in range(1, 312, 5):
        now = shares(csv, value, "lost", "clients")
        for id in sorted(ids):
            if id.startswith("L") and now[id] > 0:
                steps.setdefault(id, value)
        lost = now
    assert steps == {
        "L5": 31, "L6": 46, "L4": 61, "L7": 61, "L9": 61, "L11": 121, "L10": 181, "L1": 301,
        "L3": 301,
    }  # fmt: skip
    assert lost["L2"] == lost["L8"] == 0
    for id, value in steps.items():
        assert f"| {value} s |" in page and id in page
    short = (harness.ROOT / "tuning/curve/banner-short.csv").read_text()
    for id in ["B2", "B11", "B14"]:
        assert shares(short, 22, "left", "connections")[id] > 0.98, id
    assert shares(short, 22, "left", "connections")["B3"] < 0.02


def test_a_configuration_with_a_certificate_has_clients_in_tls(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing")
    own = Keys(tmp_path / "keys").make("mx")
    config = tmp_path / "tls.yaml"
    config.write_text(
        "listeners:\n  - {address: 127.0.0.1:2525}\ndownstream: {address: 127.0.0.1:2600}\n"
        f"tls:\n  certificates:\n    - {{certificate: {own['certificate']}, key: {own['key']}}}\n"
    )
    found = tmp_path / "found.json"
    options = ["--scenario", "ordinary", "--duration", 300, "--no-baseline", "--json", found]
    text = simulate(*options, "--config", config, status=(0,))
    senders = [p for p in json.loads(found.read_text())[0]["personas"] if p["kind"] == "sender"]
    connections = sum(p["connections"] for p in senders)
    handshakes = sum(p["handshakes"] for p in senders)
    # 90 % of the honest want it; those whom the banner's delay drives off see no offer of it.
    assert connections > 100 and 0.7 < handshakes / connections < 0.97, senders
    assert "TLS: " in text
    assert "TLS: " not in simulate(*options, status=(0,))


def test_random_worlds_of_the_shipped_personas_keep_every_promise():
    text = simulate("--swarm", 0.03, status=(0,))
    assert "0 broke a promise" in text


def test_a_trace_of_one_client_is_facts_and_orders():
    lines = simulate(
        "--scenario", "curve", "--duration", 5, "--trace", 1, status=(0,)
    ).splitlines()
    assert "connects from" in lines[0] and any("hears" in line for line in lines), lines
