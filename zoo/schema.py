"""What a suite file may hold: groups of cases, tables and plots of several kinds, and a set of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from zoo.errors import BadSize, BadSpec
from zoo.images import scaled
from zoo.metrics import Convention
from zoo.spec import Scalar, Size, read_layer

SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def parse_bytes(value: Any) -> Any:
    """Read an amount of memory: a number of bytes, or text such as ``4 GiB``."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*(k|M|G|Ki|Mi|Gi)?B?", value.strip())
    if not match:
        raise ValueError(f"{value!r} is not an amount of memory; expected bytes, or text such as '4 GiB'")
    return int(float(match[1]) * SCALE[match[2] or ""])


class Strict(BaseModel):
    """Unknown keys are errors, nothing is changed after reading, and types are not bent to fit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(Strict):
    """What one case may take: ``time`` in seconds, ``memory`` in bytes above what the worker starts with."""

    time: Annotated[float, Field(gt=0, le=604_800)] = 300.0
    memory: Annotated[int, Field(gt=0), BeforeValidator(parse_bytes)] | None = None


class ModelEntry(Strict):
    """One model with options of its own, which may be written as ``name:option=value+option=value``."""

    name: str
    options: dict[str, Scalar] = {}

    @classmethod
    def read(cls, text: Any) -> Any:
        """Return an entry for a name with options, and anything else as it is."""
        if not isinstance(text, str) or ":" not in text:
            return text
        try:
            name, options = read_layer(text)
        except BadSpec as error:
            raise ValueError(str(error)) from None
        return cls(name=name, options=options)


class Group(Strict):
    """Models, the axes they are swept over, and what is measured of them.

    ``baseline`` is one of the models, or an axis with one of its values (``compile: eager``): what is timed is then
    measured beside it, where all other axes are the same.
    """

    models: Annotated[list[Annotated[str | ModelEntry, BeforeValidator(ModelEntry.read)]], Field(min_length=1)]
    axes: dict[str, list[Scalar]] = {}
    metrics: Annotated[list[str], Field(min_length=1)]
    task: str | None = None
    recipe: str | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    baseline: str | dict[str, Scalar] | None = None
    limits: Limits = Limits()

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, axes: Any) -> Any:
        if not isinstance(axes, dict):
            return axes
        return {name: values if isinstance(values, list) else [values] for name, values in axes.items()}

    @field_validator("axes")
    @classmethod
    def _no_empty_axis(cls, axes: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        for name, values in axes.items():
            if not values:
                raise ValueError(f"the axis {name!r} has no values, so the group has no cases")
        return axes


class TableSpec(Strict):
    """A table: the rows are the cases that fit ``where``, the ``columns`` are axes and metrics, in order.

    ``note`` is what a reader must know, printed first below the table. ``convention`` tells MACs as another source
    counted them (``detr2020``). The values of the axis ``pivot`` become columns. Rows are sorted by the columns in
    ``sort``, ``-macs`` from the largest on. ``best`` are metrics whose best value is marked, ``front`` two metrics
    whose Pareto front is. ``ratios`` are metrics that are also told as a multiple of the row that fits ``baseline``.
    Rows that differ in nothing but the axis ``over`` are one, with their mean.
    """

    kind: Literal["cases"] = "cases"
    title: str
    note: str = ""
    convention: Convention = "mac"
    columns: Annotated[list[str], Field(min_length=1)]
    where: dict[str, Scalar | list[Scalar]] = {}
    pivot: str = ""
    sort: list[str] = []
    best: list[str] = []
    front: Annotated[list[str], Field(max_length=2)] = []
    baseline: dict[str, Scalar] = {}
    ratios: list[str] = []
    over: Literal["", "seed"] = ""

    @field_validator("front")
    @classmethod
    def _two(cls, front: list[str]) -> list[str]:
        if len(front) == 1:
            raise ValueError("a front is of two metrics")
        return front

    @model_validator(mode="after")
    def _whole(self) -> TableSpec:
        for key in ("sort", "best", "front", "ratios"):
            for name in getattr(self, key):
                if (name.removeprefix("-") if key == "sort" else name) not in self.columns:
                    raise ValueError(f"{key}: {name!r} is none of the columns: {', '.join(self.columns)}")
        if self.ratios and not self.baseline:
            raise ValueError("ratios need a baseline, such as baseline: {model: vit_s16}")
        if self.pivot and self.pivot in self.columns:
            raise ValueError(f"pivot: {self.pivot!r} is a column already; leave it out there")
        if self.pivot and (self.sort or self.front):
            raise ValueError("a table with a pivot has no sort and no front: a row of it is several cases")
        return self


class LayerRow(Strict):
    """A layer's row in a table of complexity: its title, and how the published table calls it, where it is there."""

    layer: str
    title: str = ""
    published: str = ""


class ComplexityTable(Strict):
    """How layers grow, declared beside measured: MACs over all letters, depth, time and memory."""

    kind: Literal["complexity"]
    title: str
    note: str = ""
    layers: Annotated[list[LayerRow], Field(min_length=1)]


class PublishedColumn(Strict):
    """A column of published numbers: which of them, by globs of their fields, and what is measured beside them.

    ``spread`` is the metric that the source prints after ±, ``also`` one that it prints after a stroke. Without a
    ``metric`` there is what is measured alone.
    """

    title: str
    metric: str = "*"
    task: str = "*"
    unit: str = "*"
    source: str = "*"
    resolution_or_seqlen: str = "*"
    spread: str = ""
    also: str = ""
    measured: str = ""


class Reason(Strict):
    """Why what is measured differs from what was published, for the rows whose names fit a glob."""

    column: str
    rows: str
    why: str


class Ours(ModelEntry):
    """The model that stands beside a published row, at a size of its own where the row does not say one."""

    size: str = ""


class PublishedTable(Strict):
    """Numbers that others published, and ours beside them.

    A row is what ``rows`` tells apart, in the order of ``results/published``; ``where`` are globs of fields. Ours are
    of the model that claims the row's system and variant, or the one that ``models`` gives for a glob of both, at the
    resolution that is published, or its default; ``over: images`` is the mean over the suite's images.
    """

    kind: Literal["published"]
    title: str
    note: str = ""
    where: dict[str, str | list[str]] = {}
    rows: Annotated[list[str], Field(min_length=1)] = ["system", "variant"]
    columns: Annotated[list[PublishedColumn], Field(min_length=1)]
    models: dict[str, str | Ours] = {}
    over: Literal["", "images"] = ""
    machine: str = ""
    reasons: list[Reason] = []

    @field_validator("columns")
    @classmethod
    def _titles(cls, columns: list[PublishedColumn]) -> list[PublishedColumn]:
        for title, count in Counter(column.title for column in columns).items():
            if count > 1:
                raise ValueError(f"{count} columns have the title {title!r}")
        return columns


class Images(Strict):
    """A set of images by height and width, ``480x640: 20`` for twenty, and what they are scaled to.

    The short side becomes ``short``, the long one ``long`` at most. ``name`` says what set it is.
    """

    name: str
    short: Annotated[int, Field(gt=0)]
    long: Annotated[int, Field(gt=0)]
    sizes: Annotated[dict[str, Annotated[int, Field(gt=0)]], Field(min_length=1)]

    def scaled(self) -> dict[str, int]:
        """Return how many images have each size after scaling."""
        found: dict[str, int] = {}
        for text, count in self.sizes.items():
            height, width = scaled(*Size.parse(text, "px").pair, self.short, self.long)
            size = str(Size.parse(f"{height}x{width}px"))
            found[size] = found.get(size, 0) + count
        return found

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, sizes: dict[str, int]) -> dict[str, int]:
        for text in sizes:
            try:
                size = Size.parse(text, "px")
            except BadSize as error:
                raise ValueError(str(error)) from None
            if size.unit != "px":
                raise ValueError(f"{text!r} is no size of an image; expected height and width, such as 480x640")
        return sizes


TABLE_KINDS: Mapping[str, type[Strict]] = MappingProxyType(
    {"cases": TableSpec, "complexity": ComplexityTable, "published": PublishedTable}
)
UNKNOWN_KIND = "unknown_kind"


def table_kind(given: Any) -> str | None:
    """Return the kind of a table, ``cases`` where it says none; None for a kind that there is not."""
    return kind_of(given, "cases", TABLE_KINDS)


def kind_of(given: Any, default: str, kinds: Mapping[str, Any]) -> str | None:
    """Return which of some kinds something says that it is."""
    kind = given.get("kind", default) if isinstance(given, dict) else getattr(given, "kind", default)
    return kind if isinstance(kind, str) and kind in kinds else None


AnyTable = Annotated[
    Annotated[TableSpec, Tag("cases")]
    | Annotated[ComplexityTable, Tag("complexity")]
    | Annotated[PublishedTable, Tag("published")],
    Discriminator(
        table_kind,
        custom_error_type=UNKNOWN_KIND,
        custom_error_message=f"there is no such kind of table; expected one of {', '.join(TABLE_KINDS)}",
    ),
]


class Picture(Strict):
    """What plots of all kinds have: ``name`` is that of their files, ``where`` chooses the rows."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    title: str
    where: dict[str, Scalar | list[Scalar]] = {}


class PlotSpec(Picture):
    """A log-log plot of the metric ``y`` against ``x`` (``size``), one line a model."""

    kind: Literal["scaling"] = "scaling"
    y: str
    x: str = "size"


class ParetoSpec(Picture):
    """Two metrics against each other, one point a row, and the front of the rows that no other one dominates."""

    kind: Literal["pareto"] = "pareto"
    x: str
    y: str

    @model_validator(mode="after")
    def _two_metrics(self) -> ParetoSpec:
        if self.x == self.y:
            raise ValueError(f"x and y are both {self.x!r}; expected two metrics, such as macs and top1")
        return self


class BreakdownSpec(Picture):
    """A bar a row: its MACs by group of operators, as shares of the whole or, without ``percent``, as they are."""

    kind: Literal["breakdown"] = "breakdown"
    percent: bool = True


class RooflineSpec(Picture):
    """FLOP/s against FLOPs a byte, one point a row, below the roof that the machine's two ceilings make."""

    kind: Literal["roofline"] = "roofline"


class LearningSpec(Picture):
    """The loss of each training against its steps, one line a training."""

    kind: Literal["learning"] = "learning"


class PublishedPlot(Picture):
    """How far ours is from what was published, for one column of a table of published numbers of the suite."""

    kind: Literal["published"] = "published"
    table: str
    column: str


PLOT_KINDS: Mapping[str, type[Picture]] = MappingProxyType(
    {
        "scaling": PlotSpec,
        "pareto": ParetoSpec,
        "breakdown": BreakdownSpec,
        "roofline": RooflineSpec,
        "learning": LearningSpec,
        "published": PublishedPlot,
    }
)


def plot_kind(given: Any) -> str | None:
    """Return the kind of a plot, ``scaling`` where it says none; None for a kind that there is not."""
    return kind_of(given, "scaling", PLOT_KINDS)


AnyPlot = Annotated[
    Annotated[PlotSpec, Tag("scaling")]
    | Annotated[ParetoSpec, Tag("pareto")]
    | Annotated[BreakdownSpec, Tag("breakdown")]
    | Annotated[RooflineSpec, Tag("roofline")]
    | Annotated[LearningSpec, Tag("learning")]
    | Annotated[PublishedPlot, Tag("published")],
    Discriminator(
        plot_kind,
        custom_error_type=UNKNOWN_KIND,
        custom_error_message=f"there is no such kind of plot; expected one of {', '.join(PLOT_KINDS)}",
    ),
]


class Suite(Strict):
    """A suite file. ``schema`` is 1. One without groups has tables of published numbers alone.

    ``size: images`` in a group stands for the sizes of ``images``.
    """

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    title: str = ""
    images: Images | None = None
    groups: list[Group] = []
    tables: list[AnyTable] = []
    plots: list[AnyPlot] = []

    @model_validator(mode="after")
    def _something(self) -> Suite:
        if not self.groups and not any(table.kind == "published" for table in self.tables):
            raise ValueError("a suite has groups, or tables of the kind published; this one has neither")
        for kind, names in (
            ("tables", [file_name(table.title) for table in self.tables]),
            ("plots", [plot.name for plot in self.plots]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    raise ValueError(f"{kind}: {count} would be saved as {name!r}; give each a name of its own")
        return self


def file_name(title: str) -> str:
    """Return a title as a file name; ``table`` where it has no letter of ASCII."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "table"
