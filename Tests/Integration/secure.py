# SPDX-License-Identifier: Apache-2.0
"""What the tests of TLS stand on: certificates made by openssl, a client that can go over to TLS and sees the records
on the wire, a downstream that speaks TLS, and Postfix with a certificate."""

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
import time

import harness

HOST = "mx.sluice.example"
# The name that Postfix's certificate has.
BACK = "postfix.example"


def openssl(*arguments, **options):
    return subprocess.run(
        ["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30, **options
    )


class Keys:
    """An authority, one beneath it, and certificates of both, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.config = folder / "ca.cnf"
        self.config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndir={folder}\ndatabase={folder}/index\nserial={folder}/serial\n"
            f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\nunique_subject=no\ncopy_extensions=copy\n"
            "[p]\ncommonName=supplied\n"
            "[authority]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n"
            "[leaf]\nbasicConstraints=CA:FALSE\n"
        )
        (folder / "index").write_text("")
        (folder / "serial").write_text("1000\n")
        self.authority = folder / "root.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30,
                "-subj", "/CN=root.example", "-keyout", folder / "root.key", "-out", self.authority)
        self._sign("middle", "root", "authority", ())

    def path(self, name, kind="pem"):
        return self.folder / f"{name}.{kind}"

    def _sign(self, name, by, section, names, days=None, kind="ec"):
        parameter = "ec_paramgen_curve:P-256" if kind == "ec" else "rsa_keygen_bits:2048"
        wanted = ["-addext", "subjectAltName=" + ",".join(names)] if names else []
        openssl("req", "-new", "-newkey", kind, "-pkeyopt", parameter, "-nodes", "-subj", f"/CN={name}.example",
                *wanted, "-keyout", self.path(name, "key"), "-out", self.path(name, "csr"))
        span = days or ("20250101000000Z", None)
        dates = ["-startdate", span[0]] + (["-enddate", span[1]] if span[1] else ["-days", "90"])
        openssl("ca", "-batch", "-notext", "-config", self.config, "-cert", self.path(by), "-keyfile",
                self.path(by, "key"), "-extensions", section, *dates, "-in", self.path(name, "csr"), "-out",
                self.path(name))
        self.path(name, "key").chmod(0o644)

    def make(self, name, names=(HOST,), by="root", days=None, kind="ec"):
        """A certificate and its key; the chain is in the file."""
        self._sign(name, by, "leaf", [f"DNS:{one}" for one in names] + ["IP:127.0.0.1"], days, kind)
        if by == "middle":
            self.path(f"{name}-alone").write_bytes(self.path(name).read_bytes())
            self.path(name).write_bytes(self.path(name).read_bytes() + self.path("middle").read_bytes())
        return {"certificate": str(self.path(name)), "key": str(self.path(name, "key"))}

    def trusting(self, version=None):
        """A context that believes the authority, of one version of TLS."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.check_hostname = False
        if version:
            context.minimum_version = context.maximum_version = version
        return context


class Wire:
    """A socket in the middle of a client's TLS: what comes is counted by records before it is opened."""

    def __init__(self, plain, context, name, session=None):
        self.plain = plain
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.raw = b""
        # Kinds and lengths of the records that came.
        self.records = []

    def settimeout(self, seconds):
        self.plain.settimeout(seconds)

    def _out(self):
        if self.outgoing.pending:
            self.plain.sendall(self.outgoing.read())

    def _in(self):
        piece = self.plain.recv(65_536)
        if not piece:
            self.incoming.write_eof()
            return
        self.raw += piece
        while len(self.raw) >= 5 and len(self.raw) >= 5 + int.from_bytes(self.raw[3:5], "big"):
            length = int.from_bytes(self.raw[3:5], "big")
            self.records.append((self.raw[0], length))
            self.raw = self.raw[5 + length:]
        self.incoming.write(piece)

    def _until_done(self, step):
        while True:
            try:
                value = step()
                self._out()
                return value
            except ssl.SSLWantReadError:
                self._out()
                self._in()

    def shake(self):
        self._until_done(self.tls.do_handshake)
        return self

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[self._until_done(lambda: self.tls.write(view)):]

    def recv(self, count):
        try:
            return self._until_done(lambda: self.tls.read(count))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def close(self):
        self.plain.close()

    def close_notify(self):
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._out()

    def setsockopt(self, *arguments):
        self.plain.setsockopt(*arguments)


class SecureDialogue(harness.Dialogue):
    """A client that can go over to TLS."""

    def secure(self, context, name=HOST, session=None):
        """Shakes hands, here and now."""
        self.socket.settimeout(self.timeout)
        self.socket = Wire(self.socket, context, name, session).shake()
        return self

    def starttls(self, context, name=HOST, session=None):
        """Banner, EHLO, STARTTLS, handshake, EHLO."""
        self.greet()
        self.command("STARTTLS", 220)
        self.secure(context, name, session)
        self.hello()
        return self

    @property
    def tls(self):
        return self.socket.tls

    def vanish(self):
        """RST."""
        plain = self.socket.plain if isinstance(self.socket, Wire) else self.socket
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close()


class SecureRecorder(harness.Recorder):
    """The recorder with STARTTLS; what it kept is what was said, opened."""

    def __init__(self, certificate, injection=None, breaks=None, **options):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate["certificate"], certificate["key"])
        self.injection = injection
        # How each handshake ends: by "close", "reset" or "silence"; None for well.
        self.breaks = breaks
        # STARTTLS is offered all the same.
        self.refusing = False
        self.bodies = []
        super().__init__(**options)

    def _serve(self, peer):
        record = bytearray()
        self.received.append(record)
        with contextlib.suppress(OSError, ssl.SSLError):
            try:
                self._talk(peer, record)
            finally:
                peer.close()

    def _talk(self, peer, record):
        peer.sendall(b"220 recorder.example ESMTP\r\n")
        stream = peer.makefile("rb")
        secured = False
        while line := stream.readline():
            record.extend(line)
            verb = line[:4].upper()
            if verb == b"EHLO":
                words = ["recorder.example", *self.keywords] + ([] if secured else ["STARTTLS"])
                for index, word in enumerate(words):
                    peer.sendall(f"250{' ' if index == len(words) - 1 else '-'}{word}\r\n".encode())
            elif line.upper() == b"STARTTLS\r\n" and self.refusing:
                peer.sendall(b"454 4.7.0 Not now\r\n")
            elif line.upper() == b"STARTTLS\r\n":
                if self.injection == "one segment":
                    peer.sendall(b"220 go on\r\n250 forged.example\r\n")
                elif self.injection == "two segments":
                    peer.sendall(b"220 go on\r\n")
                    time.sleep(0.05)
                    peer.sendall(b"250 forged.example\r\n")
                else:
                    peer.sendall(b"220 go on\r\n")
                if self.breaks:
                    peer.recv(65_536)
                    if self.breaks == "silence":
                        time.sleep(60)
                    if self.breaks == "reset":
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                peer = self.context.wrap_socket(peer, server_side=True)
                stream = peer.makefile("rb")
                secured = True
            elif verb == b"DATA":
                peer.sendall(b"354 go on\r\n")
                body = []
                while (line := stream.readline()) != b".\r\n":
                    if not line:
                        return
                    body.append(line[1:] if line.startswith(b".") else line)
                self.bodies.append(b"".join(body))
                self._dot(peer)
            elif verb == b"QUIT":
                peer.sendall(b"221 2.0.0 bye\r\n")
                return
            else:
                peer.sendall(b"250 2.0.0 ok\r\n")


class SecurePostfix(harness.Postfix):
    """Postfix with STARTTLS."""

    def __init__(self, certificate):
        super().__init__()
        for name in ("certificate", "key"):
            target = self.folder / name
            with open(certificate[name], "rb") as source:
                target.write_bytes(source.read())
            certificate = {**certificate, name: str(target)}
        with (self.etc / "main.cf").open("a") as main:
            main.write(
                f"smtpd_tls_cert_file = {certificate['certificate']}\nsmtpd_tls_key_file = {certificate['key']}\n"
                "smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes\n"
                f"smtpd_tls_session_cache_database =\nmyhostname = {BACK}\n"
            )
        self.smtps_port = harness.free_port()
        with (self.etc / "master.cf").open("a") as master:
            master.write(
                "tlsmgr unix - - n 1000? 1 tlsmgr\n"
                f"127.0.0.1:{self.smtps_port} inet n - n - 200 smtpd\n"
                "  -o smtpd_tls_wrappermode=yes -o smtpd_upstream_proxy_protocol=haproxy\n"
            )


def run_all(count, job):
    """The job in as many threads at once; how many raised, with the first failure."""
    failures = []

    def run(number):
        try:
            job(number)
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failures
