#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds links and citations that lead nowhere.

    scripts/links.py     prints FILE:LINE for each, and exits with 1 if there is one

A link in a document may name a file that does not exist, or a heading that its page lacks. A comment in the code may cite
a page of docs/ that does not exist, or a rule that docs/reliability.md lacks ("docs/reliability.md, rule 19"; "rules 19 to
21"). Addresses on the web are not checked. A document is any Markdown file that git knows.
"""

import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")


CITATION = re.compile(r"\bdocs/[a-z]+\.md")
RULES = re.compile(r"\bdocs/reliability\.md, rules? ([0-9]+)(?: to ([0-9]+))?")


def files(*patterns):
    """The files that git knows under these patterns."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).exists()]


def dead_citations():
    """What comments cite and docs/ does not have: place and reason of each."""
    page = (ROOT / "docs/reliability.md").read_text()
    rules = {int(number) for number in re.findall(r"^\*\*([0-9]+)\. ", page, re.M)}
    for file in files("*.swift", "*.c", "*.h", "*.py"):
        # A citation may go on in the next line of a comment.
        text = re.sub(r"\n\s*(///?|#|\*)", " ", file.read_text())
        text = re.sub(r" +", " ", text)
        for cited in set(CITATION.findall(text)):
            if not (ROOT / cited).exists():
                yield f"{file.relative_to(ROOT)}: {cited}: there is no such page"
        for first, last in RULES.findall(text):
            for rule in range(int(first), int(last or first) + 1):
                if rule not in rules:
                    yield f"{file.relative_to(ROOT)}: docs/reliability.md has no rule {rule}"


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
    for page in files("*.md"):
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
    for citation in dead_citations():
        print(citation, file=sys.stderr)
        bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
