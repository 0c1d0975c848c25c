"""A case's task from data to scores: splits, other sizes, weights, data of one's own; and runs that are killed."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from processes import left_by
from torch import nn

from zoo import store
from zoo.adapters import Detector
from zoo.case import Case
from zoo.errors import BadSize, ZooError
from zoo.recipe import Recipe
from zoo.record import Value
from zoo.registry import Registry
from zoo.spec import InputSpec, Metric, ModelSpec, SizeRule
from zoo.task import Assignment, TaskSpec
from zoo.trained import Exam

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REGISTRY = Registry.load()
BRIEF = Recipe("brief", steps=2, batch_size=8, learning_rate=1e-3)


def exam(model: str | ModelSpec, task: TaskSpec, recipe: Recipe = BRIEF, weights: str = "", **case: Any) -> Exam:
    """Return a case with its assignment, on the CPU."""
    spec = REGISTRY.model(model) if isinstance(model, str) else model
    options = {k: v for k, v in task.model_options.items() if spec.knobs[k] != v}
    given = Case(spec.name, **{"size": spec.sizes.default, "task": task.name, "seed": 0, "options": options, **case})
    return Exam(spec, given, Assignment(task, recipe, weights), torch.device("cpu"), torch.float32)


def digits(**more: Any) -> TaskSpec:
    return REGISTRY.task("digits")


# -- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vit_nano", "swin_nano", "resnet_nano"])
def test_what_was_trained_at_one_size_is_tested_at_another(model):
    found = exam(model, digits(), test_size="64px").take()["top1"]
    assert found.status == "ok"
    assert found.n == 360


def test_what_was_trained_is_what_is_tested_at_another_size():
    job = exam("resnet_nano", digits(), test_size="64px")
    trained, _ = job.learned(0.0)
    other = job.at_test_size(trained)
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_mixer_says_why_it_cannot_be_tested_at_another_size():
    with pytest.raises(BadSize, match=r"trained at 32px, it cannot take 64px: token-mixing MLPs are as wide"):
        exam("mixer_nano", digits(), test_size="64px").take()


# -- tasks ---------------------------------------------------------------------------------------------------


def words(split: str) -> list[tuple[str, str]]:
    """A tiny corpus with a split of its own for what is held out."""
    return [(str(i), "one" if i % 2 else "two") for i in range(4 if split == "test" else 6)]


def test_each_split_has_metrics_of_its_own_name():
    task = TaskSpec(
        "words",
        kind="translation",
        data=words,
        evaluate="zoo.scores.text:translation",
        metrics=(Metric("exact_match"), Metric("bleu")),
        recipes=(BRIEF,),
        tests={"test": "", "held_out": "_held_out"},
    )
    found = exam("transformer_nano", task, size="8+8tok").take()
    assert set(found) == {"exact_match", "bleu", "exact_match_held_out", "bleu_held_out"}
    assert (found["exact_match"].n, found["exact_match_held_out"].n) == (4, 6)
    assert found["bleu"].convention.startswith("nrefs:1|case:mixed")
    assert found["bleu"].detail["test"]["split"] == "test"


def test_a_metric_that_its_data_cannot_have_is_unsupported():
    task = TaskSpec(
        "half",
        kind="classification",
        data="zoo_digits.data:load",
        evaluate="zoo.scores.classification:top1",
        metrics=(Metric("top1"), Metric("top5")),
        recipes=(BRIEF,),
        model_options={"num_classes": 10},
    )
    found = exam("resnet_nano", task).take()
    assert found["top1"].status == "ok"
    assert (found["top5"].status, found["top5"].reason) == ("unsupported", "the split test has nothing that it counts")


def test_what_a_constant_answer_gets_right_is_kept_beside_an_accuracy():
    detail = exam("resnet_nano", digits()).take()["top1"].detail
    assert detail["majority"] == pytest.approx(37 / 360, abs=0.003)
    assert detail["train"]["n"] == 1437
    assert detail["steps"] == 2


def test_recipes_of_the_authors_are_taken_by_name():
    task = REGISTRY.task("digit-scenes")
    recipe = task.recipe("own", REGISTRY.model("detr_nano").recipes, "detr_nano")
    assert (recipe.clip, recipe.schedule, recipe.steps) == (0.1, "step", task.recipes[0].steps)
    assert "mirror" not in recipe.augment  # of a digit it is none
    brief = task.recipe("own@90s", REGISTRY.model("detr_nano").recipes, "detr_nano")
    assert (brief.name, brief.seconds, brief.clip, brief.decay_at) == ("own@90s", 90.0, 0.1, recipe.decay_at)
    with pytest.raises(ZooError, match="no recipe 'own' for the model faster_rcnn_nano; its recipes: equal, quick"):
        task.recipe("own", REGISTRY.model("faster_rcnn_nano").recipes, "faster_rcnn_nano")


def test_in_bfloat16_weights_stay_in_float32_and_losses_are_numbers():
    job = exam("mixer_nano", digits(), dtype="bfloat16")
    job.dtype = torch.bfloat16
    module, detail = job.learned(0.0)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert detail["steps"] == 2
    assert detail["curve"][-1][1] == pytest.approx(
        exam("mixer_nano", digits()).learned(0.0)[1]["curve"][-1][1], rel=0.05
    )


# -- weights -------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_tested_as_it_is(tmp_path):
    job = exam("vit_nano", digits())
    trained, _ = job.learned(0.0)
    file = tmp_path / "mine.pth"
    torch.save(trained.state_dict(), file)
    task = digits()
    found = exam("vit_nano", task, task.recipe("as_it_is"), str(file), seed=7).take()["top1"]
    assert found.value == job.take()["top1"].value
    assert found.detail["steps"] == 0


def test_a_checkpoint_of_another_architecture_is_one_sentence(tmp_path):
    file = tmp_path / "mine.pth"
    torch.save(nn.Linear(3, 4).state_dict(), file)
    with pytest.raises(ZooError, match=re.escape(f"{file} does not fit the model: ")):
        exam("vit_nano", digits(), weights=str(file)).take()


# -- detection -----------------------------------------------------------------------------------------------


class Oracle(Detector):
    """Predicts what is true: what it is scored by is all that can keep it from 1."""

    def collate(self, samples, size, training):
        inputs, targets = super().collate(samples, size, training)
        return {**inputs, "true": [target for _, target in samples]}, targets

    def predict(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        kept = [{k: t[k][~t["crowd"]] for k in ("boxes", "labels")} for t in inputs["true"]]
        return [{**true, "scores": torch.ones(len(true["labels"]))} for true in kept]


def blank(size: Any, num_classes: int = 91) -> nn.Module:
    return nn.Linear(1, 1)


ORACLE = ModelSpec(
    "oracle",
    build=blank,
    input=InputSpec("images", "resolution"),
    sizes=SizeRule("128px"),
    adapters={"detection": Oracle},
)


def coco_tiny(folder: Path) -> Path:
    archive = SHARED / "coco_tiny.zip"
    if not archive.is_file():
        pytest.skip("coco_tiny is not here")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder / "coco_tiny"


def test_the_truth_of_scenes_as_prediction_scores_one():
    found = exam(ORACLE, REGISTRY.task("digit-scenes"), REGISTRY.task("digit-scenes").recipe("as_it_is")).take()
    assert {name: found[name].value for name in ("AP", "AP50", "APs", "APm", "APl")} == pytest.approx(
        dict.fromkeys(("AP", "AP50", "APs", "APm", "APl"), 1.0)
    )


def test_real_images_are_evaluated_end_to_end_with_the_truth_and_with_random_weights(tmp_path):
    path = coco_tiny(tmp_path)
    task = REGISTRY.task(f"coco:{path}")
    assert (task.name, task.model_options) == ("coco:coco_tiny", {"num_classes": 91})
    found = exam(ORACLE, task, task.recipe("as_it_is")).take()
    assert found["AP"].value == pytest.approx(1.0)
    assert found["AP"].n == 80
    untrained = exam("detr_nano", task, task.recipe("as_it_is"), size="64px").take()
    assert untrained["AP"].value < 0.01
    assert len(untrained) == 12


# -- data of one's own ---------------------------------------------------------------------------------------


def picture(file: Path, colour: int = 0, side: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (colour, 255 - colour, 40)).save(file)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Dark and bright images in folders by class."""
    for split in ("train", "val"):
        for i in range(6):
            picture(tmp_path / "mine" / split / ("bright" if i % 2 else "dark") / f"{i}.png", 200 * (i % 2))
    return tmp_path / "mine"


def test_a_folder_of_images_says_how_many_classes_it_has(folder):
    task = REGISTRY.task(f"folder:{folder}")
    assert (task.name, task.model_options) == ("folder:mine", {"num_classes": 2})
    found = exam("resnet_nano", task).take()
    assert found["top1"].n == 6
    assert REGISTRY.task("folder:mine", (folder.parent,)) == task


def damaged(folder: Path) -> None:
    (folder / "val" / "dark" / "0.png").write_bytes(b"\x89PNG and no more")


def emptied(folder: Path) -> None:
    for file in (folder / "train" / "dark").iterdir():
        file.unlink()


def unheard(folder: Path) -> None:
    picture(folder / "val" / "grey" / "1.png")


def without_test(folder: Path) -> None:
    (folder / "val").rename(folder / "holdout")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "val/dark/0.png is no image that can be read"),
        (emptied, "train/dark has no images; expected files that end in .jpg"),
        (unheard, "val/grey is a class that .*train does not have; it has 2 classes"),
        (without_test, "has no images for the split test; expected a folder .*test or .*val"),
    ],
)
def test_a_fault_in_a_folder_is_one_sentence_that_names_it(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ZooError, match=said):
        exam("resnet_nano", REGISTRY.task(f"folder:{folder}")).take()


def real_labels(folder: Path, content: Any) -> TaskSpec:
    for split in ("train", "val"):
        for i in (1, 2):
            picture(folder / split / f"n0{i}" / f"ILSVRC2012_val_0000000{i}.JPEG")
    (folder / "real.json").write_text(json.dumps(content))
    return REGISTRY.task(f"imagenet-real:{folder}")


def test_real_labels_leave_out_images_without_any(tmp_path):
    found = exam("resnet_nano", real_labels(tmp_path / "in", [[0, 1], []])).take()["top1"]
    assert (found.n, found.value) == (1, 1.0)


def test_fewer_real_labels_than_images_is_one_sentence(tmp_path):
    with pytest.raises(ZooError, match=r"val_00000002.JPEG is no image that has ReaL labels: .* a number up to 1"):
        exam("resnet_nano", real_labels(tmp_path / "in", [[0]])).take()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder:nowhere", "there is no data 'nowhere': looked for nowhere, .*; tell where it lies with --data FOLDER"),
        ("coco", "the task coco is of data that you have; name it coco:PATH"),
        ("digits:here", "the task digits brings its own data; it takes no path, such as 'here'"),
        ("cocoa:here", "there is no task named 'cocoa'; did you mean coco"),
    ],
)
def test_a_task_that_is_named_wrongly_is_one_sentence(tmp_path, name, said):
    with pytest.raises(ZooError, match=said):
        REGISTRY.task(name, (tmp_path,))


# -- runs ----------------------------------------------------------------------------------------------------

SUITE = """\
    schema: 1
    groups:
      - models: [resnet_nano]
        axes: {{size: 16px, threads: 1}}
        task: {task}
        recipe: {recipe}
        seeds: [0, 1]
        metrics: [params, top1]
    tables:
      - {{title: All, where: {{model: resnet_nano}}, columns: [model, params, top1], over: seed}}
    """


def trained(folder: Path) -> dict[int, Value]:
    """Return the accuracies that a run kept, by seed."""
    records = store.load(folder / "runs" / "mine").records
    return {r.case.seed: r.metrics["top1"] for r in records if "top1" in r.metrics}


def test_a_run_is_of_a_folder_of_ones_own_and_its_records_name_no_place(folder, suite_file, tmp_path, zoo):
    path = suite_file(SUITE.format(task="folder:mine", recipe="quick"))
    text = path.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    path.write_text(text)
    done = zoo("run", str(path), "--data", str(folder.parent), "--recipe", "as_it_is")
    assert done.returncode == 0, done.stderr
    (value,) = trained(tmp_path).values()
    assert value.n == 6
    file = next((tmp_path / "runs" / "mine").glob("*/records.jsonl"))
    assert str(folder) not in file.read_text()


@pytest.mark.slow
def test_a_training_that_is_killed_five_times_has_the_numbers_of_one_that_is_not(suite_file, tmp_path, zoo):
    path = suite_file(SUITE.format(task="digits", recipe="quick"))
    command = [sys.executable, "-m", "zoo.cli", "run", str(path)]
    kept = tmp_path / "runs" / "checkpoints"
    moments = [random.uniform(0.3, 4.0) for _ in range(5)]
    for seconds in moments:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = newest(kept)
        while newest(kept) == before and process.poll() is None:  # until it trains
            time.sleep(0.05)
        time.sleep(seconds)
        assert not left_by(process, signal.SIGKILL), f"workers outlive the command, killed after {moments} s"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = trained(tmp_path)
    done = zoo("run", str(path), "--fresh", timeout=600)
    assert done.returncode == 0, done.stderr
    whole = trained(tmp_path)
    assert "mean of 2 seeds" in done.stdout
    for seed in (0, 1):
        assert killed[seed].value == whole[seed].value, f"killed after {moments} s"
        assert killed[seed].detail["curve"] == whole[seed].detail["curve"]


def newest(folder: Path) -> float:
    """Return when the newest checkpoint was written."""
    return max((f.stat().st_mtime for f in folder.glob("*.training")), default=0.0)


BRIEFLY = """
from zoo import Metric, Recipe, TaskSpec, hookimpl

@hookimpl
def zoo_tasks():
    yield TaskSpec(
        "briefly", kind="classification", data="zoo_digits.data:load", evaluate="zoo.scores.classification:top1",
        metrics=(Metric("top1", higher_is_better=True),), model_options={"num_classes": 10},
        recipes=(Recipe("equal", steps=40, batch_size=48, learning_rate=2e-3),),
    )
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(site, suite_file, tmp_path, zoo):
    """Launched by torch over gloo: half a batch each, and what they leave is what the run tests and records."""
    site.add("zoo_briefly", BRIEFLY)
    text = SUITE.format(task="briefly", recipe="equal").replace("[0, 1]", "[0]").replace("resnet_nano", "mixer_nano")
    path = suite_file(text.replace("16px", "32px"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", "zoo.launched", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "40 steps in" in done.stdout
    found = []
    for more in ((), ("--fresh",)):
        done = zoo("run", str(path), *more)
        assert done.returncode == 0, done.stderr
        found.append(trained(tmp_path)[0])
    shared, alone = found
    assert [value.detail["processes"] for value in found] == [2, 1]
    assert shared.detail["steps"] == 40
    # A process tells the loss of its own half of a batch; the weights are those of one process but for rounding.
    assert shared.value == pytest.approx(alone.value, abs=0.02)
    curves = [dict(value.detail["curve"]) for value in found]
    assert curves[0][40] == pytest.approx(curves[1][40], rel=0.2)


def test_a_task_is_shown_with_its_recipes_and_metrics_a_line_each(zoo):
    shown = zoo("show", "digits").stdout
    assert "\n  quick  steps=300 batch_size=48 learning_rate=0.002 " in shown
    assert "\n  top1  unit=1 higher_is_better=True interval=wilson\n" in shown
    assert "\n  own  batch_size=64 learning_rate=0.0001 " in zoo("show", "detr_r50").stdout
