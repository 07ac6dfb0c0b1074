#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds links in the documents that lead nowhere: to a file that is not there, or to a heading that a page lacks.

    scripts/links.py     prints FILE:LINE for each, and exits with 1 if there is one

Addresses on the web are not looked at. A document is any Markdown file that git knows.
"""

import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")


def documents():
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", "*.md"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).exists()]


def lines(page):
    """The lines of a page that are text, with their numbers: not those between fences."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


@functools.cache
def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for _, line in lines(page):
        if line.startswith("#"):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip()).lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            copy, number = anchor, 0
            while copy in found:
                number += 1
                copy = f"{anchor}-{number}"
            found.add(copy)
    return found


def main():
    bad = 0
    for page in documents():
        for number, line in lines(page):
            for link in LINK.findall(line):
                if re.match(r"[a-z][a-z0-9+.-]*:", link):
                    continue
                path, _, anchor = link.partition("#")
                target = (page.parent / path).resolve() if path else page
                where = f"{page.relative_to(ROOT)}:{number}: {link}"
                if not target.exists():
                    print(f"{where}: there is no such file", file=sys.stderr)
                    bad += 1
                elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                    print(f"{where}: the page has no such heading", file=sys.stderr)
                    bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
