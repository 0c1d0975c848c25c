"""All of timm, counted, beside what timm publishes: ``python tests/timm_gmacs.py [RESULTS]``.

Reads the records of ``zoo run timm --out RESULTS`` (``results`` by default) and results/published/timm.csv, and writes
RESULTS/timm/README.md: how many models, how many could be counted, and why counts differ from timm's.

timm counts with fvcore, which adds some FLOPs an element for norms and the like; where these, off our records, make up
the difference, that is the reason. For all others fvcore is run here as timm's benchmark runs it, fused attention off:
where that gives what timm printed, the reason is the operator on which the counters differ most. So it is run for the
example of each reason too.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from golden import markdown
from timm.layers import set_fused_attn
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from zoo import create_model, published, store
from zoo.metrics import audit, meta, params
from zoo.record import CaseRecord
from zoo.registry import installed
from zoo.spec import resolve

NEW, OLD = "benchmark-infer-amp-nchw-pt291-cu130-5090.csv", "benchmark-infer-amp-nchw-pt210-cu121-rtx3090.csv"
TOLERANCE = 0.01
# timm prints two decimals of a GMAC, and of a million parameters.
ROUNDING, ROUNDING_PARAMS = 0.005e9, 0.006e6
ROUNDED = "timm prints two decimals"
MERGED = "timm merges the branches of the model first (`--reparam`)"
ANOTHER = "timm's file has another model under this name, with other parameters"
UNFUSED = "timm counts it with attention unfused, which it computes by fewer products"
# What fvcore adds for each element that an operator returns, and what we call it.
ADDED = {
    "aten._native_batch_norm_legit_no_training": (2, "batch norms"),
    "aten.native_layer_norm": (5, "layer norms"),
    "aten.native_group_norm": (5, "group norms"),
    "aten._native_batch_norm_legit": (5, "weight standardisation"),
    "aten.upsample_bilinear2d": (4, "bilinear resampling"),
    "aten.upsample_nearest2d": (1, "nearest-neighbour resampling"),
}


@dataclass(frozen=True)
class Row:
    """One model at its own size: our MACs and parameters, timm's, and what fvcore adds to ours, by kind."""

    name: str
    size: str
    ours: float
    printed: float
    params: float
    printed_params: float | None
    added: Mapping[str, float]

    @property
    def change(self) -> float:
        """How far timm's count is above ours, as a fraction."""
        return self.printed / self.ours - 1

    @property
    def differs(self) -> bool:
        """Tell whether the two are more than 1 % apart."""
        return abs(self.change) > TOLERANCE

    @property
    def same_params(self) -> bool:
        """Tell whether timm prints our parameters, two decimals of a million."""
        return self.printed_params is None or abs(self.params - self.printed_params) <= ROUNDING_PARAMS

    def is_printed(self, macs: float) -> bool:
        """Tell whether timm would print a count as it did, give or take half a per cent."""
        return abs(macs - self.printed) <= ROUNDING + TOLERANCE / 2 * self.printed


# -- reading -------------------------------------------------------------------------------------------------


def newest(folder: Path) -> dict[str, CaseRecord]:
    """Return the newest record of each model at its own size, under timm's name."""
    found = {}
    for record in store.load(folder).records:
        spec = installed().model(record.case.model)
        if record.case.size == spec.sizes.default:
            found[record.case.model.removeprefix("timm/")] = record
    return found


@cache
def printed(metric: str, file: str) -> Mapping[tuple[str, str], float]:
    """Return what one file of timm's says, by model and size."""
    quoted = (p for p in published.of("timm", "*") if p.metric == metric and file in p.source)
    return {(p.variant, p.resolution_or_seqlen): float(p.value) for p in quoted}


def millions(count: float | None) -> float | None:
    """Return a number that is given in millions."""
    return None if count is None else count * 1e6


def beside(records: Mapping[str, CaseRecord], file: str) -> Iterator[Row]:
    """Yield the models that were counted and that a file of timm's has at the same size."""
    theirs = printed("infer_gmacs", file)
    for name, record in records.items():
        macs, size = record.metrics["macs"], record.case.size.removesuffix("px")
        if macs.value is not None and (name, size) in theirs:
            added: dict[str, float] = defaultdict(float)
            for op in macs.detail["uncounted"]:
                factor, kind = ADDED.get(op["name"], (0, ""))
                if factor:
                    added[kind] += factor * op["elements"]
            counts = (record.metrics["params"].value or 0, millions(printed("param_count", file).get((name, size))))
            yield Row(name, record.case.size, macs.value, theirs[name, size] * 1e9, *counts, added)


# -- why -----------------------------------------------------------------------------------------------------


def why(row: Row) -> str:
    """Return the reason of a difference."""
    if not row.same_params:
        merged = fvcore(row, merged=True).shipped.macs
        return MERGED if merged is not None and row.is_printed(merged) else ANOTHER
    if abs(row.ours - row.printed) <= ROUNDING:
        return ROUNDED
    if row.added and row.is_printed(row.ours + sum(row.added.values())):
        return f"fvcore adds FLOPs for {max(row.added, key=lambda kind: row.added[kind])}"
    found = fvcore(row)
    theirs = found.shipped.macs
    if theirs is None or not row.is_printed(theirs):
        return "not known: fvcore does not give timm's number here"
    if abs(found.ours.macs / row.ours - 1) > TOLERANCE / 2:
        return UNFUSED
    return re.sub(r" \(\d+ calls\)", "", max(found.reasons, key=lambda reason: abs(reason.macs)).text)


def merges(row: Row) -> bool:
    """Tell whether timm prints our parameters only once the branches of the model are merged."""
    if row.same_params:
        return False
    with meta.on_meta():
        model = reparameterize_model(create_model(f"timm/{row.name}", row.size).eval())
    return replace(row, params=params.count(model).total).same_params


def fvcore(row: Row, merged: bool = False) -> audit.Audit:
    """Count a model with fvcore beside ours, fused attention off, as timm's benchmark has it."""
    spec = installed().model(f"timm/{row.name}")
    size = spec.size(row.size)
    set_fused_attn(False)

    def build() -> nn.Module:
        model: nn.Module = resolve(str(spec.build))(size.native, **spec.knobs)
        return reparameterize_model(model.eval()) if merged else model

    def inputs(dtype: torch.dtype, device: torch.device, _: object) -> tuple[tuple[Tensor], dict[str, object]]:
        return (torch.empty(1, 3, *size.pair, dtype=dtype, device=device),), {}

    return audit.audit_model(build, inputs, installed().custom)


def classes(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Return the reasons why rows differ with their rows, those with the most first."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        reason = why(row)
        found[reason].append(row)
        print(f"{row.name} {row.size}: ours {giga(row.ours)}, timm {row.printed / 1e9:.2f}: {reason}", flush=True)
    return sorted(found.items(), key=lambda item: -len(item[1]))


# -- the page ------------------------------------------------------------------------------------------------


def giga(count: float | None) -> str:
    """Write a count in thousands of millions, three decimals."""
    return "" if count is None else f"{count / 1e9:.3f}"


def report(records: Mapping[str, CaseRecord], new: list[Row], old: list[Row]) -> str:
    """Return the page as Markdown."""
    differ = [row for row in new if row.differs]
    parts = [
        "# All of timm, counted without running anything\n",
        f"{summary(records)}\n\n## Beside timm's own counts\n",
        f"{len(new)} of them are in timm's `{NEW}` at the same size. {sum(row.same_params for row in new)} have the "
        f"parameters that it prints, and {sum(merges(row) for row in new)} more once their branches are merged. "
        f"{len(new) - len(differ)} have its MACs within 1 %. The other {len(differ)}, by "
        "reason, each with the model that differs most beyond rounding:\n",
        markdown(HEADS, (class_row(reason, rows) for reason, rows in classes(differ))),
        older(new, old),
        "## What could not be counted\n",
        failures(records),
    ]
    return "\n".join(parts)


def summary(records: Mapping[str, CaseRecord]) -> str:
    """Say how many models were counted, with what, and how long it took."""
    failed = sum(record.status != "ok" for record in records.values())
    times = [datetime.datetime.fromisoformat(record.time) for record in records.values()]
    print_of = next(iter(records.values())).fingerprint
    seconds, minutes = sum(record.seconds or 0 for record in records.values()), (max(times) - min(times)).seconds / 60
    material = sum(bool(record.metrics["uncounted_ops"].value) for record in records.values())
    return (
        f"{len(records)} models of timm {print_of['timm']} at their own sizes, on torch {print_of['torch']}: "
        f"{len(records) - failed} counted, {failed} failed. {minutes:.0f} minutes from the first to the last, "
        f"{seconds / len(records):.2f} s a model, two at once. {material} call an operator that is in no count and may "
        "matter. Made by `zoo run timm --out results`, then `python tests/timm_gmacs.py`."
    )


HEADS = ("Why they differ", "Models", "Such as", "Ours (GMACs)", "timm's", "fvcore's, here", "timm's is (%)")


def class_row(reason: str, rows: list[Row]) -> list[object]:
    """Return the row of one reason; its example is counted with fvcore too."""
    most = max(rows, key=lambda row: (abs(row.ours - row.printed) - ROUNDING) / row.ours)  # as far as it is no rounding
    theirs = fvcore(most, merged=reason == MERGED).shipped.macs
    name = f"{most.name}, {most.size}"
    return [
        reason,
        len(rows),
        name,
        giga(most.ours),
        f"{most.printed / 1e9:.2f}",
        giga(theirs),
        f"{100 * most.change:+.1f}",
    ]


def older(new: list[Row], old: list[Row]) -> str:
    """Say how timm's older file differs."""
    before = {row.name: row.printed for row in new}
    fewer = [row for row in old if row.printed < (1 - TOLERANCE) * before.get(row.name, 0)]
    most = min(fewer, key=lambda row: row.printed / before[row.name])
    return (
        f"In timm's older `{OLD}`, {sum(row.differs for row in old)} of {len(old)} differ by over 1 %: "
        f"{len(fewer)} are below the newer file, as fvcore does not count fused attention "
        f"({most.name}: {most.printed / 1e9:.2f} instead of {before[most.name] / 1e9:.2f}).\n"
    )


def failures(records: Mapping[str, CaseRecord]) -> str:
    """List what failed, with the reason."""
    failed = [
        [name, record.status, next(v.reason for v in record.metrics.values() if v.status == record.status)]
        for name, record in records.items()
        if record.status != "ok"
    ]
    return markdown(("Model", "Status", "Reason"), failed) if failed else "Nothing: all of them were.\n"


def main(results: str = "results") -> None:
    """Write the page."""
    torch.set_num_threads(1)
    folder = Path(results) / "timm"
    records = newest(folder)
    page = report(records, list(beside(records, NEW)), list(beside(records, OLD)))
    (folder / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
