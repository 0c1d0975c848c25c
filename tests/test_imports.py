"""Imports run downward only, and what must start fast loads no torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT / "zoo"
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").exists())

# From the ground up; each may import only those above it. One line holds modules of one floor.
ORDER = """
errors
jsonio resources cost images texts
recipe
spec
task
hookspecs published weights
plugins
registry
case
metrics
schema
suite
expansion
record
store
environment
conditions nvml
metrics.energy
doctor
statistics scaling
scores
scores.classification
laws growth
metrics.driver
metrics.formulas metrics.operators metrics.meta metrics.handles
metrics.whole metrics.counts metrics.params
metrics.macs metrics.speed metrics.roofline metrics.attention metrics.dependence
metrics.ceilings metrics.memory metrics.scratch metrics.batch metrics.audit metrics.folding
metrics.predicted_memory
scores
scores.bootstrap scores.given
scores.curves scores.panoptic
scores.detection
scores.text
data
augment
adapters
samples
train analysis
trained
worker
server
pool
plan
progress sampling difference
comparison
session
runner
forecast scale
units
rows
pareto
seeds
tables
formats labels complexity quoted
style breakdown
dots bars
scatter roof learning beside
plots curves
report
page.folders
page.general
page.content
page
testing scaffold
cli
launched
"""
FLOORS = {name: floor for floor, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}
MAY_IMPORT_TORCH = {
    "server",
    "data",
    "train",
    "trained",
    "samples",
    "launched",
    "adapters",
    "augment",
    "worker",
    "analysis",
    "metrics.formulas",
    "metrics.operators",
    "metrics.whole",
    "metrics.params",
    "metrics.macs",
    "metrics.meta",
    "metrics.memory",
    "metrics.scratch",
    "metrics.folding",
    "metrics.ceilings",
    "metrics.predicted_memory",
    "metrics.handles",
    "metrics.audit",
    "metrics.driver",
    "metrics.attention",
    "metrics.dependence",
    "scores.detection",
    "scores.panoptic",
    "weights",
    "testing",
}


def modules() -> dict[str, Path]:
    """Return the host's modules by name, without the lazy ``zoo/__init__``."""
    found = {}
    for path in HOST.rglob("*.py"):
        parts = path.relative_to(HOST).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at any depth, as written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def host_imports(path: Path) -> set[str]:
    """Return the host modules that a file imports."""
    known = modules()
    names = {name.removeprefix("zoo.") for name in imports(path) if name.startswith("zoo.")}
    return {name for name in names if name in known}


def test_every_module_has_its_floor():
    assert set(modules()) == set(FLOORS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_downward_only(name):
    upward = {other for other in host_imports(modules()[name]) - {name} if FLOORS[other] >= FLOORS[name]}
    assert not upward


def test_the_parent_never_imports_the_child():
    for name in ("runner", "pool", "plan", "forecast", "cli"):
        assert not host_imports(modules()[name]) & {"worker", "server"}


@pytest.mark.parametrize("name", sorted(set(modules()) - MAY_IMPORT_TORCH))
def test_only_what_computes_imports_torch(name):
    heavy = {i.partition(".")[0] for i in imports(modules()[name])} & {"torch", "torchvision", "timm"}
    assert not heavy


def test_host_names_no_plugin():
    for path in HOST.rglob("*.py"):
        assert not {i for i in imports(path) if i.startswith("zoo_")}
        assert not any(plugin in path.read_text() for plugin in PLUGINS if plugin != "zoo_digits"), path


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_import_only_public_names_and_never_each_other(plugin):
    import zoo

    public = {"zoo"} | {f"zoo.{name}" for name in zoo.__all__}
    for path in (ROOT / "plugins" / plugin).rglob("*.py"):
        ours = {i for i in imports(path) if i == "zoo" or i.startswith("zoo.")}
        assert ours <= public, path
        others = {i for i in imports(path) if i.startswith("zoo_")}
        assert all(i == plugin or i.startswith(f"{plugin}.") for i in others), path


CLOSED_FORMS = [f"{plugin}.macs" for plugin in PLUGINS if (ROOT / "plugins" / plugin / "macs.py").exists()]


@pytest.mark.parametrize("module", ["zoo", "zoo.cli", "zoo.registry", *PLUGINS, *CLOSED_FORMS])
def test_light_modules_and_their_hooks_load_no_heavy_library(module):
    hooks = "[list(getattr(m, h)()) for h in ('zoo_models', 'zoo_tasks') if hasattr(m, h)]"
    code = f"import sys, json, {module}; m = sys.modules['{module}']; {hooks}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "torchvision", "timm", "pandas", "numpy", "sklearn", "scipy"}


@pytest.mark.parametrize("name", PLUGINS)
def test_no_name_in_a_plugin_is_also_one_of_its_modules(name):
    """Importing ``zoo_x.y`` puts a module where a function ``y`` of the package was."""
    folder = ROOT / "plugins" / name
    tree = ast.parse((folder / "__init__.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    }
    assert not defined & {path.stem for path in folder.glob("*.py")}
