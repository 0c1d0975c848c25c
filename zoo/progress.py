"""What a run tells while it goes on: a live display on a terminal, plain lines when piped, nothing to a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from zoo.record import CaseRecord, gravest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zoo.case import Case
    from zoo.plan import Plan, Work


# How many models a line names at most.
MOST_NAMES = 20


class Reporter:
    """Tells nobody."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def planned(self, plan: Plan) -> None:
        """Be told what will be done and what is skipped."""

    def started(self, number: int, work: Work) -> None:
        """Be told that a case begins."""

    def progress(self, text: str) -> None:
        """Be told how far a case is."""

    def finished(self, number: int, work: Work, records: Sequence[CaseRecord], seconds: float) -> None:
        """Be told what came out."""


def summary(records: Sequence[CaseRecord]) -> str:
    """Say how a case ended: its status, and the first reason when that is not ok."""
    status = gravest(r.status for r in records)
    reasons = [v.reason for r in records for v in r.metrics.values() if v.status == status and v.reason]
    return f"{status}: {reasons[0]}" if reasons else status


def plan_line(plan: Plan) -> str:
    """Say what a plan holds."""
    return f"{plan.file.name} on {plan.machine}: {len(plan.work)} cases to run, {len(plan.skipped)} skipped"


def grouped(skipped: Sequence[tuple[Case, str]]) -> dict[str, list[Case]]:
    """Return skipped cases by the reason why."""
    found: dict[str, list[Case]] = {}
    for case, why in skipped:
        found.setdefault(why, []).append(case)
    return found


class LineReporter(Reporter):
    """Plain lines on stderr, one a case."""

    total = 0

    def say(self, text: str) -> None:
        """Write one line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def planned(self, plan: Plan) -> None:
        """Say what will be done, and why something is skipped."""
        self.total = len(plan.work)
        for problem in (*plan.failures, *plan.warnings):
            self.say(f"zoo: {problem}")
        self.say(plan_line(plan))
        for why, cases in grouped(plan.skipped).items():
            names = list(dict.fromkeys(case.model for case in cases))
            told = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
            self.say(f"  skipped, {why}: {len(cases)} cases of {told}")

    def finished(self, number: int, work: Work, records: Sequence[CaseRecord], seconds: float) -> None:
        """Write the case's line."""
        why = f" ({work.why})" if work.why else ""
        self.say(f"[{number}/{self.total}] {work.planned.case.id}{why}: {summary(records)} in {seconds:.1f} s")


class TerminalReporter(LineReporter):
    """A progress bar on stderr, with the finished cases above it."""

    bar: Progress
    task: TaskID
    case = ""

    def __enter__(self) -> Self:
        """Prepare the display; it starts with the plan."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        """Take the display away."""
        self.bar.stop()

    def say(self, text: str) -> None:
        """Write one line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False)

    def planned(self, plan: Plan) -> None:
        """Set the bar's length."""
        super().planned(plan)
        self.bar.update(self.task, total=len(plan.work))
        self.bar.start()

    def started(self, number: int, work: Work) -> None:
        """Name the case that is measured."""
        self.case = work.planned.case.id
        self.bar.update(self.task, description=self.case)

    def progress(self, text: str) -> None:
        """Show how far the case is."""
        self.bar.update(self.task, description=f"{self.case}: {text}")

    def finished(self, number: int, work: Work, records: Sequence[CaseRecord], seconds: float) -> None:
        """Advance the bar."""
        super().finished(number, work, records, seconds)
        self.bar.update(self.task, completed=number)


def make_reporter() -> Reporter:
    """Return a live display on a terminal, plain lines when piped."""
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()
