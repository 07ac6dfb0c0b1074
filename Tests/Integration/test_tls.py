# SPDX-License-Identifier: Apache-2.0
"""TLS on both sides, on real sockets: that mail gets through it whole, and that nothing else does."""

import asyncio
import os
import random
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import time

import pytest

from conftest import need, running
from harness import DIRECT, NO_DELAYS, SHORT_TIMEOUTS, SLUICE, Closed, free_port, wait_until
from secure import (
    BACK, HOST, Keys, SecureDialogue, SecurePostfix, SecureRecorder, openssl, run_all)
from test_mail import digest, letter

pytestmark = [
    pytest.mark.skipif(DIRECT, reason="there is no shield that speaks TLS"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["TLS 1.2", "TLS 1.3"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    keys = Keys(tmp_path_factory.mktemp("keys"))
    keys.mx = keys.make("mx", by="middle")
    keys.back = keys.make("postfix", names=[BACK])
    return keys


@pytest.fixture(scope="module")
def secure_postfix(keys):
    yield from running(SecurePostfix, keys.back)


@pytest.fixture
def secure_recorder(keys):
    made = []

    def make(**options):
        made.append(SecureRecorder(keys.back, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def front(shield, keys):
    """front(downstream, config, …): a shield with a certificate, STARTTLS on `port`, and TLS at once on `implicit`."""

    def make(downstream, config=None, entries=None, start=True, **more):
        one = shield(downstream, {"delays": NO_DELAYS, **(config or {})}, start=False, **more)
        one.implicit, one.passing = free_port(), free_port()
        one.settings["listeners"] += [
            {"address": f"127.0.0.1:{one.implicit}", "tls": "implicit"},
            {"address": f"127.0.0.1:{one.passing}", "tls": "pass_through"},
        ]
        one.settings["tls"] = {"certificates": entries or [keys.mx], **one.settings.get("tls", {})}
        one.write_config()
        return one.start() if start else one

    return make


def back_by(keys, level):
    """What a downstream with TLS is spoken to by."""
    return {"tls": level, "tls_name": BACK, "tls_ca": str(keys.authority)}


def s_client(port, *arguments, say="QUIT\r\n", timeout=15, **options):
    # -quiet: letters at the start of a line are not commands of its own.
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *map(str, arguments)], input=say, text=True,
        capture_output=True, timeout=timeout, **options)


def dialogue(front, source="127.0.0.1", port=None, **options):
    return SecureDialogue(port or front.port, source, **options)


def all_gone(front, seconds=10):
    wait_until(lambda: front.statistic("held") == 0 and front.statistic("tls_sessions") == 0, seconds,
               "every session given back")


# MARK: Mail


@pytest.mark.parametrize("word", ["tls1_2", "tls1_3"])
def test_s_client_and_swaks_reach_postfix_with_starttls_on_both_hops(secure_postfix, front, keys, word):
    need("swaks")
    shield = front(secure_postfix, {"downstream": back_by(keys, "verify")})
    shield.wait_for_keyword("8BITMIME")
    name = {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}[word]
    subject = f"by {word}"
    said = (f"EHLO c.client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
            f"Subject: letter s_client {subject}\r\n\r\nhello\r\n.\r\nQUIT\r\n")
    talk = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{shield.port}", "-starttls", "smtp", f"-{word}", "-quiet",
         "-crlf", "-CAfile", str(keys.authority), "-verify_return_error", "-verify_hostname", HOST],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in said.replace("\r", "").splitlines(keepends=True):
        talk.stdin.write(line)
        talk.stdin.flush()
        time.sleep(0.05)
    output, _ = talk.communicate(timeout=10)
    assert "354 " in output and "queued as" in output and "221 " in output, output
    assert "verify error" not in output
    done = subprocess.run(
        ["swaks", "--server", f"127.0.0.1:{shield.port}", "--to", "b@example.com", "--from", "s@client.example",
         "--tls", "--tls-protocol", word.replace("tls1", "tlsv1"), "--header", f"Subject: letter swaks {subject}"],
        capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TLS started with cipher {name}" in done.stdout, done.stdout
    wait_until(lambda: sum(subject.encode() in one for one in secure_postfix.messages()) == 2, 10, "both letters")
    assert "Anonymous TLS connection established from" in secure_postfix.log
    assert f"TLS from [127.0.0.1]" in shield.log and f" {name} with cipher" in shield.log, shield.log
    headers = next(one for one in secure_postfix.messages() if subject.encode() in one)
    assert b"using TLSv1.3" in headers, headers


def test_implicit_tls_by_s_client_and_swaks(secure_postfix, front, keys):
    need("swaks")
    shield = front(secure_postfix, {"downstream": back_by(keys, "required")})
    done = s_client(shield.implicit, "-quiet", "-CAfile", keys.authority, "-verify_return_error",
                    "-verify_hostname", HOST)
    assert "220 mx.sluice.example" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["swaks", "--server", f"127.0.0.1:{shield.implicit}", "--to", "b@example.com", "--tlsc"],
        capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pass_through_shows_the_downstreams_own_certificate_and_carries_a_letter(secure_postfix, front, keys):
    shield = front(secure_postfix)
    shield.wait_for_keyword("8BITMIME")
    done = s_client(shield.passing, "-starttls", "smtp", "-CAfile", keys.authority, "-verify_return_error",
                    "-verify_hostname", BACK)
    assert "subject=CN = postfix.example" in done.stdout, done.stdout + done.stderr
    before = secure_postfix.count()
    data = letter(77, 2_000_000)
    with smtplib.SMTP("127.0.0.1", shield.passing, timeout=30) as client:
        client.starttls(context=keys.trusting())
        client.sendmail("a@client.example", ["b@example.com"], data, ["BODY=8BITMIME"])
    wait_until(lambda: secure_postfix.count() > before, 10, "the letter")
    arrived = [one for one in secure_postfix.messages() if b"Subject: letter 77\n" in one]
    text = arrived[0][arrived[0].index(b"Subject: letter 77") :].replace(b"\n", b"\r\n")
    assert digest(text) == digest(data)
    assert "TLS PASSED ON" in shield.log


@pytest.mark.parametrize("level", ["required", "verify"])
def test_pass_through_sends_no_mail_in_clear_where_starttls_was_refused(secure_recorder, front, keys, level):
    back = secure_recorder()
    shield = front(back, {"downstream": back_by(keys, level)})
    shield.wait_for_keyword("8BITMIME")
    back.refusing = True
    with dialogue(shield, port=shield.passing) as client:
        client.greet()
        client.command("STARTTLS", 454)
        client.command("MAIL FROM:<a@client.example>", 451)
        assert b"MAIL FROM" not in back.bytes and not back.bodies
        # The same client, once there is TLS again.
        back.refusing = False
        assert client.deliver().code == 250
    assert len(back.bodies) == 1
    assert not any(b"MAIL FROM" in one for one in back.received if one.count(b"EHLO") < 2), back.received


def test_pass_through_answers_a_client_that_has_closed_its_side(secure_recorder, front, keys):
    back = secure_recorder(dot_delay=0.5)
    shield = front(back)
    shield.wait_for_keyword("8BITMIME")
    for _ in range(10):
        with dialogue(shield, port=shield.passing) as client:
            client.starttls(keys.trusting(), BACK)
            client.open_data()
            client.send("Subject: half closed\r\n\r\nhello\r\n.\r\nQUIT\r\n")
            client.socket.plain.shutdown(socket.SHUT_WR)
            client.expect(250)
            client.expect(221)
            client.until_closed()
    assert len(back.bodies) == back.replied_to_dot == 10
    wait_until(lambda: shield.statistic("held") == 0, 5, "every slot given back")


def send_letter(shield, context, data, recipients=1, starttls=True):
    with smtplib.SMTP("127.0.0.1", shield.port, timeout=60) as client:
        if starttls:
            client.starttls(context=context)
        refused = client.sendmail(
            "a@client.example", [f"b{n}@example.com" for n in range(recipients)], data, ["BODY=8BITMIME"])
        assert not refused


@VERSIONS
def test_5_mb_and_many_recipients_arrive_byte_for_byte_from_tls_to_clear(sink, front, keys, version):
    box = sink()
    shield = front(box)
    data = letter(1, 5_000_000)
    send_letter(shield, keys.trusting(version), data, recipients=100)
    [(envelope, body)] = box.messages()
    assert digest(body) == digest(data) and len(envelope) >= 101


@pytest.mark.parametrize("starttls", [False, True], ids=["clear to TLS", "TLS to TLS"])
def test_5_mb_and_many_recipients_arrive_byte_for_byte_towards_tls(secure_recorder, front, keys, starttls):
    back = secure_recorder()
    shield = front(back, {"downstream": back_by(keys, "verify")})
    shield.wait_for_keyword("8BITMIME")
    data = letter(2, 5_000_000)
    send_letter(shield, keys.trusting(), data, recipients=100, starttls=starttls)
    send_letter(shield, keys.trusting(), b"Subject: small\r\n\r\n.\r\n", starttls=starttls)
    assert [digest(body) for body in back.bodies] == [digest(data), digest(b"Subject: small\r\n\r\n.\r\n")]


def test_a_downstream_that_cannot_prove_its_name_gets_no_mail(secure_recorder, front, keys):
    back = secure_recorder()
    shield = front(back, {"downstream": {**back_by(keys, "verify"), "tls_name": "other.example"},
                          "timeouts": SHORT_TIMEOUTS})
    with dialogue(shield) as client:
        client.expect(220)
        # What it offers to those who are sure of it nobody knows.
        client.command("EHLO client.example", 421, "4.3.2")
    with dialogue(shield) as client:
        client.expect(220)
        client.command("HELO client.example", 250)
        client.command("MAIL FROM:<a@client.example>", 451, "4.4.1")
    assert not back.bodies


def test_a_long_reply_passes_whole(sink, front, keys):
    lines = [f"550-5.7.1 {'y' * 400} {n}" for n in range(12)] + ["550 5.7.1 end"]
    box = sink("--answer", "rcpt=" + r"\n".join(lines), store=False)
    shield = front(box)
    with dialogue(shield) as client:
        client.starttls(keys.trusting())
        client.command("MAIL FROM:<a@client.example>", 250)
        reply = client.command("RCPT TO:<b@example.com>", 550)
        assert reply.raw.decode() == "\r\n".join(lines) + "\r\n"


@VERSIONS
def test_300_sessions_at_once_each_deliver(sink, front, keys, version):
    box = sink(store=False)
    shield = front(box, {"limits": {"sessions": 1000, "downstream_connections": 500}})
    context = keys.trusting(version)

    async def one(number, room):
        async with room:
            source = (f"127.0.{number % 200}.{1 + number // 200}", 0)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", shield.implicit, ssl=context, server_hostname=HOST, local_addr=source)
            try:
                await reader.readline()
                for line, code in (
                    ("EHLO c.example", b"250 "), ("MAIL FROM:<a@client.example>", b"250 "),
                    ("RCPT TO:<b@example.com>", b"250 "), ("DATA", b"354 "),
                    ("Subject: x\r\n\r\n" + "y" * 60 + "\r\n.", b"250 "), ("QUIT", b"221 "),
                ):
                    writer.write(f"{line}\r\n".encode())
                    while not (reply := await asyncio.wait_for(reader.readline(), 30)).startswith(code):
                        assert reply[3:4] == b"-", reply
            finally:
                writer.transport.abort()

    async def everybody():
        # So many handshakes of a client at once as one processor can do within the handshake's time.
        room = asyncio.Semaphore(300)
        await asyncio.gather(*(one(n, room) for n in range(300)))

    asyncio.run(everybody())
    assert box.counts()["messages"] == 300
    all_gone(shield)


@pytest.mark.parametrize("secured", [False, True], ids=["clear", "TLS"])
def test_a_group_with_a_refused_recipient_is_answered_and_the_client_is_heard_on(
        secure_postfix, front, keys, secured):
    """The reply to a refused recipient is held back while what follows DATA is awaited already."""
    shield = front(secure_postfix, {
        "delays": {**NO_DELAYS, "rcpt_rejected": {"clean": "700ms", "suspicious": "1s", "bad": "1s"}}})
    shield.wait_for_keyword("PIPELINING")
    for number, good in enumerate(["", "RCPT TO:<b@example.com>\r\n"]):
        with dialogue(shield, f"127.1.{40 + 2 * number + secured}.9") as client:
            if secured:
                client.starttls(keys.trusting())
            else:
                client.greet()
            client.send(f"MAIL FROM:<a@client.example>\r\n{good}RCPT TO:<nobody@example.com>\r\nDATA\r\n")
            client.expect(250)
            if good:
                client.expect(250)
            client.expect(550)
            if good:
                client.expect(354)
                client.send("Subject: letter in a group\r\n\r\nhello\r\n.\r\n")
                client.expect(250)
            else:
                client.expect(554)
            client.command("RSET", 250)
            client.command("QUIT", 221)


@pytest.mark.parametrize("how", ["close", "reset", "silence"])
def test_opportunistic_tls_falls_back_however_a_handshake_ends(secure_recorder, front, keys, how):
    back = secure_recorder(breaks=how)
    shield = front(back, {"downstream": back_by(keys, "opportunistic"), "tls": {"handshake_timeout": "2s"}})
    with dialogue(shield, timeout=20) as client:
        client.greet()
        assert client.deliver().code == 250
    shield.program.wait_for("DOWNSTREAM IN CLEAR")


# MARK: What must not pass


def test_a_command_behind_starttls_in_one_segment_is_refused(secure_recorder, front):
    back = secure_recorder()
    shield = front(back)
    with dialogue(shield) as client:
        client.greet()
        client.send("STARTTLS\r\nMAIL FROM:<evil@client.example>\r\n")
        client.expect(554, "5.5.0")
        assert client.until_closed() == b"", client
    assert b"evil" not in back.bytes


def test_a_command_behind_starttls_before_the_220_is_refused(secure_recorder, front, keys):
    back = secure_recorder()
    shield = front(back)
    for piece in ("MAIL FROM:<evil@client.example>\r\n", "EHLO evil.example\r\n"):
        for _ in range(50):
            with dialogue(shield) as client:
                client.greet()
                client.pieces(["STARTTLS\r\n", piece], pause=0.0)
                reply = client.reply()
                # Both were read at once: the case above. Again, until they are read apart.
                if reply.code == 554:
                    continue
                assert reply.code == 220, client
                with pytest.raises((ssl.SSLError, OSError)):
                    client.secure(keys.trusting())
                break
        else:
            pytest.fail("the two pieces were never read apart")
    shield.program.wait_for("TLS FAILED .*clear text instead of a TLS handshake")
    assert b"evil" not in back.bytes


@VERSIONS
def test_what_was_said_in_clear_is_forgotten(secure_recorder, front, keys, version):
    back = secure_recorder()
    # Strictly, MAIL needs EHLO: so it shows that the one in clear is forgotten.
    shield = front(back, {"downstream": back_by(keys, "verify"), "smtp": {"syntax": "strict"}})
    with dialogue(shield) as client:
        keywords = client.greet().lines
        assert "STARTTLS" in keywords
        client.command("MAIL FROM:<early@client.example>", 250)
        client.command("STARTTLS", 220)
        client.secure(keys.trusting(version))
        client.command("RCPT TO:<b@example.com>", 503)
        client.command("MAIL FROM:<a@client.example>", 503)
        assert "STARTTLS" not in client.hello().lines
        client.command("STARTTLS", 503)
        assert client.deliver().code == 250
    assert back.dots == 1


@pytest.mark.parametrize("how", ["one segment", "two segments"])
@pytest.mark.parametrize("level", ["required", "verify"])
def test_a_reply_forged_behind_the_downstreams_220_gets_nothing(secure_recorder, front, keys, how, level):
    back = secure_recorder(injection=how)
    shield = front(back, {"downstream": back_by(keys, level), "timeouts": SHORT_TIMEOUTS})
    with dialogue(shield) as client:
        client.expect(220)
        # A downstream that was never reached offers nothing.
        assert client.command("EHLO client.example").code == 421, client
        assert "forged" not in str(client)
    assert not back.bodies and b"MAIL" not in back.bytes


def test_old_protocols_and_weak_ciphers_are_refused_and_there_is_no_compression(sink, front, keys):
    shield = front(sink(store=False))
    for word in ("-tls1", "-tls1_1"):
        done = s_client(shield.implicit, word, "-cipher", "DEFAULT@SECLEVEL=0")
        assert "Cipher is (NONE)" in done.stdout or done.returncode != 0, done.stdout
    for cipher in ("AES128-GCM-SHA256", "AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256",
                   "aNULL", "DHE-RSA-AES256-GCM-SHA384"):
        done = s_client(shield.implicit, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
        assert "Cipher is (NONE)" in done.stdout, (cipher, done.stdout)
    for word in ("-tls1_2", "-tls1_3"):
        done = s_client(shield.implicit, word)
        assert "Compression: NONE" in done.stdout and "Secure Renegotiation IS" in done.stdout, done.stdout
        assert re.search(r"Server Temp Key: X25519", done.stdout), done.stdout
        assert "no peer certificate" not in done.stdout
    assert "Secure Renegotiation IS supported" in s_client(shield.implicit, "-tls1_2").stdout


def test_renegotiation_is_refused(sink, front, keys):
    shield = front(sink(store=False))
    talk = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{shield.implicit}", "-tls1_2"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.3)
    output, _ = talk.communicate("R\n", timeout=10)
    assert "RENEGOTIATING" in output and re.search("no.renegotiation", output), output
    all_gone(shield)


# MARK: Certificates


def test_each_name_has_its_certificate(sink, front, keys):
    other = keys.make("other", names=["other.example", "*.wild.example"], kind="rsa")
    shield = front(sink(store=False), entries=[keys.mx, other])
    for name, subject in ((HOST, "mx"), ("other.example", "other"), ("a.wild.example", "other"),
                          ("unknown.example", "mx"), (None, "mx")):
        arguments = ["-servername", name] if name else ["-noservername"]
        done = s_client(shield.implicit, *arguments)
        assert f"subject=CN = {subject}.example" in done.stdout, (name, done.stdout)
    shield.program.wait_for("sni=<other.example>")


def test_a_client_certificate_is_recorded_and_lets_nobody_in_or_out(sink, front, keys):
    mine = keys.make("customer", names=["customer.example"])
    shield = front(sink(store=False), {"tls": {"client_certificates": "request"}})
    fingerprint = openssl("x509", "-in", mine["certificate"], "-noout", "-fingerprint", "-sha256").stdout.decode()
    fingerprint = fingerprint.split("=")[1].strip().replace(":", "").lower()
    for version in ("-tls1_2", "-tls1_3"):
        done = s_client(
            shield.implicit, version, "-quiet", "-cert", mine["certificate"], "-key", mine["key"])
        assert "220 " in done.stdout, done
    shield.program.wait_for(
        f"client certificate not verified subject=<customer.example> sha256={fingerprint}")
    # Who has none is taken as well.
    assert "220 " in s_client(shield.implicit, "-quiet").stdout


def test_certificates_are_reloaded_under_load_without_touching_live_sessions(sink, front, keys):
    box = sink(store=False)
    shield = front(box, entries=[keys.make("first")])
    context = keys.trusting(V13)
    live = dialogue(shield).starttls(context)
    old = live.tls.getpeercert()["serialNumber"]
    resumable = live.tls.session
    stop = time.monotonic() + 4
    sent = []

    def load(number):
        while time.monotonic() < stop:
            with dialogue(shield, f"127.0.{10 + number}.1") as client:
                client.starttls(keys.trusting())
                assert client.deliver().code == 250
                sent.append(client.tls.getpeercert()["serialNumber"])

    def renew(number):
        for round in range(3):
            time.sleep(0.5)
            fresh = keys.make(f"renewed{round}")
            for kind in ("certificate", "key"):
                os.replace(fresh[kind], shield.settings["tls"]["certificates"][0][kind])
            assert "RELOAD done" in shield.reload()

    failures = run_all(5, lambda n: renew(n) if n == 4 else load(n))
    assert not failures, failures
    assert len(set(sent)) >= 3, "new certificates were not taken up"
    # The one from before goes on, and so does its session in a new connection.
    assert live.deliver().code == 250
    with dialogue(shield) as again:
        again.starttls(context, session=resumable)
        assert again.tls.session_reused and again.deliver().code == 250
    with dialogue(shield) as client:
        client.starttls(context)
        assert client.tls.getpeercert()["serialNumber"] != old
    live.close()
    assert box.counts()["messages"] == len(sent) + 2


def test_a_reload_does_not_take_the_downstreams_tls_away(secure_recorder, front, keys):
    back = secure_recorder()
    shield = front(back, {"downstream": back_by(keys, "verify")})
    shield.wait_for_keyword("8BITMIME")
    shield.settings["downstream"]["tls"] = "off"
    for name in ("tls_name", "tls_ca"):
        del shield.settings["downstream"][name]
    shield.write_config()
    assert "in force only at the next start: downstream" in shield.reload()
    with dialogue(shield) as client:
        client.starttls(keys.trusting())
        assert client.deliver().code == 250
    assert b"STARTTLS" in back.received[-1]


def test_tls_can_be_switched_on_by_a_reload(sink, front, keys):
    shield = front(sink(store=False), start=False)
    listeners, shield.settings["listeners"] = shield.settings["listeners"], shield.settings["listeners"][:1]
    wanted, shield.settings["tls"] = shield.settings["tls"], {}
    shield.write_config()
    shield.start()
    assert "STARTTLS" not in shield.keywords()
    shield.settings["tls"] = wanted
    shield.write_config()
    assert "RELOAD done" in shield.reload()
    send_letter(shield, keys.trusting(), letter(3, 300_000))


# MARK: Asking the downstream beforehand


class OwnPostfix(SecurePostfix):
    """Lets this machine relay, as is usual, and takes XCLIENT from it."""

    NETWORKS = "127.0.0.0/8"
    PROTOCOLS = "all"
    PLAIN_OPTIONS = "\n  -o smtpd_authorized_xclient_hosts=127.0.0.1"


@pytest.fixture(scope="module")
def own_postfix(keys):
    yield from running(OwnPostfix, keys.back)


@pytest.fixture
def probe(front):
    """probe(port, level, …): what `sluice check --probe-downstream` exits with and says."""

    def ask(port, downstream):
        shield = front(port, {"downstream": downstream}, start=False)
        shield.settings["listeners"].append({"address": f'"[::1]:{free_port()}"'})
        shield.write_config()
        done = subprocess.run(
            [SLUICE, "check", "--config", str(shield.config), "--probe-downstream"], capture_output=True, text=True,
            timeout=40)
        return done.returncode, done.stderr

    return ask


@pytest.mark.parametrize(
    "place, identity, more",
    [("proxy_port", "proxy_v2", {}), ("port", "xclient", {}), ("smtps_port", "proxy_v2", {"tls_implicit": True})],
    ids=["STARTTLS", "STARTTLS and XCLIENT", "TLS alone"])
def test_the_probe_asks_as_mail_will_go(own_postfix, probe, keys, place, identity, more):
    code, text = probe(
        getattr(own_postfix, place), {**back_by(keys, "verify"), "identity": identity, **more})
    assert code == 0, text
    assert "does not relay for a client at 192.0.2.1" in text and "at 2001:db8::1" in text
    assert "The probe used TLSv1.3 with cipher" in text and "its certificate verified" in text
    code, text = probe(
        getattr(own_postfix, place), {**back_by(keys, "verify"), "identity": identity, "tls_name": "x.example", **more})
    assert code == 78 and "certificate verify failed: hostname mismatch" in text, text


def test_mail_goes_under_tls_alone_behind_a_proxy_header(own_postfix, front, keys):
    shield = front(own_postfix.smtps_port, {
        "downstream": {**back_by(keys, "verify"), "identity": "proxy_v2", "tls_implicit": True}})
    shield.wait_for_keyword("8BITMIME")
    before = own_postfix.count()
    send_letter(shield, keys.trusting(), letter(9, 300_000))
    wait_until(lambda: own_postfix.count() > before, 10, "the letter")


def test_xclient_holds_behind_a_starttls_that_is_passed_through(own_postfix, front, keys):
    shield = front(own_postfix, {"downstream": {"identity": "xclient"}}, access="0.0.0.0/0 trusted\n", start=False)
    shield.settings["listeners"].append({
        "address": f"127.0.0.1:{(port := free_port())}", "tls": "pass_through",
        "proxy_protocol": {"from": ["127.0.50.0/24"]}})
    shield.write_config()
    shield.start().wait_for_keyword("8BITMIME")
    with dialogue(shield, "127.0.50.1", port) as client:
        client.send(b"PROXY TCP4 198.51.100.7 127.0.0.1 4321 25\r\n")
        client.starttls(keys.trusting(), BACK)
        # This machine may relay and say XCLIENT; the client may neither.
        client.command("XCLIENT ADDR=127.0.0.1", 550)
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RCPT TO:<b@elsewhere.example>", 554)
        client.command("RCPT TO:<b@example.com>", 250)
        client.command("QUIT", 221)
    wait_until(lambda: "client=unknown[198.51.100.7]" in own_postfix.log, 10, "the client in Postfix's log")


@pytest.mark.parametrize("identity", ["received", "xforward", "none"])
def test_check_says_what_a_server_does_not_learn_behind_a_starttls_that_is_passed_through(front, keys, identity):
    shield = front(free_port(), {"mode": "observe", "downstream": {"identity": identity}}, start=False)
    done = subprocess.run([SLUICE, "check", "--config", str(shield.config)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and f"warning: listener 127.0.0.1:{shield.passing} has" in done.stderr, done.stderr
    assert "learns neither" in done.stderr and "Set proxy_v2 or proxy_v1" in done.stderr, done.stderr


def test_the_probe_finds_a_relay_under_tls(own_postfix, probe, keys):
    code, text = probe(own_postfix.port, {**back_by(keys, "required"), "identity": "none"})
    assert code == 78 and "OPEN RELAY" in text and "The probe used TLSv1.3" in text, text


@pytest.mark.parametrize("injection, why", [
    ("one segment", "it said more before the handshake"),
    ("two segments", "(?i)wrong version number|bad protocol version|plain text"),
])
def test_the_probe_does_not_believe_what_is_said_before_the_handshake(secure_recorder, probe, keys, injection, why):
    back = secure_recorder(injection=injection)
    code, text = probe(back.port, back_by(keys, "required"))
    assert code == 78 and "cannot be reached with downstream.tls: required" in text, text
    assert re.search(why, text) and "451" in text, text
    # Where clear text does, it is asked there; and this one takes mail for everybody.
    code, text = probe(back.port, back_by(keys, "opportunistic"))
    assert code == 78 and "OPEN RELAY" in text and "The probe was sent in clear text" in text, text


def test_the_probe_says_what_tls_is_missing(sink, probe, keys, own_postfix):
    box = sink(store=False)
    code, text = probe(box.port, back_by(keys, "required"))
    assert code == 78 and "its EHLO does not list STARTTLS" in text, text
    code, text = probe(box.port, {**back_by(keys, "required"), "tls_implicit": True})
    assert code == 78 and "cannot be reached with downstream.tls: required and tls_implicit" in text, text
    code, text = probe(own_postfix.smtps_port, {"identity": "proxy_v2"})
    assert code == 69 and "TLS from the first byte on" in text, text
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        code, text = probe(silent.getsockname()[1], {**back_by(keys, "required"), "tls_implicit": True})
        assert code == 78 and "in the handshake it does not answer" in text, text
        assert time.monotonic() - started < 15


# MARK: Certificates


def test_check_tells_certificates_apart(front, sink, keys, tmp_path):
    shield = front(sink(store=False), start=False)
    expired = keys.make("expired", days=("20240101000000Z", "20250101000000Z"))
    soon = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 9.5 * 86_400))
    ending = keys.make("ending", days=("20250101000000Z", soon))
    lonely = {"certificate": str(keys.path("mx-alone")), "key": keys.mx["key"]}
    hidden = tmp_path / "hidden.key"
    hidden.write_bytes(keys.path("mx", "key").read_bytes())
    hidden.chmod(0)

    def check(entry, **options):
        shield.settings["tls"]["certificates"] = [entry]
        shield.write_config()
        done = subprocess.run(
            [*options.get("by", []), SLUICE, "check", "--config", str(shield.config)], capture_output=True,
            text=True, timeout=20)
        return done.returncode, done.stderr

    def told(entry, code, words, **options):
        found, text = check(entry, **options)
        assert found == code and re.search(words, text), (code, words, found, text)

    told(keys.mx, 0, "good")
    told({**keys.mx, "key": keys.back["key"]}, 78, "(?i)key does not belong|another certificate|do not belong")
    told({**keys.mx, "key": "/nonexistent/mx.key"}, 66, "/nonexistent/mx.key")
    told(expired, 78, "expired on 2025-01-01")
    # A reload takes it, as a start does: what else is in the files must not wait for it.
    done = subprocess.run(
        [SLUICE, "check", "--reload", "--config", str(shield.config)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "expired on 2025-01-01" in done.stderr, done.stderr
    told(ending, 0, "expires on .*, in 9 days")
    told(lonely, 0, "(?i)chain|intermediate")
    if os.geteuid() == 0 and shutil.which("setpriv"):
        for folder in [tmp_path, *list(tmp_path.parents)[:3], shield.folder]:
            if str(folder).startswith("/tmp/") and folder.owner() == "root":
                folder.chmod(0o755)
        by = ["setpriv", "--reuid", "65534", "--clear-groups"]
        if subprocess.run([*by, SLUICE, "--version"], capture_output=True).returncode == 0:
            told({**keys.mx, "key": str(hidden)}, 77, "hidden.key", by=by)


def test_days_left_of_the_certificate_that_ends_first_are_in_the_statistics(sink, front, keys):
    soon = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 9.5 * 86_400))
    ending = keys.make("sooner", names=["sooner.example"], days=("20250101000000Z", soon))
    shield = front(sink(store=False), entries=[keys.mx, ending])
    assert "in 9 days" in shield.log
    assert shield.statistic("tls_certificate_days") == 9
    shield.settings["tls"]["certificates"] = [keys.mx]
    shield.write_config()
    shield.reload()
    assert shield.statistic("tls_certificate_days") in (88, 89, 90)


def test_sessions_are_resumed_by_openssl(sink, front, tmp_path, keys):
    shield = front(sink(store=False))
    done = s_client(shield.implicit, "-tls1_2", "-reconnect", say="")
    assert len(re.findall("^Reused, TLSv1.2", done.stdout, re.M)) == 5, done.stdout
    kept = tmp_path / "session.pem"
    # The tickets of TLS 1.3 come behind the handshake: it must stay for the banner.
    talk = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{shield.port}", "-starttls", "smtp", "-tls1_3", "-sess_out",
         str(kept)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    talk.communicate("QUIT\r\n", timeout=10)
    done = s_client(shield.port, "-starttls", "smtp", "-tls1_3", "-sess_in", kept)
    assert "Reused, TLSv1.3" in done.stdout, done.stdout
    shield.program.wait_for("TLS from .*resumed")


# MARK: Peers that do not behave


def gone(client, seconds):
    """It is closed within so long; how long it took."""
    started = time.monotonic()
    client.until_closed(seconds)
    return time.monotonic() - started


def test_handshakes_that_stall_or_trickle_are_ended_in_time(sink, front, keys):
    shield = front(sink(store=False), {"tls": {"handshake_timeout": "2s"}})
    hello = first_flight(keys)

    def trickle(client):
        for octet in hello:
            try:
                client.send(bytes([octet]))
            except OSError:
                return
            if client.receive(1.0) == b"":
                return

    def silent(client):
        assert 1.5 < gone(client, 4) < 3.5

    def halfway(client):
        client.send(hello[: len(hello) // 2])
        assert 1.5 < gone(client, 4) < 3.5

    def slowly(client):
        started = time.monotonic()
        trickle(client)
        assert 1.5 < time.monotonic() - started < 4

    def garbage(client):
        client.send(os.urandom(3000))
        assert gone(client, 1.5) < 1.5

    def huge(client):
        # A hello that announces 16 MB.
        client.send(bytes.fromhex("16030140000100ffff00") + b"x" * 200)
        assert gone(client, 1.5) < 1.5

    jobs = [silent, halfway, slowly, garbage, huge]

    def run(number):
        with dialogue(shield, port=shield.implicit, source=f"127.0.40.{number + 1}") as client:
            jobs[number](client)

    assert not (failures := run_all(len(jobs), run)), failures
    all_gone(shield)


def first_flight(keys):
    out = ssl.MemoryBIO()
    tls = keys.trusting().wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("how", [
    "reset", "fin", "close_notify", "garbage", "cut record", "close_notify behind text", "garbage behind text"])
def test_a_message_that_is_cut_is_never_accepted(recorder, front, keys, how):
    back = recorder()
    shield = front(back)
    with dialogue(shield, "127.0.41.1") as client:
        client.starttls(keys.trusting())
        client.open_data()
        client.send("Subject: half\r\n\r\n" + "x" * 70 + "\r\n.\r\n"[:2])
        time.sleep(0.1)
        plain = client.socket.plain
        if how == "reset":
            client.vanish()
        elif how == "fin":
            plain.shutdown(socket.SHUT_WR)
        elif how == "close_notify":
            client.socket.close_notify()
        elif how == "garbage":
            plain.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
        elif how == "close_notify behind text":
            client.tls.write(b"y" * 500)
            client.socket.close_notify()
        elif how == "garbage behind text":
            client.tls.write(b"y" * 500)
            plain.sendall(client.socket.outgoing.read() + b"\x17\x03\x03\x00\x40" + os.urandom(64))
        else:
            client.tls.write(b".\r\n" + b"y" * 500)
            plain.sendall(client.socket.outgoing.read()[:-5])
            plain.shutdown(socket.SHUT_WR)
        wait_until(lambda: b"Subject: half" in back.bytes, 3, "the beginning of it")
        all_gone(shield)
    assert back.dots == 0, bytes(back.bytes)
    assert not back.bytes.endswith(b".\r\n")


def test_who_takes_nothing_is_ended_and_costs_little(sink, front, keys):
    shield = front(sink(store=False), {
        "timeouts": {"send": "2s"}, "smtp": {"commands": 1_000_000, "idle_commands": 100_000, "errors": 100_000},
        "signals": {"command_flood": {"action": "ignore"}}})
    clients = []
    before = resident(shield)
    for number in range(20):
        client = dialogue(shield, f"127.0.42.{number + 1}", receive_buffer=4096)
        client.starttls(keys.trusting())
        client.socket.plain.setblocking(False)
        clients.append(client)
    for client in clients:
        for _ in range(400):
            client.tls.write(b"HELP\r\n" * 2000)
            waiting = client.socket.outgoing.read()
            try:
                count = client.socket.plain.send(waiting)
            except BlockingIOError:
                break
            if count < len(waiting):
                break
    time.sleep(1)
    used = resident(shield) - before
    assert used < 20 * 150_000, f"{used / 20:.0f} bytes each"
    all_gone(shield, 12)
    for client in clients:
        client.close()


def resident(shield):
    text = open(f"/proc/{shield.pid}/smaps_rollup").read()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024


@VERSIONS
def test_each_drip_under_tls_is_one_record(sink, front, keys, version):
    shield = front(sink(store=False), {
        "delays": {stage: {"bad": "1s"} for stage in ("banner", "helo", "starttls", "mail", "rcpt_rejected", "other")}})
    with dialogue(shield, "127.3.43.1" if version == V12 else "127.3.44.1") as client:
        client.expect(220)
        client.command("EHLO bot.example", 250)
        client.command("STARTTLS", 220)
        client.secure(keys.trusting(version))
        reply = client.command("EHLO bot.example", 250)
        # TLS 1.3 sends its tickets in records of the same kind.
        tickets = sum(kind == 23 and length > 40 for kind, length in client.socket.records)
        assert version == V13 or tickets == 0
        overhead = 17 if version == V13 else 24
        drips = [length for kind, length in client.socket.records if kind == 23 and length == overhead + 1]
        assert len(drips) == len(reply.raw), client.socket.records
        assert len(reply.arrivals) > len(reply.raw) // 2 and reply.took > 0.8, client
        client.command("MAIL FROM:<a@client.example>", 250)
        client.command("RCPT TO:<b@example.com>", 450)
        client.command("QUIT", 221)
        client.until_closed()
    all_gone(shield)


def test_a_full_table_says_454_and_mail_goes_on_in_clear(sink, front, keys):
    box = sink(store=False)
    shield = front(box, {"limits": {"tls_sessions": 8}, "overload": {"reserved_for_known": "25%"}})
    held = []
    full = None
    for number in range(12):
        client = dialogue(shield, f"127.1.{50 + number}.1")
        client.greet()
        if client.command("STARTTLS").code == 454:
            full = client
            break
        client.secure(keys.trusting())
        client.hello()
        held.append(client)
    assert full and len(held) == 6, len(held)
    assert full.deliver().code == 250
    full.close()
    with dialogue(shield, "127.1.70.1", port=shield.implicit) as client:
        with pytest.raises((ssl.SSLError, OSError)):
            client.secure(keys.trusting())
    # The place kept for known senders.
    with dialogue(shield, "127.0.50.1") as known:
        known.starttls(keys.trusting())
        assert known.deliver().code == 250
    for client in held:
        assert client.deliver().code == 250
        client.close()
    all_gone(shield)


def test_sigterm_lets_transactions_end_and_says_goodbye_in_tls(sink, front, keys):
    box = sink(store=False)
    shield = front(box)
    idle = dialogue(shield).starttls(keys.trusting())
    busy = dialogue(shield).starttls(keys.trusting())
    shaking = dialogue(shield, port=shield.implicit)
    busy.open_data()
    time.sleep(0.2)
    shield.signal(signal.SIGTERM)
    assert idle.expect(421).enhanced.startswith("4.3.")
    assert idle.until_closed() == b""
    busy.send("Subject: last\r\n\r\nx\r\n.\r\n")
    busy.expect(250)
    shaking.close()
    busy.expect(421)
    assert shield.program.wait(10) == 0
    assert "messages=1" in shield.log


@pytest.mark.alone
def test_hundreds_that_cut_at_random_moments_leave_nothing_behind(recorder, front, keys):
    """Handshakes, commands, bodies and drips cut by FIN, RST, garbage or a change of mind, for some seconds."""
    back = recorder()
    shield = front(back, {
        "tls": {"handshake_timeout": "3s"}, "timeouts": {"drain": "0s"},
        "delays": {**NO_DELAYS, "helo": {"clean": "0s", "suspicious": "100ms", "bad": "1s"}},
        "limits": {"tls_sessions": 64}})
    stop = time.monotonic() + 7
    done = [0] * 32
    context = {0: keys.trusting(V12), 1: keys.trusting(V13)}

    def run(number):
        rng = random.Random(number)
        while time.monotonic() < stop:
            source = f"127.{rng.choice((0, 0, 0, 2, 2, 2, 2, 3))}.{80 + number}.{rng.randint(1, 9)}"
            at_once = rng.random() < 0.5
            try:
                client = dialogue(shield, source, port=shield.implicit if at_once else shield.port, timeout=4)
            except OSError:
                continue
            steps = rng.randint(0, 9)
            try:
                if not at_once:
                    client.send(rng.choice(["EHLO a.example\r\n", "EHLO a.example\r\nSTARTTLS\r\n"]))
                    if steps > 0:
                        client.expect(220)
                        client.expect(250)
                    if steps > 1:
                        client.command("STARTTLS", 220)
                if steps == 2:
                    client.send(first_flight(keys)[: rng.randint(1, 300)])
                if steps > 2:
                    client.secure(context[rng.randint(0, 1)])
                if steps > 3:
                    if at_once:
                        client.expect(220)
                    client.hello()
                if steps > 4:
                    client.send("MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
                    for _ in range(rng.randint(0, 3)):
                        client.reply()
                if steps > 6:
                    client.send("x" * rng.randint(1, 70_000))
                if steps > 7:
                    client.socket.plain.sendall(os.urandom(rng.randint(1, 100)))
            except (AssertionError, OSError, ssl.SSLError):
                pass
            if rng.random() < 0.5:
                client.vanish()
            else:
                client.close()
            done[number] += 1

    failures = run_all(32, run)
    assert not failures, failures
    assert sum(done) > 60, sum(done)  # however slow the machine is
    assert back.dots == 0
    all_gone(shield, 20)
    with dialogue(shield, "127.0.79.1") as client:
        client.starttls(keys.trusting())
        assert client.deliver().code == 250


def test_300_sessions_that_break_at_the_same_moment_are_300_ends(sink, front, keys):
    """A good record and a broken one behind it: the break is found when the reply is sealed, for all in one turn."""
    shield = front(sink(store=False), {
        "delays": {**NO_DELAYS, "helo": {"suspicious": "500ms"}}, "limits": {"sessions": 1000}})
    context = keys.trusting(V12)
    clients = []
    for number in range(300):
        client = dialogue(shield, f"127.2.{number}.9" if number < 250 else f"127.2.{number - 250}.10",
                          port=shield.implicit)
        client.secure(context)
        client.expect(220)
        clients.append(client)
    shield.signal(signal.SIGSTOP)
    for client in clients:
        client.tls.write(b"EHLO c.example\r\n")
        client.socket.plain.sendall(client.socket.outgoing.read() + b"\x17\x03\x03\x00\x40" + bytes(64))
    shield.signal(signal.SIGCONT)
    all_gone(shield)
    for client in clients:
        client.close()
    with dialogue(shield, "127.0.90.1") as client:
        client.starttls(keys.trusting())
        assert client.deliver().code == 250
