# SPDX-License-Identifier: Apache-2.0
"""A resource fails, at every place where it can: no descriptor, no memory, no thread, nobody who reads our words. The
process lives on, sessions after it succeed, and nothing is acknowledged that was not stored."""

import errno
import os
import signal
import socket
import subprocess
import time

import pytest

from faults import Faults
from harness import (
    DIRECT, NO_DELAYS, SHORT_TIMEOUTS, SLUICE, Dialogue, in_parallel, merged, source, wait_until)
from secure import Keys, SecureDialogue

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no shield to fail")

QUICK = {"timeouts": SHORT_TIMEOUTS, "delays": NO_DELAYS}


@pytest.fixture
def faulty(tmp_path, shield):
    """faulty(port, config): a shield whose calls can be made to fail, and the `Faults` that do it."""
    made = Faults(tmp_path / "faults")

    def make(downstream, config=None, start=True, **more):
        front = shield(downstream, config, start=False, **more)
        if start:
            front.start(env=made.environment)
        return front, made

    return make


def attempt(front, host="127.0.0.1", keys=None):
    """A session as far as it goes; whether its message was acknowledged."""
    try:
        with SecureDialogue(front.port, host, timeout=20) as client:
            if keys:
                client.starttls(keys.trusting())
            else:
                client.greet()
            return client.deliver().code == 250
    except (AssertionError, OSError):
        return False


def test_no_socket_for_sixty_mails_that_are_due_in_one_turn(sink, faulty):
    box = sink()
    delays = merged(NO_DELAYS, {"mail": {"clean": "2s"}})
    front, faults = faulty(box, {"timeouts": SHORT_TIMEOUTS, "delays": delays})
    clients = [Dialogue(front.port, source(1, 40 + n, 1), timeout=30) for n in range(60)]
    try:
        for client in clients:
            client.greet()
        for client in clients:
            client.send("MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\n")
        wait_until(lambda: front.statistic("talking") >= 60, 10, "all of them talk")
        # Asleep when they become due, so that all are due at once.
        front.signal(signal.SIGSTOP)
        faults.fail("socket", times=10_000)
        time.sleep(2.5)
        front.signal(signal.SIGCONT)
        codes = [client.reply().code for client in clients]
    finally:
        for client in clients:
            client.close()
    assert set(codes) <= {250, 421, 451}, codes
    faults.stop("socket")
    wait_until(lambda: attempt(front, source(0, 41)), 20, "mail goes on when there are sockets again")


@pytest.mark.parametrize(
    "place, error",
    [
        ("socket", errno.EMFILE),
        ("socket", errno.ENOBUFS),
        ("getsockopt", errno.ENOMEM),
        ("setsockopt", errno.ENOMEM),
        ("files_update", errno.ENOMEM),
        ("enter", errno.EAGAIN),
        ("enter", errno.ENOMEM),
        ("enter", errno.EINTR),
        ("write", errno.ENOSPC),
        ("write", errno.EPIPE),
    ],
)
def test_the_nth_call_that_fails_costs_a_session_at_most(sink, faulty, place, error):
    box = sink()
    front, faults = faulty(box, QUICK)
    wait_until(lambda: attempt(front), 10, "a first message")
    before = faults.calls(place)
    assert attempt(front)
    needed = faults.calls(place) - before
    acknowledged = 2
    for number in range(1, min(needed, 40) + 2):
        faults.fail(place, number, error=error)
        acknowledged += attempt(front, source(0, 50, number))
        faults.stop(place)
        assert front.program.running, front.log
        # A link that failed may leave the downstream down until the next probe.
        wait_until(lambda: attempt(front, source(0, 51, 1 + number)), 10, f"mail after failure {number} of {place}")
        acknowledged += 1
    assert acknowledged <= len(box.messages())


def test_a_kernel_without_memory_for_a_second_ends_no_worker(sink, faulty):
    box = sink()
    front, faults = faulty(box, QUICK)
    wait_until(lambda: attempt(front), 10, "a first message")
    faults.fail("enter", times=1_500, error=errno.EAGAIN)
    assert wait_until(lambda: attempt(front), 30, "mail after the memory came back")
    assert front.program.running


def test_openssl_without_memory_ends_one_connection_and_not_the_process(sink, faulty, tmp_path):
    keys = Keys(tmp_path / "keys")
    box = sink()
    front, faults = faulty(box, merged(QUICK, {"tls": {"certificates": [keys.make("mx")]}}))
    wait_until(lambda: attempt(front, keys=keys), 10, "a first message under TLS")
    before = faults.calls("openssl")
    assert attempt(front, keys=keys)
    needed = faults.calls("openssl") - before
    assert needed > 100, "OpenSSL allocates by other means"
    acknowledged, failed = 2, 0
    # One in so many: a handshake has a thousand and more, and each costs one here.
    for number in range(1, needed + 1, max(needed // 150, 1)):
        faults.fail("openssl", number, error=errno.ENOMEM)
        done = attempt(front, keys=keys)
        acknowledged += done
        failed += not done
        assert front.program.running, front.log[-2_000:]
    faults.stop("openssl")
    assert failed > 0
    # And where there is none at all for a while.
    faults.fail("openssl", times=1_000_000, error=errno.ENOMEM)
    for _ in range(5):
        assert not attempt(front, keys=keys)
    faults.stop("openssl")
    assert attempt(front, keys=keys) and attempt(front)
    assert front.statistic("out_of_memory") > 0
    assert acknowledged + 2 <= len(box.messages())


def test_without_a_thread_it_says_so_at_the_start_and_exits_71(sink, faulty):
    box = sink(store=False)
    front, faults = faulty(box, {"workers": 2}, start=False)
    for number in (1, 2, 3):
        faults.fail("thread", number, error=errno.EAGAIN)
        done = subprocess.run(
            [SLUICE, "serve", "--config", str(front.config)], env=faults.environment, capture_output=True,
            timeout=30, text=True)
        assert done.returncode == 71 and "cannot start a thread" in done.stderr, (number, done)


@pytest.mark.parametrize("command", ["check", "serve", "explain"])
@pytest.mark.parametrize("where", ["full", "closed", "pipe"])
def test_nobody_reads_standard_error(shield, command, where):
    front = shield(2600, start=False)
    # Something to say: a warning, and for `serve` an error.
    front.settings["smtp"] = {"recipients": 50}
    taken = socket.create_server(("127.0.0.1", front.port)) if command == "serve" else None
    front.write_config()
    words = [SLUICE, command, "--config", str(front.config)] + (["192.0.2.1"] if command == "explain" else [])
    if where == "full":
        with open("/dev/full", "w") as full:
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=full, timeout=30)
    elif where == "closed":
        done = subprocess.run(words, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2), timeout=30)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=writer, timeout=30)
        os.close(writer)
    if taken:
        taken.close()
    assert done.returncode == {"check": 0, "serve": 71, "explain": 1}[command], done


@pytest.mark.parametrize("where", ["full", "closed", "pipe"])
def test_mail_flows_while_nobody_reads_standard_error(sink, shield, where):
    box = sink()
    front = shield(box, QUICK, start=False)
    words = [SLUICE, "serve", "--config", str(front.config)]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full:
        if where == "closed":
            process = subprocess.Popen(words, preexec_fn=lambda: os.close(2))
        else:
            process = subprocess.Popen(words, stderr=full if where == "full" else writer)
    os.close(writer)
    try:
        wait_until(lambda: attempt(front), 20, "a message")
        assert attempt(front)
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGHUP)
        assert attempt(front)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert len(box.messages()) >= 3


def test_standard_output_that_takes_nothing_is_told(shield):
    front = shield(2600, start=False)
    for words in (["check", "--dump"], ["explain", "192.0.2.1"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [SLUICE, *words, "--config", str(front.config)], stdout=full, stderr=subprocess.PIPE, timeout=30)
        assert done.returncode == 74 and b"cannot write to standard output" in done.stderr, (words, done)


@pytest.mark.parametrize("stage", ["mail", "dot"])
def test_what_came_while_the_process_stood_still_goes_before_what_was_due(sink, shield, stage):
    """The reply is in the socket long before its time-out is looked at."""
    listener = socket.create_server(("127.0.0.1", 0))
    front = shield(listener.getsockname()[1], merged(QUICK, {"downstream": {"probe_every": "1h"}}))
    listener.settimeout(20)

    def server():
        # The first connection is the probe.
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(20)
                peer.sendall(b"220 back.example ESMTP\r\n")
                file = peer.makefile("rb")
                for line in file:
                    verb = line[:4].upper()
                    if verb == b"EHLO":
                        peer.sendall(b"250 back.example\r\n")
                    elif verb == b"QUIT":
                        peer.sendall(b"221 bye\r\n")
                        break
                    elif verb == b"DATA":
                        peer.sendall(b"354 go on\r\n")
                        while file.readline() != b".\r\n":
                            pass
                        if stage == "dot":
                            pause(peer)
                        else:
                            peer.sendall(b"250 stored\r\n")
                        return
                    elif verb == b"MAIL" and stage == "mail":
                        pause(peer)
                    else:
                        peer.sendall(b"250 ok\r\n")

    def pause(peer):
        front.signal(signal.SIGSTOP)
        wait_until(lambda: state(front.pid) == "T", 10, "it has stopped")
        peer.sendall(b"250 late but here\r\n")
        # More than the two seconds that it waits.
        time.sleep(3)
        front.signal(signal.SIGCONT)

    def client():
        with Dialogue(front.port, source(0, 60), timeout=20) as one:
            one.greet()
            return one.deliver().code

    try:
        code, _ = in_parallel(client, server)
    finally:
        front.signal(signal.SIGCONT)
        listener.close()
    assert code == 250
    assert front.statistic("pauses") >= 1


def test_a_reload_of_a_file_that_never_comes_leaves_term_heard(sink, faulty):
    """As on an NFS server that is gone: the open itself waits."""
    box = sink()
    front, faults = faulty(box, QUICK)
    wait_until(lambda: attempt(front), 10, "a first message")
    waiting = front.folder / "rates.waiting"
    waiting.write_text("")
    front.settings["tables"]["rates"] = str(waiting)
    front.write_config()
    faults.hold_open()
    front.signal(signal.SIGHUP)
    wait_until(lambda: faults.calls("open") > 0, 10, "the reload waits")
    # Mail, statistics and the end are none of its business.
    assert attempt(front)
    assert front.statistic("messages") >= 2
    front.signal(signal.SIGTERM)
    assert front.program.wait(20) == 0


def test_without_a_thread_a_reload_fails_and_the_next_one_does_not(sink, faulty):
    box = sink()
    front, faults = faulty(box, QUICK)
    wait_until(lambda: attempt(front), 10, "a first message")
    faults.fail("thread", error=errno.EAGAIN)
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD failed: cannot start a thread")
    faults.stop("thread")
    front.signal(signal.SIGHUP)
    front.program.wait_for("RELOAD done")
    assert attempt(front)


def state(pid):
    """The letter that /proc has for a process."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]
