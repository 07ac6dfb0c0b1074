# SPDX-License-Identifier: Apache-2.0
"""The operator's side: reload, drain, stop, checks, exit codes; and room for very many silent peers."""

import ctypes
import os
import pathlib
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from conftest import need
from harness import (
    ACCESS, DIRECT, NO_DELAYS, ROOT, SLUICE, Closed, Dialogue, in_parallel, smtp_source, source, wait_until)

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no shield to control")


def sluice(*arguments, **options):
    return subprocess.run([SLUICE, *arguments], capture_output=True, timeout=30, text=True, **options)


def test_sighup_with_a_broken_table_under_load_loses_nothing_and_keeps_the_old_table(sink, shield):
    need("smtp-source")
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS, "workers": 2})
    stop = threading.Event()

    def refused():
        with front.dialogue("127.66.0.1") as client:
            try:
                return client.reply().code >= 500
            except Closed:
                return True

    def disturb():
        rounds = 0
        while not stop.is_set():
            front.access.write_text(ACCESS + "127.0.0.0/8 trsted\n300.1.2.3 bad\n127.66.0.0/40 dunno\n")
            front.signal(signal.SIGHUP)
            rounds += 1
            time.sleep(0.1)
            assert refused(), "the old table is gone"
        return rounds

    def load():
        try:
            smtp_source(front.port, 3000, 1024, sessions=20)
            smtp_source(front.port, 3000, 1024, sessions=20, reuse=True)
        finally:
            stop.set()

    _, rounds = in_parallel(load, disturb)
    assert rounds >= 1
    assert box.counts()["messages"] == 6000
    log = front.log
    # Where, what the line says, why.
    assert re.search(r"access\.cidr:\d+:\d+", log), log[-2000:]
    assert "trsted" in log

    front.access.write_text(ACCESS.replace("127.66.0.0/16 reject", "127.66.0.0/16 trusted"))
    front.reload()
    assert not refused(), "the good table did not come into force"


def test_sighup_with_a_broken_configuration_keeps_the_old_one(sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS})
    good = front.config.read_text()
    front.config.write_text(good.replace("hostname: mx.sluice.example", "hostnme: other.example"))
    said = front.reload()
    assert "hostnme" in said or "hostname" in said, said
    with front.dialogue() as client:
        assert "mx.sluice.example" in client.expect(220).lines[0]
        client.hello()
        assert client.deliver().code == 250


@pytest.mark.parametrize(
    "what, said",
    [
        ("empty configuration", "there is no setting in this file"),
        ("cut configuration", "RELOAD failed"),
        ("without mode", "mode is no longer set"),
        ("empty table", "has 0 rules, and 4 are in force"),
        ("named pipe", "it is a named pipe"),
    ],
)
def test_sighup_with_files_that_were_cut_off_disarms_nothing(sink, shield, what, said):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS})
    text = front.config.read_text()
    table = front.access.read_text()
    if what == "empty configuration":
        front.config.write_text("")
    elif what == "cut configuration":
        front.config.write_text(text[: len(text) // 2])
    elif what == "without mode":
        front.config.write_text(text.replace("mode: enforce\n", ""))
    elif what == "empty table":
        front.access.write_text("")
    else:
        front.access.unlink()
        os.mkfifo(front.access)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD failed")
    assert re.search(re.escape(said), front.log), front.log[-2_000:]
    with front.dialogue("127.66.0.1") as client:
        assert client.reply().code >= 500, "the old table is gone"
    if what == "named pipe":
        front.access.unlink()
    front.config.write_text(text)
    front.access.write_text(table)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD done: .* mode enforce")


def test_sighup_brings_new_delays_into_force_for_new_sessions(sink, shield):
    box = sink(store=False)
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue(source(1, 200)) as client:
        assert client.expect(220).at < 0.3
        front.settings["delays"]["banner"] = {"clean": "2s", "suspicious": "2s", "bad": "1s"}
        front.write_config()
        front.reload()
        client.hello()
    with front.dialogue(source(1, 201)) as client:
        assert 1.7 < client.expect(220).at < 2.4


def test_sigterm_lets_transactions_finish_sends_421_to_the_idle_and_exits_0(sink, shield):
    box = sink()
    front = shield(box, {"delays": NO_DELAYS})
    with front.dialogue() as busy, front.dialogue("127.0.0.2") as idle, front.dialogue("127.0.0.3") as fresh:
        busy.greet()
        busy.open_data()
        busy.send(b"Subject: x\r\n\r\nfirst half\r\n")
        idle.greet()
        fresh.expect(220)
        front.signal(signal.SIGTERM)
        idle.expect(421, "4.3.2", timeout=5)
        assert idle.until_closed() == b""
        fresh.expect(421, "4.3.2", timeout=5)

        def refused():
            try:
                Dialogue(front.port, timeout=2).close()
            except ConnectionError:
                return True

        # Not left in the backlog of a server that accepts no more: refused, so that they try another.
        wait_until(refused, 2, "new connections refused")
        time.sleep(1)
        busy.send(b"second half\r\n.\r\n")
        busy.expect(250)
        program = front.program
        assert program.wait(10) == 0
    [(_, body)] = box.messages()
    assert body.endswith(b"second half\r\n")


def test_sigint_stops_at_once_even_with_sessions_open(sink, shield):
    box = sink(store=False)
    front = shield(box)
    with front.dialogue() as busy, front.dialogue(source(2, 210)):
        busy.greet()
        busy.open_data()
        front.signal(signal.SIGINT)
        assert front.program.wait(3) == 0
    assert box.counts()["messages"] == 0


def test_usr2_writes_one_screen_of_statistics(sink, shield):
    box = sink(store=False)
    front = shield(box)
    with front.dialogue() as client:
        client.greet()
        client.deliver()
    before = len(front.program.lines)
    front.signal(signal.SIGUSR2)
    time.sleep(0.5)
    lines = front.program.lines[before:]
    assert 1 <= len(lines) <= 60, lines


def test_check_says_yes_to_a_good_configuration(sink, shield):
    front = shield(2600, start=False)
    done = sluice("check", "--config", str(front.config))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "change, expected",
    [
        (("hostname:", "hostnme:"), "hostname"),
        (("mode: enforce", "mode: enforced"), "enforce"),
        (("workers: 1", "workers: many"), "workers"),
        (("role: inbound", "role: inward"), "inbound"),
        (("probe_every: 1s", "probe_every: soon"), "probe_every"),
    ],
)
def test_check_and_serve_name_the_place_of_an_error_and_exit_78(shield, change, expected):
    front = shield(2600, start=False)
    text = front.config.read_text()
    assert change[0] in text
    front.config.write_text(text.replace(*change))
    for command in ("check", "serve"):
        done = sluice(command, "--config", str(front.config))
        said = done.stdout + done.stderr
        assert done.returncode == 78, (command, done.returncode, said)
        assert re.search(r"sluice\.yaml:\d+:\d+", said) and expected in said, said


def test_check_tells_all_that_is_wrong_at_once(shield):
    front = shield(2600, start=False)
    text = front.config.read_text().replace("mode: enforce", "mode: maybe").replace("workers: 1", "wrkers: 1")
    front.config.write_text(text)
    front.access.write_text("10.0.0.1/8 trusted\n10.0.0.0/8 trusted\n10.1.0.0/16 bad\n")
    done = sluice("check", "--config", str(front.config))
    said = done.stdout + done.stderr
    assert done.returncode == 78
    for word in ("maybe", "wrkers", "access.cidr:1"):
        assert word in said, said
    front.config.write_text(text.replace("mode: maybe", "mode: observe").replace("wrkers", "workers"))
    front.access.write_text("10.0.0.0/8 trusted\n10.1.0.0/16 bad\n")
    done = sluice("check", "--config", str(front.config))
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "can never match" in said and "access.cidr:2" in said, said


def test_a_configuration_that_is_not_there_is_told_so(tmp_path):
    for command in ("check", "serve"):
        done = sluice(command, "--config", str(tmp_path / "none.yaml"))
        assert done.returncode in (66, 78) and "none.yaml" in done.stdout + done.stderr


def test_wrong_usage_exits_64():
    assert sluice("serve", "--no-such-option").returncode == 64
    assert sluice("no-such-command").returncode == 64


def test_explain_names_the_rule_the_tier_and_the_delays(shield):
    front = shield(2600, start=False, rates="127.4.0.0/24 bytes=32k/s per=/32 over=slow\n")
    # The exit code tells a script what would happen: 0 passes, 1 is slowed, 2 is refused.
    for address, code, words in (
        ("127.2.7.7", 1, ("access.cidr:3", "T2", "22s")),
        ("127.0.0.1", 0, ("access.cidr:2", "T0")),
        ("127.4.0.9", 1, ("rates.cidr:1", "T1", "4s")),
        ("127.66.0.1", 2, ("access.cidr:5", "reject")),
        ("2001:db8::1", 1, ("T1",)),
    ):
        done = sluice("explain", address, "--config", str(front.config))
        assert done.returncode == code, (address, done.returncode, done.stdout, done.stderr)
        for word in words:
            assert word in done.stdout, (address, word, done.stdout)
    assert sluice("explain", "not-an-address", "--config", str(front.config)).returncode == 64


def without_io_uring(call=425):
    """In the child: io_uring_setup, or another call, gives EPERM, as under a container's seccomp profile."""
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    # BPF: load the system call's number; 425 is io_uring_setup on every architecture, 426 _enter, 427 _register.
    rules = struct.pack("HBBI", 0x20, 0, 0, 0)
    rules += struct.pack("HBBI", 0x15, 0, 1, call)
    rules += struct.pack("HBBI", 0x06, 0, 0, 0x0005_0000 | 1)
    rules += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF_0000)
    code = ctypes.create_string_buffer(rules, len(rules))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    program = Program(4, ctypes.cast(code, ctypes.c_void_p))
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
def test_without_io_uring_it_says_why_and_exits_69(shield):
    front = shield(2600, start=False)
    done = sluice("serve", "--config", str(front.config), preexec_fn=without_io_uring)
    assert done.returncode == 69, (done.returncode, done.stderr)
    assert "io_uring" in done.stderr and re.search("seccomp|sysctl|kernel", done.stderr), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize("call, name", [(426, "io_uring_enter"), (427, "io_uring_register")])
def test_with_a_part_of_io_uring_it_says_which_is_forbidden_and_exits_69_before_it_is_ready(shield, call, name):
    front = shield(2600, start=False)
    done = sluice("serve", "--config", str(front.config), preexec_fn=lambda: without_io_uring(call))
    assert done.returncode == 69, (done.returncode, done.stderr)
    assert name + "(" in done.stderr or name + " failed" in done.stderr, done.stderr
    assert "io_uring_setup is allowed" in done.stderr and "seccomp" in done.stderr, done.stderr
    assert "sluice ready" not in done.stderr, done.stderr


def test_a_file_is_not_the_journal_though_the_variable_is_inherited(shield, tmp_path):
    front = shield(2600, start=False)
    log = tmp_path / "log"
    for named, mark in (("8:4711", False), ("its own", True)):
        with open(log, "w") as file:
            state = os.fstat(file.fileno())
            stream = f"{state.st_dev}:{state.st_ino}" if mark else named
            process = subprocess.Popen(
                [SLUICE, "serve", "--config", str(front.config)], stderr=file,
                env={**os.environ, "JOURNAL_STREAM": stream})
        wait_until(lambda: "sluice ready" in log.read_text(), 15, "ready")
        process.terminate()
        assert process.wait(10) == 0
        lines = [line for line in log.read_text().splitlines() if "STATS" in line or line.endswith("stopped")]
        assert lines and all(line.startswith("<") == mark for line in lines), (stream, lines[:3])


def test_root_is_told_that_it_need_not_be(shield):
    front = shield(2600)
    said = re.search(r"warning: running as root.*setpriv", front.log)
    assert bool(said) == (os.geteuid() == 0), front.log


def test_a_port_that_is_taken_is_told_so(shield):
    with socket.create_server(("127.0.0.1", 0)) as other:
        front = shield(2600, start=False)
        port = other.getsockname()[1]
        front.settings["listeners"] = [{"address": f"127.0.0.1:{port}", "role": "inbound"}]
        front.write_config()
        done = sluice("serve", "--config", str(front.config))
        assert done.returncode == 71 and str(port) in done.stderr, (done.returncode, done.stderr)


def both(front, code, *words, **options):
    """`check` finds what `serve` ends with, says it in the same words, and each says it once."""
    for command in ("check", "serve"):
        done = sluice(command, "--config", str(front.config), **options)
        assert done.returncode == code, (command, done.returncode, done.stderr)
        for word in words:
            assert done.stderr.count(word) == 1, (command, word, done.stderr)
        assert ": good" not in done.stderr, done.stderr
    # The files themselves are good.
    done = sluice("check", "--files-only", "--config", str(front.config))
    assert done.returncode == 0 and ": good" in done.stderr, done.stderr


def test_check_and_serve_find_the_folder_of_the_log_missing(shield, tmp_path):
    front = shield(2600, {"log": {"destination": str(tmp_path / "none/sluice.log")}}, start=False)
    both(front, 73, "cannot open the log file", "create its folder first")
    front.settings["log"]["destination"] = str(tmp_path / "sluice.log")
    front.write_config()
    assert sluice("check", "--config", str(front.config)).returncode == 0
    assert not (tmp_path / "sluice.log").exists(), "check wrote something"


def test_check_and_serve_find_a_port_taken_and_check_says_by_whom(shield):
    with socket.create_server(("127.0.0.1", 0)) as other:
        front = shield(2600, start=False)
        front.settings["listeners"] = [{"address": f"127.0.0.1:{other.getsockname()[1]}"}]
        front.write_config()
        both(front, 71, "Cannot listen on 127.0.0.1:")
        done = sluice("check", "--config", str(front.config))
        name = pathlib.Path("/proc/self/comm").read_text().strip()
        assert f"It is held by {name} (process {os.getpid()})." in done.stderr, done.stderr


def test_check_knows_the_port_that_the_running_sluice_holds(sink, shield):
    front = shield(sink(store=False))
    done = sluice("check", "--config", str(front.config))
    assert done.returncode == 0, done.stderr
    assert f"is held by the running Sluice (process {front.pid})" in done.stderr, done.stderr


def test_check_finds_io_uring_forbidden(shield):
    both(shield(2600, start=False), 69, "io_uring_setup failed", preexec_fn=without_io_uring)


def test_check_finds_too_few_descriptors(shield):
    front = shield(2600, {"limits": {"connections": 4000}}, start=False)
    done = [
        sluice(command, "--config", str(front.config), preexec_fn=few_descriptors) for command in ("check", "serve")]
    assert done[0].returncode == done[1].returncode != 0, done
    assert all("RLIMIT_NOFILE is 64" in one.stderr for one in done), done


def no_low_ports():
    """In the child: root without CAP_NET_BIND_SERVICE, by PR_CAPBSET_DROP."""
    if ctypes.CDLL(None, use_errno=True).prctl(24, 10, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give up a capability it has")
def test_check_and_serve_may_not_listen_on_a_low_port(shield):
    if int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 99:
        pytest.skip("everybody may listen on port 99 here")
    front = shield(2600, start=False)
    front.settings["listeners"] = [{"address": "127.0.0.1:99"}]
    front.write_config()
    both(front, 77, "CAP_NET_BIND_SERVICE. ", preexec_fn=no_low_ports)


def unit(key):
    """The values of a key in the shipped unit, in their order."""
    text = (ROOT / "docs/sluice.service").read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.M)


def test_systemctl_reload_checks_first_and_can_fail(sink, shield):
    """As systemd runs ExecReload=: one command after the other, until one fails."""
    front = shield(sink(store=False), {"hostname": "old.example.org"})
    good = front.config.read_text()

    def reload():
        for line in unit("ExecReload"):
            words = line.replace("$MAINPID", str(front.pid)).replace("/usr/local/bin/sluice", SLUICE)
            done = subprocess.run(
                words.replace("/etc/sluice/sluice.yaml", str(front.config)).split(), capture_output=True, text=True)
            if done.returncode != 0:
                return done
        return done

    front.config.write_text(good.replace("old.example.org", "new.example.org") + "mod: x\n")
    done = reload()
    assert done.returncode == 78 and "unknown key 'mod'" in done.stderr, done
    with front.dialogue("127.0.70.1") as client:
        assert "old.example.org" in client.expect(220).lines[0]
    assert "RELOAD" not in front.log
    front.config.write_text(good.replace("old.example.org", "new.example.org"))
    assert reload().returncode == 0
    front.program.wait_for("RELOAD done")
    with front.dialogue("127.0.70.2") as client:
        assert "new.example.org" in client.expect(220).lines[0]


def test_the_unit_does_not_start_again_what_will_not_mend_itself():
    stays = {int(code) for code in unit("RestartPreventExitStatus")[0].split()}
    assert {64, 66, 69, 73, 77, 78} <= stays
    # A name without an address, a port that is taken, a worker that ended.
    assert not {68, 70, 71} & stays


def test_it_starts_from_options_alone(sink):
    from harness import Program, free_port

    box = sink(store=False)
    port = free_port()
    program = Program(
        [SLUICE, "serve", "--listen", f"127.0.0.1:{port}", "--downstream", f"127.0.0.1:{box.port}"])
    try:
        program.wait_for("sluice ready")
        # Ships observing: nobody waits.
        with Dialogue(port, source(1, 220)) as client:
            assert client.expect(220).at < 0.3
            client.hello()
            assert client.deliver().code == 250
            client.command("QUIT", 221)
        program.signal(signal.SIGTERM)
        assert program.wait(10) == 0
    finally:
        program.kill()


def test_the_two_terminals_of_readme_delay_a_message_as_they_say(tmp_path):
    """The commands as they stand there, on other ports."""
    need("swaks")
    from harness import Program, free_port

    page = (ROOT / "README.md").read_text()
    inner, outer = free_port(), free_port()

    def command(start):
        line = re.search(rf"^    ({re.escape(start)}.*)$", page, re.M)[1]
        words = line.replace(":2600", f":{inner}").replace(":2525", f":{outer}").split()
        return [SLUICE if word.endswith("/sluice") else word for word in words]

    behind = Program(command(".build/release/sluice sink"))
    front = None
    try:
        behind.wait_for("sink ready")
        front = Program(command(".build/release/sluice serve"))
        front.wait_for("sluice ready")
        said = subprocess.run(command("swaks"), capture_output=True, text=True, timeout=120)
        assert said.returncode == 0, said.stdout + said.stderr
        line = front.wait_for("DISCONNECT from")
        seconds = re.search(r"arrives after ([0-9.]+) seconds", page)[1]
        assert f" delayed={seconds}s " in line and "reasons=" not in line and " messages=1 " in line, line
    finally:
        if front:
            front.kill()
        behind.kill()


@pytest.mark.alone
def test_2000_silent_connections_are_held_while_mail_flows(sink, shield):
    need("smtp-source")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2200:
        pytest.skip("fewer than 2,200 descriptors are allowed here")
    box = sink(store=False)
    front = shield(
        box,
        {
            "limits": {"connections": 4000},
            "tarpit": {"sessions_per_source": 5},
            "delays": {"banner": {"bad": "60s"}},
        },
    )
    # Bad, suspicious and unknown ones, each from an address of its own.
    held = [Dialogue(front.port, f"127.{1 + n % 3}.{230 + n // 750}.{1 + n // 3 % 250}") for n in range(2000)]
    try:
        started = time.monotonic()
        smtp_source(front.port, 1000, 1024, sessions=20)
        took = time.monotonic() - started
        assert box.counts()["messages"] == 1000
        # T1 wait 4 s, T2 22 s; all are still there.
        time.sleep(max(0, 5 - (time.monotonic() - started)))
        closed = sum(not client.still_open(0.001) for client in held)
        banners = sum(b"220" in client.waiting for client in held[0::3])
        print(f"1,000 messages in {took:.1f} s beside 2,000 silent peers")
        assert closed == 0, f"{closed} were let go"
        assert banners == len(held[0::3]), banners
        assert not any(client.waiting for client in held[1::3]), "a T2 banner before its time"
    finally:
        for client in held:
            client.close()


def few_descriptors():
    """In the child: 64 descriptors at the most, the ring's table included."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_running_out_of_descriptors_delays_newcomers_and_is_told_when_slots_end(sink, shield):
    box = sink(store=False)
    limits = {"connections": 40, "sessions": 40, "downstream_connections": 8}
    front = shield(box, {"delays": NO_DELAYS, "workers": 1, "limits": limits}, start=False)
    front.start(preexec_fn=few_descriptors)
    # Asleep while they come, so that they all stand in the backlog at once.
    front.signal(signal.SIGSTOP)
    clients = [Dialogue(front.port, source(0, 90, n % 200 + 1), timeout=30) for n in range(200)]
    front.signal(signal.SIGCONT)
    codes = []
    try:
        # A handful fit at a time; the others wait in the backlog until descriptors have moved.
        for client in clients:
            codes.append(client.reply().code)
        assert codes.count(220) == 40 and codes.count(421) == 160, codes
        inside = clients[codes.index(220)]
        inside.command(f"EHLO {inside.name}", 250)
        assert inside.deliver().code == 250
    finally:
        for client in clients:
            client.close()
    front.signal(signal.SIGUSR2)
    front.program.wait_for(r"descriptors_exhausted=[1-9]")
