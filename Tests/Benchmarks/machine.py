# SPDX-License-Identifier: Apache-2.0
"""The machine under the measurements: its description, and what processes use of it."""

import contextlib
import ctypes
import glob
import os
import pathlib
import platform
import re
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CGROUPS = pathlib.Path("/sys/fs/cgroup")


def die_with_parent():
    """For a child, before its exec: whatever ends the bench ends what it started."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def read(path, default=""):
    try:
        return pathlib.Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return default


# What processes use.

def tree(root):
    """The process and all its live descendants."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        text = read(path)
        if text:
            parents[int(text.split()[0])] = int(text.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pid for pid in found if pid in parents]


def cpu(*roots):
    """CPU seconds, user and system, of the processes, their descendants, and those that they reaped."""
    ticks = 0
    for pid in {pid for root in roots for pid in tree(root)}:
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15])) if fields else 0
    return ticks / TICKS


def memory(root):
    """Bytes of a process tree: its own, and all that is resident (RSS).

    Its own are anonymous and shared memory, shared pages by their share, and what its rings map. The pages of
    programs and libraries are left out: their share depends on who else has them loaded at the moment, the
    load client for one, and moved the figure for 100,000 connections between 100 and 185 bytes each.
    """
    own = resident = 0
    for pid in tree(root):
        rollup = read(f"/proc/{pid}/smaps_rollup")
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.M):
            if name in ("Pss_Anon", "Pss_Shmem"):
                own += int(kilobytes) * 1024
            elif name == "Rss":
                resident += int(kilobytes) * 1024
        # Counted as pages of a file by the kernel, but nobody else's.
        rings = re.findall(r"anon_inode:\[io_uring\]\n(?:\w+:.*\n)*?Pss:\s+(\d+) kB", read(f"/proc/{pid}/smaps"))
        own += sum(map(int, rings)) * 1024
    return own, resident


def available():
    """MemAvailable in bytes."""
    return int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo")).group(1)) * 1024


def listens(port):
    wanted = f":{port:04X}"
    return any(
        fields[3] == "0A" and fields[1].endswith(wanted)
        for fields in map(str.split, read("/proc/net/tcp").splitlines()[1:])
    )


def slabs():
    """Bytes of whole slabs, without those that somebody's look into /proc/PID/fd leaves behind."""
    total = 0
    for line in read("/proc/slabinfo").splitlines()[2:]:
        fields = line.split()
        if fields[0] != "proc_inode_cache":
            total += int(fields[14]) * int(fields[5]) * PAGE
    return total


def settle(seconds=20):
    """Waits until the kernel has taken apart what ended before: for many sockets that goes on for a while,
    and both its time and its memory would be the next one's."""
    deadline = time.monotonic() + seconds
    before = slabs()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = slabs()
        if before - now < 2 << 20:
            return
        before = now


class KernelMemory:
    """What the kernel holds for the connections that a process tree accepts.

    By a memory cgroup of its own, version 1 or 2, where one can be made: it is charged for sockets, files and
    requests, but not for what slabs leave unused. Without one by the growth of the slabs, which has both
    ends in it and everything else that the machine does. `with` it before the first connection comes.
    """

    def __init__(self, root):
        self.root = root
        self.group = None
        self.version = 0

    def __enter__(self):
        name = f"sluice-bench-{os.getpid()}-{self.root}"
        with contextlib.suppress(OSError):
            if (CGROUPS / "memory/memory.kmem.usage_in_bytes").exists():
                self.version, group = 1, CGROUPS / "memory" / name
            elif "memory" in read(CGROUPS / "cgroup.subtree_control").split():
                self.version, group = 2, CGROUPS / name
            else:
                raise OSError
            group.mkdir()
            self.group = group
            if self.version == 1:
                # Accepted sockets are charged only where there is a limit; 1 TiB is none in effect.
                (group / "memory.kmem.tcp.limit_in_bytes").write_text(str(1 << 40))
            for pid in tree(self.root):
                (group / "cgroup.procs").write_text(str(pid))
        self.slabs_before = slabs()
        self.before = self.charged()
        return self

    def __exit__(self, *_):
        if self.group is None:
            return
        parent = self.group.parent / "cgroup.procs"
        with contextlib.suppress(OSError):
            for pid in read(self.group / "cgroup.procs").split():
                parent.write_text(pid)
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.group.rmdir()
                return
            time.sleep(0.1)

    def charged(self):
        if self.group is None:
            return 0
        if self.version == 1:
            return int(read(self.group / "memory.kmem.usage_in_bytes", "0"))
        text = read(self.group / "memory.stat")
        return sum(int(value) for value in re.findall(r"^(?:kernel|sock) (\d+)$", text, re.M))

    def grown(self):
        """Bytes more than at the beginning: by the cgroup (None without one), and of all slabs."""
        group = self.charged() - self.before if self.group else None
        return group, slabs() - self.slabs_before


# What it is.

def first_line(*command):
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else ""
    return "absent"


def package(name):
    found = first_line("dpkg-query", "-W", "-f", "${Version}", name)
    return found if found and not found.startswith("dpkg") else "absent"


def describe():
    """The machine and the programs, as pairs of name and text."""
    model = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    total = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    system = re.search(r'PRETTY_NAME="(.*)"', read("/etc/os-release"))
    limits = re.search(r"Max open files\s+(\S+)\s+(\S+)", read("/proc/self/limits"))
    where = pathlib.Path(__file__).parent
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": first_line("git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12"),
        "CPU": f"{os.cpu_count()} × {model.group(1) if model else platform.machine()}",
        "memory": f"{int(total.group(1)) / 1048576:.1f} GiB",
        "kernel": platform.release(),
        "system": system.group(1) if system else "",
        "open files": f"{limits.group(1)} soft, {limits.group(2)} hard" if limits else "",
        "load before": read("/proc/loadavg").rsplit(" ", 2)[0],
        "Swift": first_line("swift", "--version"),
        "gcc": package("gcc"),
        **{name: package(name) for name in ("endlessh", "nginx", "haproxy", "postfix", "valgrind", "liburing2")},
    }
