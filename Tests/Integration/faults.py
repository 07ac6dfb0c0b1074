# SPDX-License-Identifier: Apache-2.0
"""The n-th failure of a system call or of an allocation in the real program, by a library that is loaded before it."""

import errno
import mmap
import os
import pathlib
import shutil
import struct
import subprocess

import pytest

# In the order of faults.c.
PLACES = (
    "socket", "getsockopt", "setsockopt", "write", "files_update", "submit", "enter", "thread", "openssl", "open")


def library(folder):
    """Builds faults.c."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    made = pathlib.Path(folder) / "faults.so"
    source = pathlib.Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


class Faults:
    """Which calls are to fail, for as long as the program runs."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "faults"
        self.path.write_bytes(bytes(4_096))
        self.library = library(folder)
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4_096)

    @property
    def environment(self):
        return {**os.environ, "LD_PRELOAD": str(self.library), "SLUICE_FAULTS": str(self.path)}

    def _offset(self, place):
        return PLACES.index(place) * 32

    def calls(self, place):
        return struct.unpack_from("=Q", self.map, self._offset(place))[0]

    def fail(self, place, number=1, times=1, error=errno.EMFILE):
        """The call that comes as `number`, counted from 1 from now on, fails, and `times` in all."""
        first = self.calls(place) + number
        # The error before the numbers, which arm it.
        struct.pack_into("=Q", self.map, self._offset(place) + 24, error)
        struct.pack_into("=QQ", self.map, self._offset(place) + 8, first, first + times - 1)
        return first

    def hold_open(self):
        """Opening a file whose name ends in `.waiting` waits for ever."""
        struct.pack_into("=Q", self.map, self._offset("open") + 24, 1)

    def stop(self, place):
        struct.pack_into("=QQQ", self.map, self._offset(place) + 8, 0, 0, 0)
