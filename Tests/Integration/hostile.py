# SPDX-License-Identifier: Apache-2.0
"""Random sessions through the shield to a mail server that resets, stalls and lies, from a seed.

    hostile.py [SESSIONS] [SEED]     20,000 sessions from seed 1 unless told otherwise; exits with 1 if a promise broke

Promises: what a client was told is accepted, the server has, octet for octet; no message is there twice; the shield
outlives all of it and is as empty afterwards as before. The server commits before it answers, so a connection that breaks
in between may leave a message that no client heard of: that is allowed, the reverse never.
"""

import asyncio
import collections
import contextlib
import logging
import pathlib
import random
import socket
import struct
import sys
import tempfile

import harness

CONFIG = {
    "delays": harness.NO_DELAYS,
    "timeouts": harness.SHORT_TIMEOUTS | {"command": "3s", "body": "3s", "send": "3s"},
    # Held here are commands and messages; how many one source may have is another test's.
    "limits": {"connections": 1_000, "sessions": 1_000, "downstream_connections": 1_000},
    "log": {"level": "notice", "destination": "stderr"},
}
SILENCE = 3.0

STRANGE = [
    b"571 5.7.1 not here\r\n", b"471 4.7.1 not now\r\n", b"560 odd\r\n", b"299 odd but yes\r\n", b"250\r\n",
    b"550-one\r\n550 two\r\n", b"450 4.2.0 later\r\n", b"550 5.1.1 unknown\r\n",
]
LIES = [
    b"354 go on\r\n", b"220 hello again\r\n", b"250 one\r\n250 two\r\n", b"no reply at all\r\n", b"250-half",
    b"99 short\r\n", b"250-a\r\n550 b\r\n", b"\r\n", b"334 VXNlcm5hbWU6\r\n", b"221 bye\r\n",
]


def reset(writer):
    """Ends a connection by RST."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Gone(Exception):
    """This side has had enough of the connection."""


class Server:
    """The mail server behind, which commits what it accepts and misbehaves at random."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.committed = collections.defaultdict(list)
        self.misdeeds = collections.Counter()
        self.wicked = True

    def misdeed(self, weights):
        """Nothing, or one of the names, each with its chance in a thousand."""
        if not self.wicked:
            return None
        draw = self.random.randrange(1000)
        for name, weight in weights.items():
            draw -= weight
            if draw < 0:
                self.misdeeds[name] += 1
                return name
        return None

    async def answer(self, writer, good, weights):
        """Replies to one command, and returns what was said; raises Gone where the connection ends."""
        what = self.misdeed(weights)
        if what == "reset":
            reset(writer)
            raise Gone
        if what == "close":
            raise Gone
        if what == "stall":
            await asyncio.sleep(SILENCE)
            raise Gone
        if what == "goodbye":
            writer.write(b"421 4.3.2 bye\r\n")
            raise Gone
        said = self.random.choice({"lie": LIES, "strange": STRANGE}.get(what, [good]))
        writer.write(said)
        return said

    async def serve(self, reader, writer):
        with contextlib.suppress(Gone, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self.converse(reader, writer)
        writer.close()

    async def converse(self, reader, writer):
        rare = {"reset": 6, "close": 6, "stall": 4, "goodbye": 6, "lie": 6, "strange": 8}
        common = {"reset": 8, "close": 8, "stall": 5, "goodbye": 8, "lie": 12, "strange": 30}
        await self.answer(writer, b"220 wicked.example ESMTP\r\n", rare)
        recipients = 0
        while True:
            line = await reader.readline()
            if not line:
                return
            verb = line[:4].upper()
            if verb == b"EHLO":
                await self.answer(
                    writer, b"250-wicked.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n", rare)
            elif verb == b"MAIL":
                recipients = 0
                await self.answer(writer, b"250 2.1.0 ok\r\n", common)
            elif verb == b"RCPT":
                recipients += (await self.answer(writer, b"250 2.1.5 ok\r\n", common)).startswith(b"2")
            elif verb == b"DATA":
                if recipients == 0:
                    writer.write(b"554 5.5.1 no valid recipients\r\n")
                # One that says 354 and takes the text for commands would acknowledge by its answers to them what it has
                # not got; no relay can tell that from the truth.
                elif (await self.answer(writer, b"354 go on\r\n", rare)).startswith(b"354"):
                    await self.message(reader, writer)
                    recipients = 0
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                await self.answer(writer, b"250 2.0.0 ok\r\n", rare)

    async def message(self, reader, writer):
        in_body = self.misdeed({"reset in body": 10, "close in body": 10, "refuse in body": 10})
        text = b""
        while not text.endswith(b"\r\n.\r\n"):
            piece = await reader.read(65_536)
            if not piece:
                raise Gone
            text += piece
            if in_body and len(text) > 200:
                if in_body == "reset in body":
                    reset(writer)
                elif in_body == "refuse in body":
                    writer.write(b"552 5.2.2 no more of it\r\n")
                    await asyncio.sleep(0.05)
                raise Gone
        at_dot = self.misdeed(
            {"no": 30, "later": 20, "reset before": 15, "reset behind": 15, "stall behind": 5, "stall before": 5})
        if at_dot == "no":
            writer.write(b"550 5.7.1 not wanted\r\n")
            return
        if at_dot == "later":
            writer.write(b"451 4.3.0 later\r\n")
            return
        if at_dot in ("reset before", "stall before"):
            if at_dot == "stall before":
                await asyncio.sleep(SILENCE)
            reset(writer)
            raise Gone
        lines = text[:-5].split(b"\r\n")
        plain = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
        self.committed[plain.split(b"\r\n", 1)[0]].append(plain)
        if at_dot == "reset behind":
            reset(writer)
            raise Gone
        if at_dot == "stall behind":
            await asyncio.sleep(SILENCE)
            raise Gone
        writer.write(b"250 2.0.0 Ok: queued as 12345\r\n")


class Client:
    """One client with a script of its own."""

    def __init__(self, number, seed, port, acknowledged):
        self.random = random.Random(seed * 1_000_003 + number)
        self.number = number
        self.port = port
        self.acknowledged = acknowledged
        self.messages = 0

    def body(self):
        """A message whose first line is its own, with all that makes dots and lines hard."""
        self.messages += 1
        lines = [b"Subject: %d-%d" % (self.number, self.messages), b""]
        for _ in range(self.random.randrange(40)):
            lines.append(self.random.choice([
                b"text", b".", b"..", b"...", b".hidden", b"", b"x" * 998, b"\xc3\xa9t\xc3\xa9", b"RSET", b"QUIT",
                b"MAIL FROM:<x@y.example>", b"y" * self.random.randrange(3_000),
            ]))
        return b"\r\n".join(lines)

    async def say(self, octets):
        """Says it at once, or in pieces cut anywhere."""
        if self.random.randrange(3):
            self.writer.write(octets)
            await self.writer.drain()
            return
        while octets:
            cut = self.random.randrange(1, min(len(octets), 1 + self.random.choice([1, 7, 400, 5_000])) + 1)
            self.writer.write(octets[:cut])
            octets = octets[cut:]
            await asyncio.sleep(0)

    async def reply(self):
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 30)
            if not line:
                raise Gone
            if len(line) < 4 or line[3:4] != b"-":
                code = int(line[:3])
                if code == 421:
                    raise Gone
                return code

    async def command(self, line):
        await self.say(line + b"\r\n")
        return await self.reply()

    async def run(self):
        source = f"127.0.{self.number // 200 % 250}.{1 + self.number % 200}"
        try:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        except OSError:
            return
        try:
            if await self.reply() == 220 and await self.command(b"EHLO client%d.example" % self.number) == 250:
                for _ in range(self.random.randrange(1, 5)):
                    await self.one_message()
                await self.command(b"QUIT")
        except (Gone, OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass
        if self.random.randrange(4) == 0:
            reset(self.writer)
        self.writer.close()

    async def one_message(self):
        nuisance = self.random.randrange(40)
        if nuisance == 0:
            await self.command(self.random.choice([b"NOOP", b"RSET", b"VRFY x", b"WIBBLE", b"EHLO again.example"]))
        elif nuisance == 1:
            await self.say(self.random.choice([b"bare\n", b"cr\rx\r\n", b"\0\r\n", b"x" * 5_000 + b"\r\n"]))
            await self.reply()
        text = self.body()
        stuffed = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in text.split(b"\r\n"))
        names = [b"RCPT TO:<r%d@here.example>" % k for k in range(self.random.choice([1, 1, 1, 3, 20]))]
        if self.random.randrange(2):
            # A group, as mail servers send it.
            await self.say(b"\r\n".join([b"MAIL FROM:<s@there.example>", *names, b"DATA", b""]))
            codes = [await self.reply() for _ in range(len(names) + 2)]
            if codes[-1] != 354:
                await self.command(b"RSET")
                return
        else:
            if await self.command(b"MAIL FROM:<s@there.example>") >= 400:
                return
            for name in names:
                await self.command(name)
            if await self.command(b"DATA") != 354:
                await self.command(b"RSET")
                return
        vanishes = self.random.randrange(50)
        if vanishes == 0:
            await self.say(stuffed[: self.random.randrange(len(stuffed))])
            raise Gone
        await self.say(stuffed + b"\r\n.\r\n")
        if vanishes == 1:
            raise Gone
        if 200 <= await self.reply() < 300:
            self.acknowledged[text.split(b"\r\n", 1)[0]] = text


async def play(sessions, seed, port, server, at_once=250):
    """All sessions, `at_once` at a time. Returns what clients were told is accepted, by its first line."""
    acknowledged = {}
    # It warns of each write to a connection that the other side has broken, which is what happens here.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", server.port, limit=1 << 20, backlog=1_000)
    gate = asyncio.Semaphore(at_once)

    async def one(number):
        async with gate:
            await Client(number, seed, port, acknowledged).run()

    await asyncio.gather(*(one(number) for number in range(sessions)))
    # The orphans whose clients left after their dots.
    await asyncio.sleep(SILENCE + 1)
    listener.close()
    return acknowledged


def hostile(folder, sessions, seed):
    """Plays it and returns what is wrong, as sentences, and a summary."""
    server = Server(seed)
    server.port = harness.free_port()
    shield = harness.Shield(folder, server.port, CONFIG)
    # The first probe comes before the server is there, the next a second later.
    shield.start()
    acknowledged = asyncio.run(play(sessions, seed, shield.port, server))
    wrong = []
    for name, text in acknowledged.items():
        if name not in server.committed:
            wrong.append(f"{name.decode()}: acknowledged, and the server does not have it")
        elif text not in server.committed[name]:
            wrong.append(f"{name.decode()}: the server has it with other octets")
    doubles = [name.decode() for name, texts in server.committed.items() if len(texts) > 1]
    wrong += [f"{name}: there twice" for name in doubles]
    harness.wait_until(lambda: shield.statistic("held") == 0, 20, "no client left")
    left = shield.statistic("links")
    shield.stop()
    if left > 1:  # a probe may be under way
        wrong.append(f"{left} connections to the server are left")
    unheard = len(server.committed) - len(acknowledged)
    summary = (
        f"{sessions} sessions from seed {seed}: {len(acknowledged)} messages acknowledged, {len(server.committed)} "
        f"committed ({unheard} of them unheard of), {sum(server.misdeeds.values())} misdeeds of the server, "
        f"{len(wrong)} promises broken")
    return wrong, summary


def main():
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    harness.raise_descriptor_limit()
    with tempfile.TemporaryDirectory() as folder:
        wrong, summary = hostile(pathlib.Path(folder), sessions, seed)
    for sentence in wrong[:50]:
        print(sentence)
    print(summary)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
