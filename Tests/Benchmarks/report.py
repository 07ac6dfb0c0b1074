# SPDX-License-Identifier: Apache-2.0
"""Rows of figures: printed as they come, judged by their budgets, and written down at the end."""

import dataclasses
import json
import statistics

import budgets


@dataclasses.dataclass
class Row:
    what: str
    unit: str
    ours: list
    peer: str = ""
    theirs: list = dataclasses.field(default_factory=list)
    budget: budgets.Budget = None
    note: str = ""
    leniency: float = 1.0
    """What the budget's noise is multiplied with."""

    @property
    def ratios(self):
        """Round by round: both of a pair met the same machine."""
        return [a / b for a, b in zip(self.ours, self.theirs) if b]

    @property
    def judged(self):
        """What the budget is about: the ratio where there is somebody to compare with, else the figure."""
        values = self.ratios if self.theirs else self.ours
        return statistics.median(values) if values else None

    @property
    def verdict(self):
        """met, missed, or nothing where nothing is promised."""
        if self.budget is None:
            return ""
        if self.judged is None:
            return "not measured"
        return "met" if self.budget.holds(self.judged) else "missed"

    @property
    def fails(self):
        """Whether it was promised, and is missed by more than noise."""
        return bool(
            self.budget and self.budget.met and self.judged is not None
            and not self.budget.holds(self.judged, self.budget.noise * self.leniency))


def number(value):
    if value is None:
        return "-"
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def spread(values, unit=""):
    """Median, and the least and the most of them."""
    if not values:
        return "-"
    text = number(statistics.median(values))
    if len(values) > 1 and number(min(values)) != number(max(values)):
        text += f" ({number(min(values))}–{number(max(values))})"
    return f"{text} {unit}".strip()


class Report:
    HEAD = ("", "limit", "Sluice", "peer", "ratio", "budget")

    def __init__(self, quick=False):
        # A quick run has one round of most things.
        self.leniency = 2.0 if quick else 1.0
        self.sections = []
        self.skipped = []
        self.remarks = []

    def section(self, name, title):
        self.sections.append((name, title, []))
        print(f"\n== {title}", flush=True)

    def row(self, what, ours, unit="", peer="", theirs=(), budget=None, note=""):
        """One row; `ours` and `theirs` are a figure for each round, in the same order."""
        entry = Row(what, unit, list(ours), peer, list(theirs), budgets.BY_ID[budget] if budget else None,
                    note, self.leniency)
        self.sections[-1][2].append(entry)
        cells = self.cells(entry)
        print(f"  {cells[0]}\n      {cells[2]:<26} {cells[3]:<36} {cells[4]:<22} {cells[5]}", flush=True)

    def remark(self, text):
        self.remarks.append(text)
        print(f"  ({text})", flush=True)

    def skip(self, what, reason):
        self.skipped.append((what, reason))
        print(f"  {what}: skipped: {reason}", flush=True)

    @property
    def rows(self):
        return [row for _, _, rows in self.sections for row in rows]

    @property
    def failures(self):
        return [row for row in self.rows if row.fails]

    @staticmethod
    def cells(row):
        limit = ""
        if row.budget:
            limit = f"{'≤' if row.budget.at_most else '≥'} {row.budget.limit:g}"
        peer = f"{row.peer} {spread(row.theirs, row.unit)}" if row.theirs else row.peer
        verdict = row.verdict
        if row.fails:
            verdict += ", and was promised"
        elif verdict == "met" and not row.budget.met:
            verdict += ", not promised yet"
        elif verdict == "missed":
            verdict += " by noise" if row.budget.met else ", as known"
        what = f"{row.what} ({row.note})" if row.note else row.what
        ratio = spread(row.ratios) if row.theirs else ""
        return (what, limit, spread(row.ours, row.unit), peer, ratio, verdict)

    def markdown(self, facts, command):
        lines = [f"# Benchmarks of {facts['date']}", "", f"`{command}`, commit {facts['commit']}.", ""]
        lines += ["| machine | |", "|---|---|"]
        lines += [f"| {name} | {text} |" for name, text in facts.items()]
        lines += [
            "", "Figures are medians of the rounds, with the least and the most in parentheses. Sluice and its",
            "peers ran in turn within one run; ratios are taken round by round.",
        ]
        for _, title, rows in self.sections:
            if rows:
                lines += ["", f"## {title}", "", "| " + " | ".join(self.HEAD) + " |", "|---|---|---|---|---|---|"]
                lines += ["| " + " | ".join(self.cells(row)) + " |" for row in rows]
        missed = [row for row in self.rows if row.verdict == "missed"]
        if missed:
            lines += ["", "## Missed", ""]
            for row in missed:
                reason = row.budget.reason or "no reason is known yet"
                idea = f" Next: {row.budget.idea}" if row.budget.idea else ""
                lines.append(f"- {row.budget.sentence}: {number(row.judged)}, the limit is {row.budget.limit:g}. "
                             f"Why: {reason}.{idea}")
        if self.skipped:
            lines += ["", "## Skipped", ""] + [f"- {what}: {reason}" for what, reason in self.skipped]
        if self.remarks:
            lines += ["", "## Remarks", ""] + [f"- {text}" for text in self.remarks]
        return "\n".join(lines) + "\n"

    def json(self, facts, command):
        return json.dumps({
            "command": command,
            "machine": facts,
            "rows": [
                {
                    "section": name, "what": row.what, "unit": row.unit, "sluice": row.ours, "peer": row.peer,
                    "peer_figures": row.theirs, "ratios": row.ratios, "note": row.note,
                    "budget": row.budget.id if row.budget else None, "judged": row.judged, "verdict": row.verdict,
                }
                for name, _, rows in self.sections for row in rows
            ],
            "skipped": self.skipped,
            "remarks": self.remarks,
        }, ensure_ascii=False)
