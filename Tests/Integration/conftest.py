# SPDX-License-Identifier: Apache-2.0
"""Fixtures: each makes what a test asks for and sees to it that it ends, and ends well."""

import os
import shutil
import subprocess

import pytest

import harness


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: measures, or loads the machine: not beside other tests")
    harness.raise_descriptor_limit()


def pytest_sessionstart(session):
    if not os.access(harness.SLUICE, os.X_OK):
        pytest.exit(f"{harness.SLUICE} is missing: swift build -c release, or set SLUICE", 2)


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def sink(tmp_path):
    """sink("--die-at", "mail", …): a running `sluice sink`."""
    made = []

    def make(*options, **more):
        one = harness.Sink(tmp_path / f"sink{len(made)}", *options, **more)
        made.append(one)
        return one.start()

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def shield(tmp_path):
    """shield(port, config, access=…, rates=…): a running `sluice serve`, held to a clean end."""
    made = []

    def make(downstream, config=None, start=True, **more):
        port = downstream if isinstance(downstream, int) else downstream.port
        one = harness.Shield(tmp_path / f"shield{len(made)}", port, config, **more)
        made.append(one)
        return one.start() if start else one

    yield make
    failures = []
    for one in made:
        try:
            one.stop()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def recorder():
    """recorder(…): a downstream that keeps every byte."""
    made = []

    def make(**options):
        made.append(harness.Recorder(**options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def running(kind, *arguments):
    """A mail server for as long as a fixture is asked for it; without it the test is skipped and says why."""
    reason = kind.missing()
    if reason:
        pytest.skip(reason)
    one = kind(*arguments)
    try:
        yield one.start()
    finally:
        one.stop()


@pytest.fixture(scope="module")
def postfix():
    """A running Postfix for the tests of one file."""
    yield from running(harness.Postfix)


@pytest.fixture
def smtp_sink(tmp_path):
    """smtp_sink(): Postfix's own receiver; its port and the folder with one file a message."""
    need("smtp-sink")
    made = []

    def make():
        folder = tmp_path / f"smtp-sink{len(made)}"
        port = harness.free_port()
        command = ["smtp-sink", "-h", "smtp-sink.example"]
        if os.geteuid() == 0:
            command += ["-u", "root"]
        folder.mkdir()
        command += ["-d", f"{folder}/m.", f"127.0.0.1:{port}", "1000"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        made.append(process)

        def greets():
            if process.poll() is not None:
                raise AssertionError(process.stderr.read().decode())
            try:
                with harness.Dialogue(port) as client:
                    return client.reply(2).code == 220
            except OSError:
                return False

        harness.wait_until(greets, 5, "smtp-sink's banner")
        return port, folder

    yield make
    for process in made:
        process.terminate()
        process.wait(5)
        process.stderr.close()
