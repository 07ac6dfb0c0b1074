# SPDX-License-Identifier: Apache-2.0
"""Adds up test results from JUnit XML files, as `swift test --xunit-output` and `pytest --junitxml` write them.

    tally.py FILE…       prints `PASSED FAILED SKIPPED`, and each failed or skipped test on standard error

A file that is missing, empty or not XML counts as one failure: a run that broke off must never look like one that
passed. Errors (a fixture that failed) count as failures.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def outcome(case):
    """`passed`, `failed` or `skipped`, and the reason."""
    for kind, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            return word, (found.get("message") or found.text or "no reason given").strip()
    return "passed", ""


def tally(path):
    """The number of tests of one file that passed, failed and were skipped."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    name = pathlib.Path(path).name
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as problem:
        print(f"failed: {name}: no results: {problem}", file=sys.stderr)
        return {"passed": 0, "failed": 1, "skipped": 0}
    if not cases:
        print(f"failed: {name}: no test ran", file=sys.stderr)
        return {"passed": 0, "failed": 1, "skipped": 0}
    # pytest writes one case for the test and another for an error at its end: they are one test.
    order = ("passed", "skipped", "failed")
    worst = {}
    for case in cases:
        which = (case.get("classname") or "", case.get("name") or "")
        word, reason = outcome(case)
        if order.index(word) >= order.index(worst.get(which, ("passed", ""))[0]):
            worst[which] = (word, reason)
    for (suite, test), (word, reason) in worst.items():
        counts[word] += 1
        if word != "passed":
            first = reason.splitlines()[0] if reason else ""
            print(f"{word}: {suite}.{test}: {first}", file=sys.stderr)
    return counts


def main():
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for path in sys.argv[1:]:
        for word, count in tally(path).items():
            total[word] += count
    print(total["passed"], total["failed"], total["skipped"])


if __name__ == "__main__":
    main()
