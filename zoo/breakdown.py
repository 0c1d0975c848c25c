"""A profile for people: text that tells what a model costs and where, and a picture of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.metrics import CONVENTIONS

if TYPE_CHECKING:
    import altair as alt

    from zoo.metrics.counts import Part

Line = tuple[str, ...]
NONE = "–"
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
LEVELS, WIDTH, ROW = 6, 900, 26
# Shares of the whole: less than the first is not drawn; two children of the second have colours of their own.
SMALLEST, LARGE = 0.002, 0.05
# Okabe and Ito's colours, paled so that black text can be read on them; the last is for what is not divided yet.
COLOURS = ("#8fc1e3", "#f2b48c", "#8fd3bd", "#e3bcd3", "#f3cf8a", "#b9dff5", "#d9d9d9")


def quantity(value: float | None, unit: str = "") -> str:
    """Return a number with four significant digits and the prefix that suits it."""
    if value is None:
        return NONE
    for factor, prefix in PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def memory_text(value: int | None) -> str:
    """Return bytes in the binary unit that suits them."""
    if value is None:
        return NONE
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value} B"


def seconds_text(value: float) -> str:
    """Return seconds in the unit that suits them."""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e-3, "ms")) if value >= f), (1e-6, "µs"))
    return f"{value / factor:.4g} {unit}"


# -- several models ------------------------------------------------------------------------------------------


def table(profiles: Sequence[Mapping[str, Any]], convention: str = "mac") -> list[Line]:
    """Return a table with one line a profile; columns that would be empty are left out."""
    wanted = [column for column in COLUMNS if any(column[1](p) not in (NONE, "0") for p in profiles)]
    head = (f"MACs ({convention})" if title == "MACs" and convention != "mac" else title for title, _ in wanted)
    lines: list[Line] = [("Model", "Size", *head)]
    for p in profiles:
        shown = {**p, "macs": p["conventions"][convention]} if p.get("conventions") else p
        lines.append((p["model"], p["size"], *(text(shown) for _, text in wanted)))
    return lines


def _macs(p: Mapping[str, Any]) -> str:
    """Return the MACs; a star says that what is in no count may add more than 1 %."""
    at_most = p["uncounted_at_most"]
    marked = p["macs"] is not None and (at_most is None or at_most > 0.01)
    return quantity(p["macs"]) + (" *" if marked else "")


def _backward(p: Mapping[str, Any]) -> str:
    return quantity(p["training"]["backward"]) if p["training"] else NONE


def _peak(which: str, p: Mapping[str, Any]) -> str:
    return memory_text(p[which]["peak"]) if p[which] else NONE


COLUMNS = (
    ("Params", lambda p: quantity(p["params"])),
    ("MACs", _macs),
    ("FFT FLOPs", lambda p: quantity(p["flops_fft"])),
    ("Backward MACs", _backward),
    ("Activations", lambda p: quantity(p["activations"])),
    ("Peak memory", lambda p: _peak("memory", p)),
    ("Training peak", lambda p: _peak("training_memory", p)),
)


def notes(profiles: Sequence[Mapping[str, Any]], convention: str = "mac") -> Iterator[str]:
    """Yield what a table's numbers mean, and what could not be had, with the reason."""
    named = {f"{p['dtype']}, batch {p['batch_size']}" for p in profiles}
    yield f"counts of one sample ({'; '.join(sorted(named))})"
    if any(p["memory"] for p in profiles):
        yield "memory of a batch, predicted: weights, inputs, and what torch allocates; training with AdamW"
    if convention != "mac":
        yield f"{convention}: {CONVENTIONS[convention]}"
    for p in profiles:
        material = [op for op in p["uncounted"] or () if op["material"]]
        if material:
            told = ", ".join(f"{op['name']} x{op['calls']}" for op in material)
            most = p["uncounted_at_most"]
            yield f"{p['model']}: not counted: {told}" + (f", at most {most:.2%}" if most is not None else "")
        for reason in dict.fromkeys(p["failures"].values()):
            without = ", ".join(what for what, said in p["failures"].items() if said == reason)
            yield f"{p['model']}: no {without.replace('_', ' ')}: {reason}"


# -- one model -----------------------------------------------------------------------------------------------


def by_operator(p: Mapping[str, Any]) -> list[Line]:
    """Return MACs by operator, most first, with their share."""
    total = max(1, p["macs"] or 0)
    lines: list[Line] = [("Operator", "MACs", "share")]
    return lines + [(op, quantity(n), f"{n / total:.1%}") for op, n in (p["by_op"] or {}).items()]


def by_module(p: Mapping[str, Any]) -> list[Line]:
    """Return the tree of modules that have parameters or do something, with what each does and its share."""
    total = max(1, p["macs"] or 0)
    lines: list[Line] = [("Module", "Type", "Params", "MACs", "share")]
    for row in p["modules"] or ():
        if row["macs"] or row["params"] or row["flops_fft"]:
            depth = row["module"].count(".") + bool(row["module"])
            name = "  " * depth + (row["module"].rpartition(".")[2] or p["model"])
            cells = (quantity(row["params"]), quantity(row["macs"]), f"{row['macs'] / total:.1%}")
            lines.append((name, row["type"], *cells))
    return lines


# -- a picture -----------------------------------------------------------------------------------------------


def icicle(tree: Part, title: str, subtitle: str = "", levels: int = LEVELS) -> alt.LayerChart:
    """Return an icicle: each level of modules a row, each module as wide as its share of the MACs.

    ZooError when there are no MACs to share.
    """
    import altair as alt

    if not tree.macs:
        raise ZooError(f"{title} has no MACs to draw")
    boxes = [*_boxes(tree, 0.0, 0, levels, tree.macs)]
    depth = 1 + max(box["level"] for box in boxes)
    base = alt.Chart(alt.Data(values=boxes)).encode(
        x=alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False)),
        y=alt.Y("level:Q", axis=None, scale=alt.Scale(domain=[0, depth], reverse=True, nice=False)),
    )
    tips = [alt.Tooltip(f"{name}:N") for name in ("module", "type", "MACs", "share", "params")]
    drawn = base.mark_rect(stroke="white", strokeWidth=1).encode(
        x2="end:Q", y2="below:Q", color=alt.Color("colour:N", scale=None), tooltip=tips
    )
    named = base.mark_text(align="center", baseline="middle", fontSize=11, color="#222222").encode(
        x="middle:Q", y="centre:Q", text="label:N", tooltip=tips
    )
    return (
        alt.layer(drawn, named)
        .properties(width=WIDTH, height=ROW * depth, title=alt.Title(title, subtitle=subtitle, anchor="start"))
        .configure_view(stroke=None)
        .configure(font="Liberation Sans, Arial, Helvetica, sans-serif")
    )


def _boxes(
    part: Part, start: float, level: int, levels: int, total: int, path: str = "", colour: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield a box a module: where it lies, and what it is called as far as there is room.

    Children have colours of their own where the work is first divided; what lies below has the same.
    """
    share = part.macs / total
    yield {
        "start": start, "end": start + share, "middle": start + share / 2, "level": level, "below": level + 1,
        "centre": level + 0.5, "module": path or part.type, "type": part.type, "MACs": quantity(part.macs),
        "share": f"{share:.1%}", "params": quantity(part.params), "colour": colour or COLOURS[-1],
        "label": _label(part, share, path),
    }  # fmt: skip
    drawn = [child for child in part.children if child.macs / total >= SMALLEST] if level + 1 < levels else []
    divided = sum(child.macs / total >= LARGE for child in drawn) > 1
    for n, child in enumerate(drawn):
        own = colour or (COLOURS[n % (len(COLOURS) - 1)] if divided else "")
        yield from _boxes(child, start, level + 1, levels, total, f"{path}.{child.name}".lstrip("."), own)
        start += child.macs / total


def _label(part: Part, share: float, path: str) -> str:
    """Return as much of a name as its box has room for, empty when there is none."""
    room = int(share * WIDTH / 7)
    name = path.rpartition(".")[2] or part.type
    told = f"{name}  {quantity(part.macs)}  {share:.0%}"
    return told if len(told) <= room else name if len(name) <= room else ""


def save(chart: alt.LayerChart, file: Path) -> None:
    """Write a picture as SVG, PNG, PDF, or as a page. ZooError for another suffix."""
    kinds = (".svg", ".png", ".pdf", ".html")
    if file.suffix not in kinds:
        raise ZooError(f"a picture cannot be written to {file.name}; expected a name that ends in {', '.join(kinds)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        chart.save(str(file), inline=True)
    else:
        chart.save(str(file), scale_factor=2 if file.suffix == ".png" else 1)
