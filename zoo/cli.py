"""The ``zoo`` command. Tables go to stdout, progress to stderr; a user's mistake is one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import __version__
from zoo.errors import UnknownName, ZooError

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.report import Report
    from zoo.runner import Request
    from zoo.spec import Scalar
    from zoo.tables import Format

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
KINDS = ("model", "layer", "task", "suite")
COUNTED = ("models", "layers", "tasks")


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
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(data: Any) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
    """List what is registered, by name or GLOB."""
    from zoo.resources import suites

    registry = load_registry(plugins)
    found: list[dict[str, str]] = []
    for what, specs in (("model", registry.models), ("layer", registry.layers)):
        for spec in specs.values():
            owner = registry.owners[what, spec.name].name
            found.append({"name": spec.name, "kind": what, "family": spec.family, "plugin": owner, "about": spec.notes})
    for task in registry.tasks.values():
        owner = registry.owners["task", task.name].name
        about = task.description
        found.append({"name": task.name, "kind": "task", "family": task.kind, "plugin": owner, "about": about})
    found += [{"name": name, "kind": "suite", "family": "", "plugin": "", "about": ""} for name in suites()]
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
@plugin_option
@json_option
def show(name: str, results: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """Show everything known of one NAME: a model, a layer, a task, a suite, or a record by its key."""
    data = describe(name, load_registry(plugins), Path(results))
    if as_json:
        print_json(data)
        return
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{key}:")
            print_columns([tuple("  " + str(v) for v in row.values()) for row in value])
        elif isinstance(value, dict) and value:
            click.echo(f"{key}:")
            print_columns([("  " + str(k), str(v)) for k, v in value.items()])
        elif value not in ("", None, [], {}):
            click.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def describe(name: str, registry: Registry, results: Path) -> dict[str, Any]:
    """Return what is known of a model, layer, task, suite or record. UnknownName when it is none of these."""
    from zoo import published
    from zoo.resources import suites

    if name in registry.models:
        spec = registry.models[name]
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
    plugins: tuple[str, ...],
) -> None:
    """Run SUITE, a name or a YAML file, then print and save its tables. What is kept is not measured again."""
    from zoo import progress, report, runner

    axes = parse_settings(settings) | ({"device": [device]} if device else {})
    request = runner.Request(suite, split(models), axes, split(metrics), plugins, out, retry, fresh)
    if dry_run:
        print_dry_run(request)
        return
    with progress.make_reporter() as reporter:
        outcome = runner.run_request(request, reporter)
    made = report.Report(outcome.plan.file, outcome.folder)
    print_tables(made, "terminal")
    written = made.write()
    if written:
        click.echo(f"saved: {', '.join(map(str, written))}", err=True)
    if outcome.failed:
        click.echo(f"zoo: {len(outcome.failed)} records ended in error, killed or diverged", err=True)
        sys.exit(EXIT_FAILED)


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
    for text in made.rendered(form):
        click.echo(text)
    for problem in made.problems:
        click.echo(f"zoo: not shown: {problem}", err=True)


@main.command()
@click.argument("name")
@click.option("--results", default="runs", show_default=True, help="Where the records are.")
@click.option("--format", "form", type=click.Choice(["terminal", "markdown", "csv"]), default="terminal")
def table(name: str, results: str, form: Format) -> None:
    """Print the tables of suite NAME from records."""
    from zoo.report import Report
    from zoo.suite import read_suite

    suite = read_suite(name)
    if not suite.suite.tables:
        raise ZooError(f"the suite {suite.name} declares no tables")
    made = Report(suite, Path(results) / suite.name)
    print_tables(made, form)
    if not made.tables:
        sys.exit(EXIT_USAGE)


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
        found = fnmatch.filter(known, name)
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
