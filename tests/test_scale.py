"""``zoo scale``: known laws are found, where they cross is predicted and confirmed, what fails is a point."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from zoo import curves, laws, runner
from zoo import scale as scale_module
from zoo.case import Case
from zoo.comparison import Effort
from zoo.errors import BadSize, BadSpec, ZooError
from zoo.laws import Curve, Point
from zoo.progress import Reporter
from zoo.record import CaseRecord, Value
from zoo.registry import Registry, installed
from zoo.scale import Question, Scaling, read_sizes, scale, sizes_for
from zoo.store import Results

# Layers that take as long as they say: 4 ms + 8 us n, and 2 ms + 8 ns n^2. They cross at n = 1,207.
SLEEPERS = """
import time
import torch
from torch import nn
from zoo import Cost, LayerSpec, hookimpl

class Sleeper(nn.Module):
    def __init__(self, seconds, square, most):
        super().__init__()
        self.seconds, self.square, self.most = seconds, square, most

    def forward(self, x):
        if x.shape[1] > self.most:
            raise RuntimeError("too long for me")
        began = time.monotonic()
        found = torch.softmax(x @ x.transpose(1, 2), -1) @ x if self.square else x + x.mean(1, keepdim=True)
        if len(x) and x.device.type == "cpu" and not isinstance(x, torch._subclasses.FakeTensor):
            time.sleep(max(0.0, began + self.seconds - time.monotonic()))
        return found

def linear(size, width, most): return Sleeper(4e-3 + 8e-6 * size, False, most)
def quadratic(size, width, most): return Sleeper(2e-3 + 8e-9 * size**2, True, most)

@hookimpl
def zoo_layers():
    for build, cost in ((linear, Cost()), (quadratic, Cost(mixing="2 n^2 d"))):
        yield LayerSpec(build.__name__, build=build, cost=cost, sequential="O(1)", path_length="O(1)",
                        options={"most": 1_000_000})
"""


@pytest.fixture
def sleepers(tmp_path: Path) -> str:
    """Return the file of a plugin with two layers."""
    file = tmp_path / "sleepers.py"
    file.write_text(SLEEPERS)
    return str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256..2048", ["256", "512", "1024", "2048"]),
        ("256..3000", ["256", "512", "1024", "2048", "3000"]),
        ("100..400px", ["100px", "200px", "400px"]),
        ("256..4096:5", ["256", "512", "1024", "2048", "4096"]),
    ],
)
def test_a_range_doubles_or_has_even_steps(text: str, expected: list[str]) -> None:
    assert read_sizes(text) == (expected, True)


def test_a_list_is_taken_as_it_is() -> None:
    assert read_sizes("256, 300") == (["256", "300"], False)


@pytest.mark.parametrize("text", ["", "abc", "512..256", "0..10", "1..100:1", "2..9:99", "256..", "-4"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(BadSize, match=r"expected"):
        read_sizes(text)


def test_each_model_takes_its_nearest_legal_sizes() -> None:
    registry = Registry.load()

    def near(name: str, sizes: list[str]) -> list[str]:
        spec = registry.model(name)
        return sizes_for(spec, sizes, True, spec.knobs)

    given = ["256", "512", "1024", "2048"]
    assert near("self_attention", given) == ["256tok", "512tok", "1024tok", "2048tok"]
    assert near("sasa", given) == ["256tok", "529tok", "1024tok", "2025tok"]
    assert near("fnet_base", given) == ["256tok", "512tok"]
    assert near("vit_s16", ["100", "195"]) == ["96px", "192px"]


def test_counts_have_exact_laws_and_cross_where_they_do(tmp_path: Path) -> None:
    metrics = ["macs", "flops_fft", "peak_memory_predicted"]
    found = scale(Question(["self_attention", "favor", "fourier"], "256..4096", metrics, out=tmp_path), Reporter())
    laws = {(c.model, c.metric): c for c in found.curves}
    attention, favor = laws["self_attention", "macs"], laws["favor", "macs"]
    assert attention.exact
    assert attention.law
    assert [str(t) for t in attention.law.last.terms] == ["n", "n^2"]
    assert attention.law.last.coefficients == (4 * 256**2, 2 * 256)
    assert favor.exact
    assert laws["fourier", "macs"].problem == "none"
    fourier = laws["fourier", "flops_fft"].law
    assert fourier
    assert fourier.last.coefficients == (5 * 256 * 8, 5 * 256)
    (crossed,) = [
        c for c in found.crossovers if c.metric == "macs" and {c.first, c.second} == {"self_attention", "favor"}
    ]
    assert (crossed.first, crossed.second) == ("self_attention", "favor")
    counted = {c.model: c.law for c in found.curves if c.metric == "macs" and c.law}
    at = crossed.predicted.size.value
    assert counted["self_attention"](at) == pytest.approx(counted["favor"](at), rel=1e-4)
    (overtaken,) = [o for o in found.overtakings if o.model == "self_attention" and o.metric == "macs"]
    assert overtaken.predicted.size.value == pytest.approx(2 * 256, rel=1e-3)
    assert scale_module.to_json(found)["curves"][0]["exact"]


def test_one_layer_with_two_sets_of_options_has_two_curves(tmp_path: Path) -> None:
    names = ["favor", "favor:features=64", "self_attention:heads=8"]
    found = scale(Question(names, "256..4096", ["macs"], {"width": [64]}, out=tmp_path), Reporter())
    laws = {c.model: c.law.last.coefficients for c in found.curves if c.law}
    # 4 d^2 + 4 d m + 2 h m, with 256 features and 8 heads unless told otherwise.
    assert laws["favor"] == (4 * 64**2 + 4 * 64 * 256 + 2 * 8 * 256,)
    assert laws["favor:features=64"] == (4 * 64**2 + 4 * 64 * 64 + 2 * 8 * 64,)
    assert laws["self_attention:heads=8"] == (4 * 64**2, 2 * 64)
    assert {c.first for c in found.crossovers} == {"self_attention:heads=8"}


@pytest.mark.slow
def test_times_of_known_laws_are_found_and_their_crossover_is_confirmed(tmp_path: Path, sleepers: str) -> None:
    question = Question(
        ["linear", "quadratic"],
        "256..4096:9",
        ["latency"],
        {"threads": [1], "width": [4]},
        [sleepers],
        tmp_path,
        limits={"latency": 0.02},
        effort=Effort(budget=15),
    )
    found = scale(question, Reporter())
    laws = {c.model: c.law.last for c in found.curves if c.law}
    assert laws["linear"].exponent(4096).value == pytest.approx(0.89, abs=0.06)
    assert laws["quadratic"].exponent(4096).value == pytest.approx(1.97, abs=0.12)
    assert str(laws["quadratic"].leading()[0]) == "n^2"
    (crossed,) = found.crossovers
    assert (crossed.first, crossed.second) == ("quadratic", "linear")
    assert crossed.predicted.size.value == pytest.approx(1207, rel=0.12)
    assert crossed.measured
    assert crossed.measured.ratio == pytest.approx(1, abs=0.12)
    assert crossed.confirmed
    assert crossed.confirmed.value == pytest.approx(1207, rel=0.12)
    room = {r.model: r for r in found.rooms}
    assert room["linear"].size
    assert room["linear"].size.size.value == pytest.approx(2000, rel=0.08)
    said = " ".join(curves.sentences(found))
    assert "measured side by side at" in said
    assert "20 ms holds" in said


def test_what_fails_is_a_point_with_a_status(tmp_path: Path, sleepers: str) -> None:
    axes = {"threads": [1], "width": [4], "most": [700]}
    question = Question(["linear"], "256,512,1024", ["peak_memory"], axes, [sleepers], tmp_path, confirm=False)
    (curve,) = scale(question, Reporter()).curves
    assert [(p.size, p.value.status) for p in curve.points] == [
        ("256tok", "ok"),
        ("512tok", "ok"),
        ("1024tok", "error"),
    ]
    assert "too long for me" in curve.points[-1].value.reason
    rows = [row for rows in curves.tables(Scaling((curve,))) for row in rows]
    assert ("1024", "error") in rows


def test_points_at_which_the_host_sets_the_pace_are_not_fitted() -> None:
    points = [Point(f"{n}tok", n, Value(value=1e-3 * n, unit="s")) for n in (256, 512, 1024, 2048, 4096)]
    bound = Point("128tok", 128, Value(value=0.2, unit="s", detail={"launch_bound": True}))
    curve = laws.with_law(Curve("m", "latency", (bound, *points)), laws.LINEAR)
    assert curve.law
    assert curve.law.last.exponent(4096).value == pytest.approx(1)
    assert curve.notes == ("launch-bound, and not fitted: 128tok",)
    few = laws.with_law(Curve("m", "latency", (bound, points[0])), laws.LINEAR)
    assert few.problem == "1 sizes have a value; the law 1 + n needs more"


def test_a_rate_is_fitted_as_the_time_of_a_sample() -> None:
    assert Point("1tok", 1, Value(value=20.0, unit="1/s")).cost == pytest.approx(0.05)


def test_bad_questions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="'top1' does not scale; expected metrics of macs"):
        scale(Question(["self_attention"], "256..512", ["top1"], out=tmp_path), Reporter())
    with pytest.raises(BadSpec, match="one value of every other axis"):
        scale(Question(["self_attention"], "256..512", axes={"width": [1, 2]}, out=tmp_path), Reporter())
    with pytest.raises(ZooError, match="self_attention"):
        scale(Question(["self_atention"], "256..512", out=tmp_path), Reporter())


def test_the_command_prints_draws_and_answers_programs(zoo, tmp_path: Path) -> None:
    asked = ("scale", "self_attention", "favor", "--sizes", "256..2048", "--metrics", "macs", "--memory", "8MiB")
    done = zoo(*asked, "--picture", "curves.svg")
    assert done.returncode == 0, done.stderr
    assert "262.1 k n + 512 n^2" in done.stdout
    assert "macs: favor costs less than self_attention from" in done.stdout
    assert "8 MiB holds" in done.stdout
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")
    again = zoo(*asked, "--json")
    data = json.loads(again.stdout)
    assert {c["model"] for c in data["curves"]} == {"self_attention", "favor"}
    assert "4 cases to run" not in again.stderr
    assert zoo("scale", "self_attention", "--sizes", "nonsense").returncode == 2


def test_a_layer_is_a_case_like_a_model(tmp_path: Path) -> None:
    suite = tmp_path / "layers.yaml"
    suite.write_text(
        "schema: 1\ngroups:\n  - models: [sasa, lstm]\n    axes: {size: [196, 200], width: [64]}\n"
        "    metrics: [params, macs, peak_memory]\n"
    )
    records = runner.run(str(suite), out=tmp_path).records
    found = {(r.case.model, r.case.size): r for r in records if "macs" in r.metrics}
    assert found["lstm", "200tok"].metrics["macs"].value == 8 * 200 * 64**2
    assert found["sasa", "200tok"].status == "unsupported"
    assert "nearest legal size: 196tok" in found["sasa", "200tok"].metrics["macs"].reason
    assert found["sasa", "196tok"].metrics["macs"].value == 3 * 196 * 64**2 + 3 * 196 * 49 * 64
    assert found["sasa", "196tok"].plugin == "zoo_sasa"


def test_records_alone_tell_the_curves_that_were_measured() -> None:
    """2 n^2 + n MACs, and times that are in proportion: what zoo scale kept has its laws again."""
    registry = installed()
    sizes = (256, 512, 1024, 2048, 4096, 8192)

    def records(model: str, factor: float) -> list[CaseRecord]:
        found = []
        for n in sizes:
            case = Case(model, f"{n}tok", threads=1)
            macs = Value(value=2 * n * n + n, convention="mac")
            latency = Value(value=factor * (2 * n * n + n), unit="s", interval=(0.9, 1.1))
            found.append(CaseRecord(case.for_phase("static"), {}, {"macs": macs}))
            found.append(CaseRecord(case.for_phase("speed"), {}, {"latency": latency}, environment="m"))
        return found

    gone = CaseRecord(Case("gone", "256tok").for_phase("static"), {}, {"macs": Value(value=1)})
    again = replace(gone, case=replace(gone.case, size="512tok"))
    kept = (*records("self_attention", 1e-9), *records("favor", 2e-9), gone, again)
    found = scale_module.kept(Results(kept), registry)
    assert {(c.model, c.metric) for c in found.curves} == {
        (model, metric) for model in ("self_attention", "favor") for metric in ("macs", "latency")
    }
    macs = next(c for c in found.curves if (c.model, c.metric) == ("favor", "macs"))
    assert macs.exact
    assert str(macs.law.last if macs.law else "") == "1 n + 2 n^2"
    latency = next(c for c in found.curves if (c.model, c.metric) == ("favor", "latency"))
    assert latency.law
    assert latency.law.last.exponent(8192).value == pytest.approx(2, abs=0.01)
