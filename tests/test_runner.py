"""The run: whatever a model does is a row with status and reason; nothing is left running and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import left_by, process_tree

import zoo as zoo_
from zoo import environment, store
from zoo.case import Case
from zoo.pool import Pool, Worker
from zoo.registry import Registry

HOSTILE = """
import os, subprocess, sys, time
import torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

MARK = {mark!r}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x):
        if x.device.type == "cpu" and not isinstance(x, torch._subclasses.FakeTensor):
            self.misbehave()
        return self.linear(x.mean(dim=(2, 3)))

    def misbehave(self):
        pass

class Exits(Model):
    def misbehave(self):
        os._exit(1)

class ExitsOnMeta(Model):
    def forward(self, x):
        os._exit(1)

class Greedy(Model):
    def misbehave(self):
        kept = []
        while True:
            kept.append(torch.ones(1 << 22))

class Sleeper(Model):
    def misbehave(self):
        time.sleep(10_000)

class Parent(Model):
    def misbehave(self):
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(10_000) # {{MARK}}"])

class Daemon(Model):
    def misbehave(self):
        code = f"import time; time.sleep(10_000) # {{MARK}}"
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True)

class Printer(Model):
    def misbehave(self):
        print('{{"ready": true}}')
        os.write(1, b'{{"values": {{}}}}\\n' * 100)

class Meddler(Model):
    def misbehave(self):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"hi")
            except OSError:
                pass

class Crasher(Model):
    def misbehave(self):
        os.kill(os.getpid(), 11)

class Wrong(Model):
    def misbehave(self):
        raise ValueError("this model has\\na bug")

def exits(size): return Exits()
def exits_on_meta(size): return ExitsOnMeta()
def greedy(size): return Greedy()
def sleeper(size): return Sleeper()
def parent(size): return Parent()
def daemon(size): return Daemon()
def printer(size): return Printer()
def meddler(size): return Meddler()
def crasher(size): return Crasher()
def wrong(size): return Wrong()
class Leaker(Model):
    kept = []

    def misbehave(self):
        self.kept.append(torch.ones(1 << 25))

class Setter(Model):
    def misbehave(self):
        torch.set_num_threads(7)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(True)
        os.environ["OMP_NUM_THREADS"] = "7"
        os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})

def leaker(size): return Leaker()
def setter(size): return Setter()
def healthy(size): return Model()
def again(size): return Model()
def no_module(size): return 3

@hookimpl
def zoo_models():
    for build in (
        leaker, setter, exits, exits_on_meta, greedy, sleeper, parent, daemon, printer, meddler, crasher, wrong,
        healthy, again, no_module,
    ):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""

CRASHES_AT_IMPORT = """
from zoo import ModelSpec, hookimpl, image_classifier

@hookimpl
def zoo_models():
    yield ModelSpec("dies_at_import", build="dies_at_import_model:build", options={}, **image_classifier(default=32))
    yield ModelSpec("not_there", build="dies_at_import_model_2:build", options={}, **image_classifier(default=32))
"""

SUITE = """
schema: 1
groups:
  - models: [{models}]
    axes: {{size: [32]}}
    metrics: [params, macs, latency]
    limits: {{time: {time}, memory: 1 GiB}}
"""


@pytest.fixture
def run_hostile(tmp_path):
    """Run hostile models in one suite; return the process and the newest value of each (model, metric)."""

    def run(*models: str, time: float = 60, more: str = ""):
        mark = f"zoo-test-{os.getpid()}-{tmp_path.name}"
        (tmp_path / "hostile.py").write_text(HOSTILE.format(mark=mark))
        (tmp_path / "trial.yaml").write_text(SUITE.format(models=", ".join(models), time=time) + more)
        asked = ["--plugin", "hostile.py", "--models", ",".join(models)]
        command = [sys.executable, "-m", "zoo.cli", "run", "trial.yaml", *asked]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        left = [p for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]
        assert not left, "something is left running"
        found = {}
        for record in store.load(tmp_path / "runs" / "trial").records:
            found |= {(record.case.model, name): value for name, value in record.metrics.items()}
        return done, found

    return run


@pytest.mark.slow
def test_every_misbehaviour_is_a_row_and_the_run_goes_on(run_hostile):
    done, found = run_hostile(
        "exits",
        "exits_on_meta",
        "greedy",
        "parent",
        "daemon",
        "printer",
        "meddler",
        "crasher",
        "wrong",
        "no_module",
        "healthy",
    )
    assert done.returncode == 1
    status = {key: value.status for key, value in found.items()}
    reason = {key: value.reason for key, value in found.items()}
    assert status["exits", "latency"] == "killed"
    assert "exit code 1 in sampling latency" in reason["exits", "latency"]
    assert status["exits", "macs"] == "ok"
    assert status["exits_on_meta", "params"] == "ok"
    assert status["exits_on_meta", "macs"] == "killed"
    assert status["greedy", "latency"] == "oom"
    assert status["parent", "latency"] == "ok"
    assert status["daemon", "latency"] == "ok"
    assert status["printer", "latency"] == "ok"
    assert status["meddler", "latency"] == "error"
    assert "no message" in reason["meddler", "latency"]
    assert status["crasher", "latency"] == "killed"
    assert "signal 11" in reason["crasher", "latency"]
    assert status["wrong", "latency"] == "error"
    assert "ValueError: this model has a bug (hostile.py:" in reason["wrong", "latency"]
    assert status["no_module", "params"] == "error"
    assert "expected an nn.Module" in reason["no_module", "params"]
    assert [status["healthy", m] for m in ("params", "macs", "latency")] == ["ok", "ok", "ok"]
    assert '"ready"' not in done.stdout


def test_a_model_that_leaks_or_changes_settings_changes_nothing_for_the_next(run_hostile):
    done, found = run_hostile("leaker", "setter", "healthy", time=20)
    assert done.returncode == 0
    # An eighth of a gibibyte a call.
    assert found["leaker", "latency"].status == "oom"
    assert found["setter", "latency"].status == "ok"
    _, alone = run_hostile("healthy", time=20)
    for metric in ("params", "macs"):
        assert found["healthy", metric].value == alone["healthy", metric].value
    assert found["healthy", "latency"].status == "ok"


@pytest.mark.slow
def test_model_that_sleeps_for_ever_times_out(run_hostile):
    began = time.monotonic()
    done, found = run_hostile("sleeper", "healthy", time=12)
    assert time.monotonic() - began < 90
    assert done.returncode == 0
    assert found["sleeper", "macs"].status == "ok"
    assert found["sleeper", "latency"].status == "timeout"
    assert found["healthy", "latency"].status == "ok"


def test_model_whose_import_kills_the_process_is_a_row(site, suite_file, tmp_path, zoo):
    site.add("dies_at_import", CRASHES_AT_IMPORT)
    (site.folder / "dies_at_import_model.py").write_text("import os; os._exit(9)")
    path = suite_file(SUITE.format(models="dies_at_import, not_there, resnet_nano", time=60))
    done = zoo("run", str(path))
    assert done.returncode == 1
    found = {}
    for record in store.load(tmp_path / "runs" / "mine").records:
        found |= {(record.case.model, name): value for name, value in record.metrics.items()}
    assert found["dies_at_import", "latency"].status == "killed"
    assert "exit code 9" in found["dies_at_import", "latency"].reason
    assert found["not_there", "latency"].status == "error"
    assert "No module named 'dies_at_import_model_2'" in found["not_there", "latency"].reason
    assert found["resnet_nano", "latency"].status == "ok"


@pytest.mark.slow
def test_run_again_measures_nothing_and_an_edit_runs_only_its_cases(tiny_file, suite_file, tmp_path, zoo):
    path = suite_file(
        "schema: 1\ngroups:\n  - {models: [resnet_nano], axes: {size: 32}, metrics: [params, peak_memory]}\n"
    )
    command = ("run", str(path), "--plugin", str(tiny_file))
    assert "2 cases to run, 0 skipped" in zoo(*command).stderr
    file = next((tmp_path / "runs" / "mine").glob("*/records.jsonl"))
    before = file.read_bytes()
    again = zoo(*command)
    assert "0 cases to run, 2 skipped" in again.stderr
    assert "skipped, measured before: 2 cases of resnet_nano, tiny_conv" in again.stderr
    assert file.read_bytes() == before
    tiny_file.write_text(tiny_file.read_text() + "\n# an edit\n")
    edited = zoo(*command)
    assert "1 cases to run, 1 skipped" in edited.stderr
    assert "tiny_conv size=32px" in edited.stderr
    assert "(plugin changed)" in edited.stderr
    tiny_file.write_text(tiny_file.read_text().replace("\n# an edit\n", ""))
    assert "(plugin changed)" in zoo(*command).stderr, "an edit taken back is an edit: the newest number is what counts"
    later = zoo(*command, "--metrics", "params", "--fresh")
    assert later.returncode == 0
    values = {}
    for record in store.load(tmp_path / "runs" / "mine").records:
        values |= {(record.case.model, name): value.status for name, value in record.metrics.items()}
    assert values["resnet_nano", "peak_memory"] == "ok"


@pytest.mark.slow
def test_killed_at_three_random_moments_and_resumed_each_case_is_measured_once(tiny_file, suite_file, tmp_path):
    text = """\
        schema: 1
        groups:
          - models: [tiny_conv, resnet_nano]
            axes: {size: [32, 64, 96]}
            metrics: [params, macs, latency]
        """
    path = suite_file(text)
    command = [sys.executable, "-m", "zoo.cli", "run", str(path), "--plugin", str(tiny_file)]
    folder = tmp_path / "runs" / "mine"
    moments = [random.uniform(3.0, 15.0) for _ in range(3)]
    for seconds in moments:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        assert not left_by(process, signal.SIGKILL), f"workers outlive the command, killed after {moments} s"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = [(r.key, name) for r in store.load(folder).records for name in r.metrics]
    assert len(seen) == len(set(seen)), f"something was measured twice, killed after {moments} s"
    assert len(seen) == 2 * 3 * 3


MEETING = """
import os, time
from pathlib import Path
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

HERE = Path({folder!r})

def meet(mine, theirs):
    (HERE / mine).touch()
    end = time.monotonic() + 50
    while not (HERE / theirs).exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert (HERE / theirs).exists(), "nobody came"
    return quick(0)

def quick(size): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
def first(size): return meet("a", "b")
def second(size): return meet("b", "a")
def waits(size): return meet("c", "never")
def last(size): return meet("e", "never")
def dies(size): os._exit(1)

@hookimpl
def zoo_models():
    for build in (first, second, waits, last, quick, dies):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""


@pytest.fixture
def meeting(suite_file, tmp_path):
    """Return the command that runs the static cases of such models, in their order."""

    def command(*models: str) -> list[str]:
        (tmp_path / "meeting.py").write_text(MEETING.format(folder=str(tmp_path)))
        path = suite_file(f"schema: 1\ngroups: [{{models: [{', '.join(models)}], metrics: [params, macs]}}]\n")
        asked = ["--plugin", "meeting.py", "--models", ",".join(models)]
        return [sys.executable, "-m", "zoo.cli", "run", str(path), *asked]

    return command


@pytest.mark.skipif(environment.usable_cores() < 2, reason="one core runs one case at a time")
def test_cases_that_are_only_counted_run_at_once_and_are_kept_in_order(meeting, tmp_path):
    command = meeting("first", "second", "dies", "quick")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    kept = [(record.case.model, record.status) for record in store.load(tmp_path / "runs" / "mine").records]
    assert kept == [("first", "ok"), ("second", "ok"), ("dies", "killed"), ("quick", "ok")]


@pytest.mark.skipif(environment.usable_cores() < 2, reason="one core runs one case at a time")
def test_an_interrupted_run_keeps_all_that_is_done_and_leaves_nothing_running(meeting, tmp_path):
    def hear() -> None:
        """Be interrupted even where the tests run in the background, which a shell has ignore it."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = meeting("waits", "quick", "last")
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=hear)
    with process:
        while not ((tmp_path / "c").exists() and (tmp_path / "e").exists()):  # so one is done, between two that wait
            time.sleep(0.05)
        workers = process_tree(process.pid)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "what was measured is kept" in said
    assert [record.case.model for record in store.load(tmp_path / "runs" / "mine").records] == ["quick"]
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_memory_that_is_predicted_not_to_fit_is_not_run(suite_file, tmp_path, zoo):
    text = """\
        schema: 1
        groups:
          - models: [resnet50]
            axes: {size: 224}
            metrics: [peak_memory, latency]
            limits: {memory: 50 MiB}
        """
    done = zoo("run", str(suite_file(text)))
    assert done.returncode == 0
    [*records] = store.load(tmp_path / "runs" / "mine").records
    values = {name: v for r in records for name, v in r.metrics.items()}
    assert {v.status for v in values.values()} == {"oom"}
    assert values["latency"].detail == {"predicted": True}
    assert "are allowed; not run" in values["latency"].reason


def test_unsupported_size_is_a_row_and_exit_code_is_zero(suite_file, tmp_path, zoo):
    text = "schema: 1\ngroups:\n  - {models: [vit_nano], axes: {size: [32, 33]}, metrics: [params]}\n"
    done = zoo("run", str(suite_file(text)))
    assert done.returncode == 0
    found = {r.case.size: r.status for r in store.load(tmp_path / "runs" / "mine").records}
    assert found == {"32px": "ok", "33px": "unsupported"}


def test_records_can_be_loaded_as_a_frame(suite_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "schema: 1\ngroups:\n  - {models: [vit_nano], axes: {size: [32, 64]}, metrics: [params, macs]}\n"
    outcome = zoo_.run(str(suite_file(text)))
    frame = zoo_.load_records(outcome.folder)
    assert list(frame["size"]) == ["32px", "64px"]
    assert (frame["macs"] > 0).all()


def test_dry_run_predicts_time_and_memory_and_touches_nothing(suite_file, tmp_path, zoo):
    text = "schema: 1\ngroups:\n  - {models: [resnet50], axes: {size: [224]}, metrics: [params, latency]}\n"
    done = zoo("run", str(suite_file(text)), "--dry-run")
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("resnet50"))
    memory = float(line.split(" MiB")[0].split()[-1])
    # 25.6 M parameters of 4 bytes are 97.5 MiB; activations come on top.
    assert 97.5 < memory < 200
    assert "Nothing was run." in done.stdout
    assert not (tmp_path / "runs").exists()


def test_dry_run_predicts_trainings_of_steps_and_of_epochs(suite_file, zoo):
    groups = [f"  - {{models: [vit_nano], task: digits, recipe: {r}, metrics: [top1]}}\n" for r in ("quick", "equal")]
    done = zoo("run", str(suite_file("schema: 1\ngroups:\n" + "".join(groups))), "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("vit_nano")]
    quick, equal = (float(line.split(" s ")[0].split()[-1]) for line in lines)
    assert quick > 5
    steps = -(-40 * 1437 // 48)  # 40 epochs of 1,437 samples in batches of 48
    assert equal / quick == pytest.approx(steps / 300, rel=0.05)


def test_samples_are_integer_nanoseconds_with_an_interval(suite_file, tmp_path, zoo):
    text = "schema: 1\ngroups:\n  - {models: [resnet_nano], axes: {size: 32}, metrics: [latency, throughput]}\n"
    assert zoo("run", str(suite_file(text))).returncode == 0
    [record] = store.load(tmp_path / "runs" / "mine").records
    for name in ("latency", "throughput"):
        value = record.metrics[name]
        assert value.n == len(value.samples) >= 10
        assert value.interval[0] <= value.value <= value.interval[1]
        assert value.stop in ("tight", "budget", "samples")
        assert all(isinstance(ns, int) for ns in value.samples)
    line = next((tmp_path / "runs" / "mine").glob("*/records.jsonl")).read_text().splitlines()[-1]
    assert json.loads(line)["metrics"]["latency"]["unit"] == "s"


COMPUTES_AT_IMPORT = """
import torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

TABLE = torch.randn(2000, 2000).exp_().sum()

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x):
        return self.linear((x * torch.ones(512, 512).exp().mean()).mean(dim=(2, 3)))

def build(size):
    return Model()

@hookimpl
def zoo_models():
    yield ModelSpec("computes_at_import", build=build, **image_classifier(default=32))
"""


def test_plugin_that_computes_at_import_does_not_hang_its_workers(suite_file, tmp_path, zoo):
    (tmp_path / "early.py").write_text(COMPUTES_AT_IMPORT)
    text = "schema: 1\ngroups:\n  - {models: [resnet_nano], axes: {size: 32}, metrics: [latency], limits: {time: 30}}\n"
    done = zoo("run", str(suite_file(text)), "--plugin", "early.py", "--models", "computes_at_import")
    assert done.returncode == 0
    [record] = store.load(tmp_path / "runs" / "mine").records
    assert record.metrics["latency"].status == "ok"


def test_loading_libraries_is_not_the_cases_own_time(suite_file, tmp_path, zoo):
    text = "schema: 1\ngroups:\n  - {models: [vit_nano], axes: {size: 16}, metrics: [params], limits: {time: 4}}\n"
    assert zoo("run", str(suite_file(text))).returncode == 0
    [record] = store.load(tmp_path / "runs" / "mine").records
    assert record.status == "ok", record.metrics["params"].reason


def test_program_may_call_run_without_a_main_guard(suite_file, tmp_path):
    path = suite_file("schema: 1\ngroups:\n  - {models: [vit_nano], axes: {size: 16}, metrics: [params]}\n")
    program = f"import zoo\nprint(len(zoo.run({str(path)!r}, out='here', axes={{'size': '20px'}}).records))\n"
    (tmp_path / "statistics.py").write_text("raise RuntimeError('a file here is no module of ours')")
    (tmp_path / "program.py").write_text("import sys\nsys.path.pop(0)\n" + program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert (tmp_path / "here" / "mine" / "static.jsonl").exists()


def test_training_takes_and_holds_more_than_inference(suite_file, tmp_path, zoo):
    modes = "inference, forward_backward, training"
    axes = f"{{size: 32, batch_size: 4, mode: [{modes}]}}"
    metrics = "[peak_memory_predicted, peak_memory, latency]"
    path = suite_file(f"schema: 1\ngroups:\n  - {{models: [vit_nano], axes: {axes}, metrics: {metrics}}}\n")
    assert zoo("run", str(path)).returncode == 0
    found = {}
    for record in store.load(tmp_path / "runs" / "mine").records:
        found |= {(record.case.mode or "inference", name): value for name, value in record.metrics.items()}
    for mode in modes.split(", "):
        assert found[mode, "latency"].status == "ok"
        predicted, measured = (found[mode, name].value for name in ("peak_memory_predicted", "peak_memory"))
        assert measured == pytest.approx(predicted, rel=0.1)
    inference, backward, training = (found[mode, "peak_memory"].value for mode in modes.split(", "))
    assert 2 * inference < backward < training
    weights = found["inference", "peak_memory_predicted"].detail["weights"]
    assert found["training", "peak_memory_predicted"].detail["optimizer"] == pytest.approx(2 * weights, rel=0.01)


def test_the_largest_batch_is_predicted_and_then_tried(suite_file, tmp_path, zoo):
    group = "{models: [vit_nano], axes: {size: 32}, metrics: [largest_batch], limits: {memory: 256 MiB}}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    assert zoo("run", str(path)).returncode == 0
    (record,) = store.load(tmp_path / "runs" / "mine").records
    found = record.metrics["largest_batch"]
    tried = dict(found.detail["tried"])
    assert found.status == "ok"
    assert 1 <= len(tried) <= 3
    assert tried[found.value] == "ok"
    assert 0.85 * found.detail["predicted"] <= found.value <= 1.1 * found.detail["predicted"]
    assert all(batch > found.value for batch, status in tried.items() if status == "oom")


def test_not_one_sample_fits(suite_file, tmp_path, zoo):
    group = "{models: [vit_b16], metrics: [largest_batch], limits: {memory: 100 MiB}}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    assert zoo("run", str(path)).returncode == 0
    (record,) = store.load(tmp_path / "runs" / "mine").records
    assert record.metrics["largest_batch"].status == "oom"
    assert "not one fits in 0.10 GiB" in record.metrics["largest_batch"].reason


def test_a_size_that_is_not_legal_is_a_row_of_the_largest_batch_too(suite_file, tmp_path, zoo):
    group = "{models: [vit_nano], axes: {size: [32, 33]}, metrics: [largest_batch], limits: {memory: 256 MiB}}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    assert zoo("run", str(path)).returncode == 0
    found = {r.case.size: r.metrics["largest_batch"] for r in store.load(tmp_path / "runs" / "mine").records}
    assert found["32px"].status == "ok"
    assert found["33px"].status == "unsupported"
    assert "multiple" in found["33px"].reason


# -- beside a baseline ---------------------------------------------------------------------------------------

BESIDE = """
schema: 1
groups:
  - models: [healthy, crasher, again]
    axes: {size: 32, threads: 1}
    metrics: [macs, latency, latency_ratio]
    baseline: BASELINE
    limits: {time: 8, memory: 1 GiB}
"""


@pytest.fixture
def run_beside(tmp_path):
    """Time three models beside one of them; return the exit code, the results, and the values by model and metric."""

    def run(baseline: str, *more: str):
        (tmp_path / "hostile.py").write_text(HOSTILE.format(mark="zoo-test"))
        (tmp_path / "beside.yaml").write_text(BESIDE.replace("BASELINE", baseline))
        command = [sys.executable, "-m", "zoo.cli", "run", "beside.yaml", "--plugin", "hostile.py", *more]
        command += ["--models", "healthy,crasher,again"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        results = store.load(tmp_path / "runs" / "beside")
        found = {(r.case.model, m): value for r in results.records for m, value in r.metrics.items()}
        return done, results, found

    return run


@pytest.mark.slow
def test_cases_are_timed_beside_their_baseline_and_one_that_dies_spoils_nothing(run_beside, tmp_path):
    done, results, found = run_beside("healthy")
    assert done.returncode == 1
    assert found["crasher", "latency"].status == found["crasher", "latency_ratio"].status == "killed"
    ratio, latency = found["again", "latency_ratio"], found["again", "latency"]
    assert ratio.interval[0] <= ratio.value <= ratio.interval[1]
    assert ratio.detail["processes"] == latency.detail["processes"] >= 5
    assert ratio.detail["baseline"].startswith("healthy ")
    assert found["healthy", "latency_ratio"].detail["verdict"] == "baseline"
    # The baseline beside itself, and the other beside it, with the rounds of all three.
    assert [(c.a.model, c.b.model) for c in results.comparisons] == [("healthy", "healthy"), ("healthy", "again")]
    told = results.comparisons[1]
    assert (told.ratio, told.verdict, told.margin) == (ratio.value, ratio.detail["verdict"], ratio.detail["margin"])
    assert {len(of_set) for of_set in told.samples} == {3}
    timed = [r for r in results.records if "latency" in r.metrics and r.status == "ok"]
    assert all({"cores", "noise", "others", "steal", "load"} <= set(r.conditions) for r in timed)
    # Kept, and run again: what died is tried once more, and its baseline with it.
    again, _, _ = run_beside("healthy")
    assert "2 cases to run, 1 skipped" in again.stderr
    assert "crasher is measured beside it" in again.stderr


def test_without_its_baseline_a_case_is_timed_alone_and_has_no_ratio(run_beside):
    _, results, found = run_beside("crasher")
    assert found["healthy", "latency"].status == found["again", "latency"].status == "ok"
    assert "processes" not in found["healthy", "latency"].detail
    assert found["healthy", "latency_ratio"].status == "killed"  # as the baseline was, and tried again with it
    assert "its baseline has no time" in found["healthy", "latency_ratio"].reason
    assert "signal 11" in found["healthy", "latency_ratio"].reason
    # With no baseline to tell it, the first that was timed says what it differs from itself.
    assert [(c.a.model, c.b.model) for c in results.comparisons] == [("healthy", "healthy")]


def test_a_run_that_stops_in_time_goes_on_where_it_left_off(suite_file, tmp_path, zoo):
    group = "{models: [vit_nano], axes: {batch_size: [1, 2, 3], threads: 1}, metrics: [latency]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    first = zoo("run", str(path), "--stop-after", "0.001")
    assert first.returncode == 0
    assert "2 cases are left for want of time; the same command goes on" in first.stderr
    second = zoo("run", str(path))
    assert "2 cases to run, 1 skipped" in second.stderr
    assert "left for want of time" not in second.stderr


def test_a_training_that_would_not_end_in_time_is_left_for_the_next_run(suite_file, tmp_path, zoo):
    timed = "{models: [vit_nano], axes: {threads: 1}, metrics: [latency]}"
    trained = "{models: [mixer_nano], axes: {size: 16, threads: 1}, task: digits, recipe: equal@600s, metrics: [top1]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {timed}\n  - {trained}\n")
    done = zoo("run", str(path), "--stop-after", "400")
    assert done.returncode == 0
    assert "1 cases are left for want of time" in done.stderr
    assert [record.case.model for record in store.load(tmp_path / "runs" / "mine").records] == ["vit_nano"]


def test_the_knee_is_the_smallest_batch_tried_that_is_as_fast_as_any(suite_file, tmp_path, zoo):
    axes = "{size: 32, batch_size: 3000}"  # which alone would need more than is allowed
    group = f"{{models: [vit_nano], axes: {axes}, metrics: [throughput_knee], limits: {{memory: 256 MiB}}}}"
    table = "{title: Knee, columns: [model, throughput_knee]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\ntables:\n  - {table}\n")
    assert "throughput_knee" in zoo("run", str(path), "--dry-run").stdout
    assert zoo("run", str(path)).returncode == 0
    (record,) = store.load(tmp_path / "runs" / "mine").records
    found = record.metrics["throughput_knee"]
    tried = {batch: rest for batch, *rest in found.detail["tried"]}
    rates = {batch: rate for batch, (rate, _, _, status) in tried.items() if status == "ok"}
    assert record.case.batch_size == 3000
    assert found.status == "ok"
    assert next(iter(tried)) == found.detail["predicted"]
    assert 1 <= len(tried) <= 3
    assert max(tried) <= found.detail["largest"]
    assert all(low <= rate <= high for rate, low, high, status in tried.values() if status == "ok")
    assert found.value == min(batch for batch, rate in rates.items() if rate >= 0.98 * max(rates.values()))
    shown = zoo("table", str(path)).stdout
    assert "Batch at the knee: the smallest whose throughput is within 2 % of the best" in " ".join(shown.split())
    assert found.detail["end"] in " ".join(shown.split())


def test_a_model_that_fails_has_no_knee_and_a_reason(suite_file, tmp_path, zoo):
    (tmp_path / "hostile.py").write_text(HOSTILE.format(mark="none"))
    group = "{models: [wrong, no_module], metrics: [throughput_knee, largest_batch], limits: {memory: 256 MiB}}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    asked = ("--plugin", "hostile.py", "--models", "wrong,no_module")
    assert zoo("run", str(path), *asked).returncode == 1
    found = {}
    for record in store.load(tmp_path / "runs" / "mine").records:
        found |= {(record.case.model, name): value for name, value in record.metrics.items()}
    for metric in ("throughput_knee", "largest_batch"):
        assert found["wrong", metric].status == "error"
        assert "this model has a bug" in found["wrong", metric].reason
        assert "expected an nn.Module" in found["no_module", metric].reason
    assert {status for *_, status in found["wrong", "throughput_knee"].detail["tried"]} == {"error"}


COMPILED = """
import torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))

class Broken(Whole):
    def forward(self, x):
        x = x.relu()
        torch._dynamo.graph_break()
        return super().forward(x)

class Refuses(Whole):
    @torch._dynamo.disable
    def forward(self, x):
        return super().forward(x)

def whole(size): return Whole()
def broken(size): return Broken()
def refuses(size): return Refuses()

@hookimpl
def zoo_models():
    for build in (whole, broken, refuses):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""


@pytest.mark.slow
def test_every_resolution_is_compiled_beyond_the_compilers_limit(suite_file, tmp_path, zoo):
    """One process would recompile up to a limit (eight by default), then run eagerly without a word."""
    (tmp_path / "compiled.py").write_text(COMPILED + "\ntorch._dynamo.config.recompile_limit = 2\n")
    axes = "{size: [8, 16, 24, 32], compile: default, threads: 1}"
    path = suite_file(f"schema: 1\ngroups:\n  - {{models: [whole], axes: {axes}, metrics: [compile_time]}}\n")
    asked = ("--plugin", "compiled.py", "--models", "whole")
    assert zoo("run", str(path), *asked, timeout=900).returncode == 0
    values = [record.metrics["compile_time"] for record in store.load(tmp_path / "runs" / "mine").records]
    assert [(v.status, v.detail["graphs"], v.detail["recompiles"]) for v in values] == [("ok", 1, 0)] * 4


@pytest.mark.slow
def test_what_is_compiled_says_so_and_what_is_not_never_runs_eagerly_in_its_place(suite_file, tmp_path, zoo):
    (tmp_path / "compiled.py").write_text(COMPILED)
    group = "{models: [whole, broken, refuses], axes: {size: 32, compile: default}, metrics: [compile_time, latency]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {group}\n")
    done = zoo("run", str(path), "--plugin", "compiled.py", timeout=600)
    assert done.returncode == 0, done.stderr
    found = {}
    for record in store.load(tmp_path / "runs" / "mine").records:
        assert record.case.compile == "default"
        found |= {(record.case.model, name): value for name, value in record.metrics.items()}
    whole, broken = (found[name, "compile_time"] for name in ("whole", "broken"))
    assert whole.value > 0.1
    assert (whole.detail["graphs"], whole.detail["graph_breaks"], whole.detail["recompiles"]) == (1, 0, 0)
    assert broken.detail["graphs"] == 2
    assert broken.detail["graph_breaks"] >= 1
    assert broken.detail["reasons"]
    assert found["whole", "latency"].status == found["broken", "latency"].status == "ok"
    for metric in ("compile_time", "latency"):
        assert found["refuses", metric].status == "unsupported"
        assert "no graph" in found["refuses", metric].reason


@pytest.mark.slow
def test_what_one_process_compiles_the_next_one_loads_for_as_long_as_the_run_lasts():
    registry = Registry.load()
    spec, case = registry.model("vit_nano"), Case("vit_nano", "16px", threads=1, device="cpu", compile="default")
    seconds, deadline = [], time.monotonic() + 300
    with contextlib.closing(Pool()) as pool:
        folder = pool.folder_of(case.id)
        for given in ({}, {"kept": folder}, {"kept": folder}):
            worker = Worker(pool.server(1, spec), print)
            worker.prepare("speed", spec, None, case, 0, deadline, registry.for_workers)
            reply = worker.ask({"do": "measure", "metric": "compile_time", "given": given}, deadline)
            seconds.append(reply["values"]["compile_time"]["value"])
            worker.close()
        assert any(Path(folder).iterdir())
    cold, first, second = seconds
    assert second < 0.6 * min(cold, first)
    assert not Path(folder).exists()


def test_an_eager_model_has_no_compile_time(suite_file, tmp_path, zoo):
    axes = "{size: 32, compile: [eager]}"
    path = suite_file(f"schema: 1\ngroups:\n  - {{models: [vit_nano], axes: {axes}, metrics: [compile_time]}}\n")
    assert zoo("run", str(path)).returncode == 0
    (record,) = store.load(tmp_path / "runs" / "mine").records
    assert record.case.compile is None
    assert record.metrics["compile_time"].status == "unsupported"
    assert "0 cases to run" in zoo("run", str(path)).stderr


# -- zoo compare ---------------------------------------------------------------------------------------------

TWO_SPEEDS = """
import torch
from torch import nn
from zoo import ModelSpec, hookimpl, image_classifier

class Repeated(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.times, self.layer = times, nn.Linear(512, 512)

    def forward(self, x):
        y = x.mean(dim=(2, 3)).repeat(1, 171)[:, :512].expand(256, 512)
        for _ in range(self.times):
            y = self.layer(y)
        return y[: len(x), :10]

def once(size): return Repeated(4)
def twice(size): return Repeated(8)
def broken(size): raise ValueError("this one cannot be built")

@hookimpl
def zoo_models():
    for build in (once, twice, broken):
        yield ModelSpec(build.__name__, build=build, **image_classifier(default=32))
"""


@pytest.fixture
def two_speeds(tmp_path):
    """Return the arguments that add models of which one does twice what the other does."""
    (tmp_path / "speeds.py").write_text(TWO_SPEEDS)
    return ("--plugin", "speeds.py", "--set", "threads=1", "--budget", "1")


def test_a_model_that_does_twice_as_much_is_slower_and_trips_the_gate(two_speeds, tmp_path, zoo):
    done = zoo("compare", "once", "twice", *two_speeds, "--gate")
    assert done.returncode == 1, done.stderr
    assert "B is slower" in done.stdout
    (record,) = store.load(tmp_path / "runs" / "compare").comparisons
    assert record.verdict == "slower"
    assert 1.4 < record.ratio < 2.6
    assert record.processes == 5
    assert record.protocol == "interleaved"
    assert [len(of_set) for of_set in record.samples] == [3] * 5  # a, b and a again


def test_a_model_that_cannot_be_compared_is_said(two_speeds, zoo):
    done = zoo("compare", "once", "broken", *two_speeds, "--gate")
    assert done.returncode == 1
    assert "this one cannot be built" in done.stdout
    done = zoo("compare", "once", "resnet_nano", "--plugin", "speeds.py", "--set", "threads=1,2")
    assert done.returncode == 2
    assert "stands for 2 cases" in done.stderr
