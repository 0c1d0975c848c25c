"""Every classification, segmentation and video model of torchvision: its parameters and ``_ops``, from our counter."""

from pathlib import Path

import golden_torchvision
import pytest
from golden_torchvision import COUNTED, NOT_COUNTED, cells, weights
from torchvision import models
from torchvision.models import list_models

CELLS = cells()
GENERATED = Path(__file__).resolve().parents[1] / "results" / "golden" / "torchvision.md"


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}-{'x'.join(map(str, cell[1][2:]))}")
def test_parameters_and_macs_are_those_that_torchvision_prints(cell):
    held, counted = golden_torchvision.count(cell, CELLS[cell][0])
    for one in CELLS[cell]:
        assert (held, round(counted / 1e9, 3)) == (one.meta["num_params"], one.meta["_ops"])


def test_quantised_weights_print_the_numbers_of_the_float_model_they_come_from():
    quantised = [one for _, one in weights(models.quantization)]
    assert len(quantised) >= 14
    for one in quantised:
        printed = one.meta["unquantized"].meta
        assert (one.meta["_ops"], one.meta["num_params"]) == (printed["_ops"], printed["num_params"])


def test_every_model_with_weights_is_counted_or_listed_with_the_reason():
    settled = {name for part in (*COUNTED, models.quantization, *NOT_COUNTED) for name, _ in weights(part)}
    assert settled == {name for name in list_models() if len(models.get_model_weights(name))}
    assert sum(map(len, CELLS.values())) >= 131


@pytest.mark.slow
def test_the_table_is_the_one_that_is_counted():
    assert golden_torchvision.table() in GENERATED.read_text(encoding="utf-8")
