"""The ``zoo`` command. Tables go to stdout, progress to stderr; a user's mistake is one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import __version__
from zoo.errors import BadRecords, UnknownName, ZooError, told

if TYPE_CHECKING:
    from zoo import analysis
    from zoo.formats import Format
    from zoo.metrics.roofline import Ceilings
    from zoo.record import ComparisonRecord
    from zoo.registry import Registry
    from zoo.report import Report
    from zoo.runner import Request
    from zoo.spec import Scalar
    from zoo.suite import SuiteFile

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
KINDS = ("model", "layer", "task", "suite", "namespace")
TIMES = ("latency", "throughput", "latency_graph")
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "latex", "csv", "html")
NAMES = ("name", "id")
COUNTED = ("models", "layers", "tasks", "namespaces")


class Command(click.Group):
    """A group whose commands report bad input as one sentence and exit with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our errors become click's."""
        try:
            return super().invoke(ctx)
        except ZooError as error:
            click.echo(f"zoo: {error}", err=True)
            sys.exit(EXIT_USAGE)
        except KeyboardInterrupt:
            click.echo("zoo: interrupted; what was measured is kept", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"zoo: {where}{error.strerror or error}; what was measured is kept", err=True)
            sys.exit(EXIT_USAGE)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attention-zoo")
def main() -> None:
    """Register architectures, measure what they cost and achieve, and print tables that can be trusted."""


plugin_option = click.option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="Add a single-file plugin.")
images_option = click.option("--images", metavar="PATH", help="A folder of images, or a COCO annotation file, whose "
                             "sizes stand for the suite's own.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(data: Any) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def print_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print rows of text with aligned columns; those of numbers, ``right``, end at one line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        click.echo("  ".join(cells).rstrip())


def load_registry(plugins: Iterable[str]) -> Registry:
    """Load all plugins, and say on stderr which of them failed."""
    from zoo.registry import Registry

    registry = Registry.load(plugins)
    for failure in registry.failures:
        click.echo(f"zoo: {failure}", err=True)
    return registry


# -- looking -------------------------------------------------------------------------------------------------


@main.command("list")
@click.argument("glob", default="*")
@click.option("--kind", type=click.Choice(KINDS), help="Only one kind of thing.")
@plugin_option
@json_option
def list_(glob: str, kind: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List what is registered, by name or GLOB. Models of a namespace are listed by a glob that begins with it."""
    from zoo.resources import suites

    registry = load_registry(plugins)
    found: list[dict[str, str]] = []
    models = [registry.model(name) for name in registry.match_models(glob if registry.namespace(glob) else "*")]
    for what, specs in (("model", models), ("layer", list(registry.layers.values()))):
        for spec in specs:
            owner = registry.owners[what, spec.name].name
            found.append({"name": spec.name, "kind": what, "family": spec.family, "plugin": owner, "about": spec.notes})
    for task in registry.tasks.values():
        owner = registry.owners["task", task.name].name
        about = task.description
        found.append({"name": task.name, "kind": "task", "family": task.kind, "plugin": owner, "about": about})
    found += [{"name": name, "kind": "suite", "family": "", "plugin": "", "about": ""} for name in suites()]
    for namespace in () if registry.namespace(glob) else registry.namespaces.values():
        owner = registry.owners["namespace", namespace.name].name
        row = {"name": namespace.name, "kind": "namespace", "family": "", "plugin": owner, "about": namespace.notes}
        found.append(row)
    shown = [f for f in found if fnmatch.fnmatchcase(f["name"], glob) and kind in (None, f["kind"])]
    if as_json:
        print_json(shown)
    elif shown:
        print_columns([(f["name"], f["kind"], f["family"], f["plugin"]) for f in shown])
    elif glob != "*":
        raise UnknownName(
            kind or "model, layer, task or suite", glob, [f["name"] for f in found if kind in (None, f["kind"])]
        )


@main.command()
@click.argument("name")
@click.option("--results", default="runs", show_default=True, help="Where records are, to show one by its key.")
@click.option("--audit", "audit_", is_flag=True, help="Count a model's MACs with fvcore too, and say why it differs.")
@click.option("--size", help="The size to audit at; left out, the model's default.")
@plugin_option
@json_option
def show(name: str, results: str, audit_: bool, size: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """Show everything known of one NAME: a model, a layer, a task, a suite, or a record by its key."""
    if audit_:
        found = audited(name, size, load_registry(plugins))
        print_json(found) if as_json else print_audit(found)
        return
    if size:
        raise ZooError("--size is for --audit; everything else that is known of a model holds at any size")
    data = describe(name, load_registry(plugins), Path(results))
    if as_json:
        print_json(data)
        return
    for key, value in data.items():
        if isinstance(value, tuple) and value and isinstance(value[0], dict):  # of one kind: recipes, metrics, layouts
            click.echo(f"{key}:")
            print_columns([(f"  {named(row)}", brief(row)) for row in value])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{key}:")
            keys = dict.fromkeys(key for row in value for key in row)  # a suite's plots differ in theirs
            print_columns([tuple(f"  {row.get(key, '')}" for key in keys) for row in value])
        elif isinstance(value, dict) and value:
            click.echo(f"{key}:")
            print_columns([("  " + str(k), str(v)) for k, v in value.items()])
        elif value not in ("", None, [], {}):
            click.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def named(row: Mapping[str, Any]) -> str:
    """Return what one of several records is called."""
    return str(row.get("name") or row.get("id") or "")


def brief(row: Mapping[str, Any]) -> str:
    """Return what a record says besides its name: all that is not empty, nothing or no."""
    said = {k: f"{v:g}" if isinstance(v, float) else v for k, v in row.items() if v and k not in NAMES}
    return " ".join(f"{k}={v}" for k, v in said.items())


def describe(name: str, registry: Registry, results: Path) -> dict[str, Any]:
    """Return what is known of a model, layer, task, suite or record. UnknownName when it is none of these."""
    from zoo import published
    from zoo.resources import suites

    if name in registry.models or registry.namespace(name):
        spec = registry.model(name)
        data = dataclasses.asdict(spec)
        quoted = published.of(*spec.published) if spec.published else []
        data["plugin"] = registry.owners["model", name].owner
        data["legal_sizes"] = spec.sizes.describe(spec.knobs)
        data["published"] = [
            {
                "variant": q.variant,
                "task": q.task,
                "metric": q.metric,
                "value": q.value,
                "unit": q.unit,
                "at": q.resolution_or_seqlen,
                "source": q.source,
            }
            for q in quoted
        ]
        return data
    if name in registry.layers:
        return {**dataclasses.asdict(registry.layers[name]), "plugin": registry.owners["layer", name].owner}
    if name in registry.tasks:
        return {**dataclasses.asdict(registry.tasks[name]), "plugin": registry.owners["task", name].owner}
    if name in suites():
        from zoo.suite import read_suite

        file = read_suite(name)
        return {"name": name, **file.suite.model_dump(by_alias=True)}
    found = records_by_key(name, results)
    if found:
        return found
    known = [*registry.models, *registry.layers, *registry.tasks, *suites()]
    raise UnknownName("model, layer, task, suite or record", name, known, map(str, registry.failures))


def audited(name: str, size: str | None, registry: Registry) -> dict[str, Any]:
    """Return both counts of a model: on the meta device, or where that needs values on the CPU, at a small size."""
    spec = registry.model(name)
    knobs, at = spec.knobs, spec.size(size)
    spec.sizes.check(at, knobs)

    from zoo.metrics import audit
    from zoo.registry import using
    from zoo.spec import resolve

    def count(device: str) -> audit.Audit:
        """Build and count on a device."""
        with using(registry):
            return audit.audit_model(
                lambda: resolve(str(spec.build))(at.native, **knobs),
                lambda *where: resolve(str(spec.input.make))(at, 1, *where, **spec.input_params({})),
                registry.custom,
                device,
            )

    device, why = "meta", spec.data_dependent
    try:
        found = None if why else count(device)
    except audit.Untraceable as error:
        found, why = None, str(error)
    if found is None:
        device, at = "cpu", at if size else spec.size(spec.sizes.nearest(1, knobs)[0])
        found = count(device)
    return {"name": name, "size": str(at), "device": device, "why_not_meta": why, **found.as_data()}


def print_audit(found: dict[str, Any]) -> None:
    """Print both counts, what each does not count, and the reasons for the difference, which add up to it."""
    where = "on the meta device" if found["device"] == "meta" else f"on the CPU, because {found['why_not_meta']}"
    click.echo(f"{found['name']} at {found['size']}, one sample, {where}\n")
    version, rows = found["fvcore"], [("counter", "MACs", "does not count")]
    for key, label in (("ours", "ours"), ("shipped", f"fvcore {version}"), ("handled", "fvcore, with our handles")):
        count = found[key]
        macs = "none" if count["macs"] is None else f"{count['macs']:,}"
        rows.append((label, macs, count["failure"] or most_often(count["uncounted"])))
    print_columns(rows, right=(1,))
    if any(found[key]["flops_fft"] for key in ("ours", "handled")):
        click.echo(
            f"FLOPs of Fourier transforms, in no count of MACs: ours {found['ours']['flops_fft']:,}, "
            f"with our handles {found['handled']['flops_fft']:,}"
        )
    if found["shipped"]["macs"] is None:
        return
    difference = found["ours"]["macs"] - found["shipped"]["macs"]
    why = [
        ("ours less fvcore's, because", f"{difference:+,}"),
        *((r["text"], f"{r['macs']:+,}") for r in found["reasons"]),
    ]
    click.echo()
    print_columns([*why, ("unexplained", f"{found['unexplained']:+,}" if found["unexplained"] else "0")], right=(1,))


def most_often(calls: dict[str, int], shown: int = 8) -> str:
    """Name the operators that are called most often, with their calls."""
    ordered = sorted(calls.items(), key=lambda item: -item[1])
    named = ", ".join(f"{op} x{n}" for op, n in ordered[:shown])
    return named + (f", and {len(ordered) - shown} more" if len(ordered) > shown else "")


def records_by_key(key: str, results: Path) -> dict[str, Any]:
    """Return the provenance of the numbers kept under a key, empty when there is none."""
    from zoo import jsonio, store

    if not results.is_dir() or not any(results.rglob("*.jsonl")):
        return {}
    kept = store.load(results)
    matching = [r for r in kept.records if r.key == key]
    if not matching:
        return {}
    newest = matching[-1]
    machine = kept.machines.get(newest.environment)
    metrics = {name: value for record in matching for name, value in jsonio.to_json(record)["metrics"].items()}
    return {
        "case": newest.case.axes(),
        "plugin": newest.plugin,
        "fingerprint": newest.fingerprint,
        "time": newest.time,
        "machine": machine.environment if machine else {},
        "metrics": metrics,
    }


@main.command("plugins")
@json_option
def plugins_(as_json: bool) -> None:
    """List plugins with their versions, and each that failed with its reason."""
    from zoo.registry import Registry

    registry = Registry.load()
    rows = [
        {
            "name": p.name,
            "distribution": p.distribution,
            "version": p.version,
            **{kind: len(getattr(p, kind)) for kind in COUNTED},
            "failure": None,
        }
        for p in registry.plugins
    ]
    for f in registry.failures:
        where = {"name": f.name, "distribution": f.distribution, "version": f.version}
        rows.append({**where, **dict.fromkeys(COUNTED, 0), "failure": f.reason})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        head = f"{row['name']}  {row['distribution']} {row['version']}".rstrip()
        holds = ", ".join(f"{row[kind]} {kind}" for kind in COUNTED if row[kind]) or "nothing"
        click.echo(f"{head}  " + (holds if row["failure"] is None else f"FAILED: {row['failure']}"))


# -- static cost ---------------------------------------------------------------------------------------------


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--size", help="224px, 800x1066px, 512tok; left out, each model's default.")
@click.option("--batch", "batch_size", type=click.IntRange(1), default=1, show_default=True, help="Samples a batch.")
@click.option("--dtype", default="float32", show_default=True, help="Of weights and inputs.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Give an option another value.")
@click.option("--depth", type=click.IntRange(0), default=1, show_default=True, help="Levels of modules to show.")
@click.option("--convention", default="mac", show_default=True, help="mac, flop, flop+elementwise, detr2020 or fvcore.")
@click.option("--ceilings", metavar="FLOP/S,BYTE/S", help="What a machine does at most: add the least time it takes.")
@click.option("--memory", metavar="BYTES", help="16GiB, say: add the largest batch that is predicted to fit.")
@click.option(
    "--images", metavar="PATH", help="Count over real images, each at its size: a folder, or a COCO JSON file."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first images.")
@click.option("--picture", metavar="FILE", help="Draw where the MACs are: .svg, .png, .pdf or .html.")
@click.option("--quick", is_flag=True, help="Parameters and MACs only: no training step, no memory.")
@plugin_option
@json_option
def profile(
    names: tuple[str, ...],
    settings: tuple[str, ...],
    images: str | None,
    limit: int | None,
    picture: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
    convention: str,
    **asked: Any,
) -> None:
    """Tell what models cost without running them: parameters, MACs, activations, memory, by operator and module.

    NAME is a model, a layer, a glob such as 'timm/vit_*', or package.module:factory for what is no plugin.
    """
    from zoo.metrics import CONVERTIBLE
    from zoo.registry import using

    if convention not in CONVERTIBLE:
        raise ZooError(f"{convention!r} is not a convention; expected one of {', '.join(CONVERTIBLE)}")
    options: dict[str, Any] = {name: only(name, values) for name, values in parse_settings(settings).items()}
    registry = load_registry(plugins)
    chosen = [found for name in names for found in to_profile(name, registry)]
    with using(registry):
        if images:
            print_over_images(chosen, images, limit, convention, options, as_json)
        else:
            print_profiles(chosen, options, convention, picture, as_json, **asked)


def only(name: str, values: Sequence[Scalar]) -> Scalar:
    """Return the one value of an option. ZooError when there are several."""
    if len(values) != 1:
        raise ZooError(f"--set {name}: a profile takes one value, not {len(values)}; profile them one by one")
    return values[0]


def to_profile(name: str, registry: Registry) -> list[str]:
    """Return the models and layers that a name or glob stands for; code is taken as it is."""
    if ":" in name:
        return [name]
    layers = fnmatch.filter(registry.layers, name)
    models = fnmatch.filter(registry.names(name), name)
    return [*models, *(layer for layer in layers if layer not in models)] or [registry.model(name).name]


def print_profiles(
    names: Sequence[str],
    options: dict[str, Any],
    convention: str,
    picture: str | None,
    as_json: bool,
    *,
    size: str | None,
    batch_size: int,
    dtype: str,
    depth: int,
    ceilings: str | None,
    memory: str | None,
    quick: bool,
) -> None:
    """Profile each model and print what is found; one that cannot be built is told, and the others go on."""
    from zoo import analysis, breakdown

    machine, allowed = read_ceilings(ceilings), read_bytes(memory)
    found, failed = [], 0
    for name in names:
        try:
            made = analysis.profile(name, size, batch_size=batch_size, dtype=dtype, **options)
            data = made.to_json(memory=not quick, training=not quick, depth=depth)
            if machine:
                data["bounds"] = data["macs"] is not None and dataclasses.asdict(made.bounds(machine))
            if allowed:
                data["largest_batch"] = {
                    "inference": made.largest_batch(allowed),
                    "training": made.largest_batch(allowed, True),
                }
            if picture:
                draw_profile(made, picture)
        except Exception as error:
            if len(names) == 1 and isinstance(error, ZooError):
                raise
            failed += 1
            click.echo(f"zoo: {name}: {told(error, 300)}", err=True)
            continue
        found.append(data)
    if as_json:
        print_json(found)
    elif found:
        print_columns(breakdown.table(found, convention), right=range(2, 12))
        for data in found if machine or allowed else ():
            print_machine(data)
        if len(found) == 1 and found[0]["macs"]:
            click.echo()
            print_columns(breakdown.by_operator(found[0]), right=(1, 2))
            click.echo()
            print_columns(breakdown.by_module(found[0]), right=(2, 3, 4))
        click.echo()
        for note in breakdown.notes(found, convention):
            click.echo(f"- {note}")
    if failed:
        sys.exit(EXIT_FAILED)


def print_machine(data: dict[str, Any]) -> None:
    """Print the least times on a machine, and the largest batches in its memory."""
    from zoo.breakdown import seconds_text

    if bounds := data.get("bounds"):
        told = ", ".join(f"{name.replace('_', ' ')} {seconds_text(value)}" for name, value in bounds.items())
        click.echo(f"{data['model']}: {told}; {data['intensity']:.3g} FLOPs a byte")
    if batch := data.get("largest_batch"):
        click.echo(f"{data['model']}: largest batch {batch['inference']}, in training {batch['training']}")


def draw_profile(made: analysis.Profile, picture: str) -> None:
    """Draw where the MACs of a profile are."""
    from zoo import breakdown

    subject = made.subject
    told = f"{breakdown.quantity(made.macs)} MACs of one sample at {subject.size}, by module"
    breakdown.save(breakdown.icicle(made.tree, subject.name, told), Path(picture))
    click.echo(f"saved: {picture}", err=True)


def print_over_images(
    names: Sequence[str], images: str, limit: int | None, convention: str, options: dict[str, Any], as_json: bool
) -> None:
    """Print the mean and the spread of a count over real images."""
    from zoo import analysis, breakdown
    from zoo.metrics import CONVENTIONS

    found = [analysis.over_images(name, images, limit=limit, **options).to_json() for name in names]
    if as_json:
        print_json(found)
        return
    rows = [("Model", "Images", "Sizes", f"mean ({convention})", "sd")]
    for data in found:
        kept = data["conventions"][convention]
        counts = (breakdown.quantity(kept["mean"]), breakdown.quantity(kept["sd"]))
        rows.append((data["model"], str(data["images"]), str(data["sizes"]), *counts))
    print_columns(rows, right=(1, 2, 3, 4))
    click.echo(f"- {convention}: {CONVENTIONS[convention]}")
    click.echo("- each image scaled to a short side of 800 pixels, its long side at most 1333")


def read_ceilings(text: str | None) -> Ceilings | None:
    """Read ``FLOP/S,BYTE/S``. ZooError when it is not two numbers above zero."""
    from zoo.metrics.roofline import Ceilings

    if text is None:
        return None
    try:
        flops, bandwidth = (float(part) for part in text.split(","))
    except ValueError:
        flops = bandwidth = 0.0
    if not (flops > 0 and bandwidth > 0):
        raise ZooError(f"--ceilings {text}: expected FLOP/s and bytes/s, such as 172e9,12.5e9")
    return Ceilings(flops, bandwidth)


def read_bytes(text: str | None) -> int | None:
    """Read a number of bytes, ``16GiB``. ZooError when it is none."""
    if text is None:
        return None
    found = re.fullmatch(r"([\d.]+) *([KMGT]i?)?B?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        raise ZooError(f"--memory {text}: expected bytes, such as 16GiB or 500MB")
    unit = (found[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(number * base ** (" KMGT".index(unit[0]) if unit else 0))


def suite_with(name: str, images: str | None) -> SuiteFile:
    """Read a suite, with other images than its own where some are given."""
    from zoo.suite import read_suite, with_images

    file = read_suite(name)
    return with_images(file, Path(images)) if images else file


# -- running -------------------------------------------------------------------------------------------------


@main.command()
@click.argument("suite")
@click.option("--models", default="", metavar="A,B", help="Only these models, by name or glob; one that the suite does "
              "not name takes part wherever it fits.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="AXIS=V1,V2", help="Give an axis other values.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Run on this device.")
@click.option("--metrics", default="", metavar="A,B", help="Only these metrics; what is kept of the others stays.")
@click.option("--out", default="runs", show_default=True, help="Where records and tables go.")
@click.option("--dry-run", is_flag=True, help="Show the cases, what is skipped, and the predicted time and memory.")
@click.option("--retry", is_flag=True, help="Run again what was out of memory or time.")
@click.option("--fresh", is_flag=True, help="Measure again what is kept.")
@click.option(
    "--stop-after",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Begin nothing that would not end by then, were it as long as the longest so far; the same command goes on.",
)
@click.option("--data", multiple=True, metavar="FOLDER", help="Where a task such as coco:PATH looks for its data, "
              "beside the working folder.")  # fmt: skip
@click.option("--weights", "weights", multiple=True, metavar="MODEL=FILE", help="The checkpoint that a model's "
              "training, or with --recipe as_it_is its test, begins from.")  # fmt: skip
@click.option("--recipe", metavar="NAME", help="Train by this recipe: one of the task's, own, or as_it_is; "
              "equal@600s has another budget.")  # fmt: skip
@images_option
@plugin_option
def run(
    suite: str,
    models: str,
    settings: tuple[str, ...],
    device: str | None,
    metrics: str,
    out: str,
    dry_run: bool,
    retry: bool,
    fresh: bool,
    stop_after: float | None,
    data: tuple[str, ...],
    weights: tuple[str, ...],
    recipe: str | None,
    images: str | None,
    plugins: tuple[str, ...],
) -> None:
    """Run SUITE, a name or a YAML file, then print and save its tables. What is kept is not measured again."""
    from zoo import progress, report, runner
    from zoo.registry import using

    axes = parse_settings(settings) | ({"device": [device]} if device else {})
    file = suite_with(suite, images)
    if not file.suite.groups:
        raise ZooError(f"the suite {file.name} has no groups, so nothing is measured; zoo table {file.name} prints it")
    request = runner.Request(
        file,
        models=split(models),
        axes=axes,
        metrics=split(metrics),
        plugins=plugins,
        data=data,
        weights=files_by_model(weights),
        recipe=recipe,
        out=out,
        retry=retry,
        fresh=fresh,
        stop_after=stop_after,
    )
    if dry_run:
        print_dry_run(request)
        return
    with progress.make_reporter() as reporter:
        outcome = runner.run_request(request, reporter)
    with using(outcome.registry):
        made = report.Report(outcome.plan.file, outcome.folder)
        print_tables(made, "terminal")
        written = made.write()
    for problem in made.undrawn:
        click.echo(f"zoo: not drawn: {problem}", err=True)
    if written:
        click.echo(f"saved: {', '.join(map(str, written))}", err=True)
    if outcome.left and not outcome.records:
        click.echo(f"zoo: nothing was begun: the next training alone takes more than {stop_after:g} s", err=True)
    elif outcome.left:
        click.echo(f"zoo: {outcome.left} cases are left for want of time; the same command goes on", err=True)
    if outcome.failed:
        click.echo(f"zoo: {len(outcome.failed)} records ended in error, killed or diverged", err=True)
        sys.exit(EXIT_FAILED)


def files_by_model(given: Sequence[str]) -> dict[str, str]:
    """Read ``MODEL=FILE``. UsageError when one is of another form."""
    found = {}
    for text in given:
        model, equals, path = text.partition("=")
        if not (model and equals and path):
            raise click.UsageError(f"--weights {text!r}: expected MODEL=FILE")
        found[model] = path
    return found


# -- scaling -------------------------------------------------------------------------------------------------


@main.command("scale")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--sizes", required=True, metavar="LOW..HIGH", help="256..16384 doubles, 256..16384:13 takes 13 even "
              "steps, 256,512 takes these.")  # fmt: skip
@click.option("--metrics", default="macs,peak_memory_predicted,latency", show_default=True, metavar="A,B")
@click.option("--set", "settings", multiple=True, metavar="AXIS=V", help="Any other axis: width=512, mode=training.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Run on this device.")
@click.option("--memory", metavar="BYTES", help="16GiB, say: add the largest size whose predicted memory fits.")
@click.option("--within", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Add the largest size whose latency fits.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
              metavar="SECONDS", help="What one size may take.")  # fmt: skip
@click.option("--confirm/--no-confirm", default=True, show_default=True, help="Measure both models side by side where "
              "their times are predicted to cross.")  # fmt: skip
@click.option("--picture", metavar="FILE", help="Draw the curves of the last metric: .svg, .png, .pdf or .html.")
@click.option("--out", default="runs", show_default=True, help="Where records go.")
@click.option("--retry", is_flag=True, help="Run again what was out of memory or time.")
@click.option("--fresh", is_flag=True, help="Measure again what is kept.")
@plugin_option
@json_option
def scale_(
    names: tuple[str, ...],
    sizes: str,
    metrics: str,
    settings: tuple[str, ...],
    device: str | None,
    memory: str | None,
    within: float | None,
    limit: float,
    picture: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
    **how: Any,
) -> None:
    """Measure models and layers over a range of sizes, and tell the laws that their costs follow.

    A NAME may have options, as in self_attention:heads=8.

    Counts are fitted exactly. Times have an exponent with its interval at each size, not one over all of them.
    """
    from zoo import breakdown, curves, progress, scale
    from zoo.record import FAILURES

    axes = parse_settings(settings) | ({"device": [device]} if device else {})
    allowed = {"peak_memory_predicted": read_bytes(memory), "latency": within}
    limits = {name: float(most) for name, most in allowed.items() if most is not None}
    asked = dict.fromkeys([*split(metrics), *limits])
    question = scale.Question(names, sizes, list(asked), axes, plugins, limits=limits, time=limit, **how)
    with progress.make_reporter() as reporter:
        found = scale.scale(question, reporter)
    if picture:
        breakdown.save(curves.draw(found, list(asked)[-1]), Path(picture))
        click.echo(f"saved: {picture}", err=True)
    if as_json:
        print_json(scale.to_json(found))
    else:
        for rows in curves.tables(found):
            print_columns(rows)
            click.echo()
        for line in curves.sentences(found):
            click.echo(f"- {line}")
    if any(point.value.status in FAILURES for curve in found.curves for point in curve.points):
        sys.exit(EXIT_FAILED)


# -- comparing -----------------------------------------------------------------------------------------------


@main.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--metric", type=click.Choice(TIMES), default="latency", show_default=True)
@click.option("--size", help="224px, 512tok; left out, each model's default.")
@click.option("--set", "settings", multiple=True, metavar="AXIS=V", help="Any other axis: batch_size=16, threads=1.")
@click.option("--budget", type=float, default=40.0, show_default=True, help="Seconds to get the interval tight.")
@click.option("--out", default="runs", show_default=True, help="Where the record is kept.")
@click.option("--gate", is_flag=True, help="Exit with 1 when B is slower or, between folders, worse.")
@click.option("--within", type=click.FloatRange(0, 100), metavar="PERCENT", help="What two folders may differ by. [5]")
@plugin_option
@json_option
def compare_(
    a: str,
    b: str,
    metric: str,
    size: str | None,
    settings: tuple[str, ...],
    budget: float,
    out: str,
    gate: bool,
    within: float | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure model B beside model A, in turn; or tell what differs between two folders of results.

    A model may have options, as in vit_s16:depth=6.
    """
    if Path(a).is_dir() and Path(b).is_dir():
        tripped = print_changes(Path(a), Path(b), within, as_json)
    elif within is not None:
        raise click.UsageError("--within is for two folders; of two models the machine tells what is no difference")
    else:
        axes = parse_settings(settings) | ({"size": [size]} if size else {})
        tripped = print_comparison(a, b, metric, axes, budget, Path(out), plugins, as_json)
    if tripped and gate:
        sys.exit(EXIT_FAILED)


def print_comparison(
    a: str,
    b: str,
    metric: str,
    axes: dict[str, list[Scalar]],
    budget: float,
    out: Path,
    plugins: tuple[str, ...],
    as_json: bool,
) -> bool:
    """Measure two models side by side, keep and print the record; tell whether b is slower, or failed."""
    from zoo import jsonio, progress, runner
    from zoo.comparison import Effort
    from zoo.store import Store

    versus = runner.Versus(a, b, metric, axes, plugins, effort=Effort(budget=budget))
    with progress.make_reporter() as reporter:
        record, machine = runner.compare(versus, reporter)
    with Store(out / "compare", machine.slug) as store:
        store.append(machine)
        store.append(record)
    if as_json:
        print_json({k: v for k, v in jsonio.to_json(record).items() if k not in ("samples", "calls", "watched")})
    else:
        print_record(record)
    return record.status != "ok" or record.verdict == "slower"


def print_record(record: ComparisonRecord) -> None:
    """Print what a comparison tells, in words."""
    from zoo.breakdown import seconds_text
    from zoo.conditions import MUCH_BUSY

    if record.ratio is None or record.interval is None or record.noise is None or record.noise_interval is None:
        click.echo(f"no comparison: {record.status}: {record.reason}")
        return
    calls = (("A", record.a.id, record.seconds_a), ("B", record.b.id, record.seconds_b))
    print_columns([(who, case, seconds_text(seconds or 0.0)) for who, case, seconds in calls])
    said = {"faster": "B is faster", "slower": "B is slower", "same": "the same", "ambiguous": "not told apart"}
    low, high = record.interval
    click.echo(f"B takes {record.ratio:.3f} [{low:.3f}, {high:.3f}] times as long as A: {said[record.verdict]}")
    low, high = record.noise_interval
    least = f"less than {record.margin:.1%} is no difference"
    click.echo(f"A beside itself: {record.noise:.3f} [{low:.3f}, {high:.3f}]; {least}")
    how = "in turn, A B B A" if record.protocol == "interleaved" else "one after the other, for want of memory"
    why = {"tight": "until the interval was tight", "budget": "until the budget was spent"}[record.stop]
    sets = f"in {record.processes} sets of fresh processes with {record.rounds} rounds"
    click.echo(f"{how}, {sets}, {why}; 95 % interval of the ratio, {record.seconds:.0f} s")
    if record.conditions.get("others", 0) > MUCH_BUSY:
        click.echo(f"meanwhile other processes kept {record.conditions['others']:.1f} cores busy")


def print_changes(a: Path, b: Path, within: float | None, as_json: bool) -> bool:
    """Print what differs between two folders; tell whether anything is worse."""
    from zoo import difference

    margin = difference.BETWEEN_RUNS if within is None else within / 100
    found = list(difference.changes(a, b, margin))
    if not found:
        raise ZooError(f"{a} and {b} have no case in common")
    if as_json:
        print_json([dataclasses.asdict(change) for change in found])
    else:
        rows = [("case", "metric", "A", "B", "B / A", "verdict of B")]
        shown = [change for change in found if change.verdict != "same"]
        for c in shown:
            ratio = "" if c.ratio is None else f"{c.ratio:.3f}"
            between = f" [{c.interval[0]:.3f}, {c.interval[1]:.3f}]" if c.interval else ""
            before, after = ("" if v is None else f"{v:.4g}" for v in (c.a, c.b))
            rows.append((c.case, c.metric, before, after, ratio + between, c.verdict or c.note))
        if shown:
            print_columns(rows, right=(2, 3))
        click.echo(f"{len(found)} metrics in both, {len(found) - len(shown)} the same")
        for one in difference.agreements(found, margin):
            between = f"{one.lowest:.3f} to {one.highest:.3f}"
            click.echo(f"{one.metric}: B / A {between}, {one.within} of {one.cases} within {100 * margin:g} %")
        if any(c.interval for c in found):
            click.echo(f"between runs, less than {100 * margin:g} % is no difference: each is one process")
    return any(change.verdict == "worse" for change in found)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Tell what would spoil a measurement on this machine, each with its cure and a way to see it gone."""
    from zoo.doctor import diagnose

    found = list(diagnose())
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
        return
    marks = {"ok": "ok", "finding": "!!", "unknown": "?"}
    print_columns([(marks[f.status], f.check, f.found) for f in found])
    for f in found:
        if f.cure:
            click.echo(f"\n{f.check}: {f.cure}\n  see it gone: {f.seen}")


def split(text: str) -> tuple[str, ...]:
    """Split a list given with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_settings(settings: Iterable[str]) -> dict[str, list[Scalar]]:
    """Read ``axis=v1,v2`` arguments; values are read as YAML reads them. ZooError when one is not of that form."""
    import yaml

    axes: dict[str, list[Scalar]] = {}
    for setting in settings:
        name, equals, values = setting.partition("=")
        if not (name and equals and values.strip(", ")):
            raise ZooError(f"--set {setting}: expected AXIS=V1,V2, such as size=224,384")
        try:
            found = [yaml.safe_load(value) for value in split(values)]
        except (yaml.YAMLError, ValueError):
            found = [None]
        if not all(isinstance(value, str | int | float | bool) for value in found):
            raise ZooError(f"--set {setting}: the values cannot be read; expected plain values such as 224,384")
        axes[name] = found
    return axes


def print_dry_run(request: Request) -> None:
    """Print what a run would do."""
    from zoo import forecast, progress, runner

    plan, registry, store = runner.look_ahead(request)
    total, rows = 0.0, [("case", "metrics", "memory", "time", "note")]
    for item in forecast.forecasts(plan, registry, store):
        total += item.seconds
        metrics = " ".join(m for names in item.work.wanted.values() for m in names)
        memory = f"{item.memory / 2**20:.0f} MiB" if item.memory else "-"
        note = "; ".join(text for text in (item.problem, item.work.why, item.source) if text)
        rows.append((item.work.planned.case.id, metrics, memory, f"{item.seconds:.1f} s", note))
    rows += [(case.id, "", "", "skipped", why) for case, why in plan.skipped]
    print_columns(rows)
    click.echo(f"{progress.plan_line(plan)}; predicted time {total:.0f} s. Nothing was run.")


def print_tables(made: Report, form: Format) -> None:
    """Print a suite's tables, and on stderr why one cannot be shown."""
    if made.tables:
        click.echo(made.document(form))
    tell_problems(made)


def tell_problems(made: Report) -> None:
    """Tell on stderr why some tables cannot be shown."""
    for problem in made.problems:
        click.echo(f"zoo: not shown: {problem}", err=True)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--results", default="runs", show_default=True, help="Where the records are.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Print so; left out, for a terminal.")
@click.option("--save", metavar="DIR", help="Write DIR/NAME/tables.* in all formats, or the one given, instead.")
@images_option
def table(names: tuple[str, ...], results: str, form: Format | None, save: str | None, images: str | None) -> None:
    """Print the tables of suites from records. NAME may be a glob: 'zoo table \'*\' --save tables' writes them all."""
    from zoo import formats
    from zoo.report import Report

    shown, many = 0, len(names) > 1 or is_glob(names[0])
    parts: list[str] = []
    for file in suites_with_tables(names, images):
        try:
            made = Report(file, Path(results) / file.name)
        except BadRecords as error:
            if not many:
                raise
            click.echo(f"zoo: not shown: {error}", err=True)
            continue
        for warning in made.warnings:
            click.echo(f"zoo: {warning}", err=True)
        if save:
            save_tables(made, Path(save) / file.name, [form] if form else FORMATS)
        else:
            parts += made.rendered(form or "terminal")
            tell_problems(made)
        shown += len(made.tables)
    if parts:
        click.echo(formats.document(parts, form or "terminal"))
    if not shown:
        sys.exit(EXIT_USAGE)


def suites_with_tables(names: Iterable[str], images: str | None) -> Iterator[SuiteFile]:
    """Yield suites by name, path or glob; of a glob those that declare tables. ZooError where there are none."""
    from zoo.resources import suites

    for name in names:
        known = fnmatch.filter(suites(), name) if is_glob(name) else []
        found = [suite_with(one, images) for one in known or [name]]
        with_tables = [file for file in found if file.suite.tables]
        if not with_tables:
            raise ZooError(f"the suite {found[0].name} declares no tables")
        yield from with_tables


def is_glob(name: str) -> bool:
    """Tell whether a suite's name stands for several."""
    return bool(set(name) & set("*?[")) and "/" not in name


def save_tables(made: Report, folder: Path, forms: Sequence[Format]) -> None:
    """Write a suite's tables in some formats, and tell why one cannot be shown."""
    from zoo.report import ENDINGS

    folder.mkdir(parents=True, exist_ok=True)
    for form in forms if made.tables else ():
        path = folder / f"tables.{ENDINGS[form]}"
        path.write_text(made.document(form), encoding="utf-8")
        click.echo(f"saved: {path}", err=True)
    tell_problems(made)


@main.command("report")
@click.argument("folder", default="runs", metavar="[DIR]")
@click.option(
    "-o", "--output", default="report.html", show_default=True, metavar="FILE.html", help="The file to write."
)
@plugin_option
def report_(folder: str, output: str, plugins: tuple[str, ...]) -> None:
    """Write all results below DIR as one HTML file that opens offline: tables that sort, charts, and every source.

    DIR holds folders of suites, or is one of them; left out, it is runs.
    """
    from zoo import page

    made = page.make(Path(folder), plugins, lambda step: click.echo(f"  {step}", err=True))
    path = Path(output)
    path.write_text(made.text, encoding="utf-8")
    size = path.stat().st_size / 1e6
    click.echo(f"saved: {path} ({size:.1f} MB, {made.records:,} records)", err=True)


# -- writing plugins -----------------------------------------------------------------------------------------


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@plugin_option
@json_option
def check(names: tuple[str, ...], plugins: tuple[str, ...], as_json: bool) -> None:
    """Hold models and layers to the rules: build on meta, output, gradients, batched = single, counts = closed form.

    NAME may be a glob. Exits with 1 when a rule fails; what a spec declares that it cannot support is shown as skipped.
    """
    from zoo.registry import using

    registry = load_registry(plugins)
    known = [*registry.models, *registry.layers]
    chosen: list[str] = []
    for name in names:
        found = registry.match_models(name) if registry.namespace(name) else fnmatch.filter(known, name)
        if not found:
            raise UnknownName("model or layer", name, known, map(str, registry.failures))
        chosen += [f for f in found if f not in chosen]
    with using(registry):
        rows = [row for name in chosen for row in checked(name, as_json)]
    failed = [row for row in rows if row["status"] == "failed"]
    if as_json:
        print_json(rows)
    else:
        skipped = sum(row["status"] == "skipped" for row in rows)
        click.echo(f"{len(rows) - len(failed) - skipped} passed, {skipped} skipped, {len(failed)} failed")
    if failed:
        sys.exit(EXIT_FAILED)


def checked(name: str, quiet: bool) -> list[dict[str, str]]:
    """Check one model or layer, and print each rule's result as soon as it is known."""
    from zoo import testing

    rows = []
    for result in testing.check(name):
        rows.append({"name": name, "rule": result.rule, "status": result.status, "reason": result.reason})
        if not quiet:
            click.echo(f"{name}  {result.rule:<12} {result.status}" + (f": {result.reason}" if result.reason else ""))
    return rows


@main.command()
@click.argument("name")
@click.option("--out", default=".", show_default=True, help="The folder to write the plugin's folder in.")
def new(name: str, out: str) -> None:
    """Write a plugin with one model called NAME: a package that can be installed, with tests, to start from."""
    from zoo import scaffold

    folder = scaffold.write(name, Path(out))
    click.echo(f"wrote {folder}")
    click.echo(f"next: pip install -e {folder} && zoo check {name} && zoo run lecture --models {name}")


if __name__ == "__main__":
    main()
