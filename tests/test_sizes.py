"""Variants at legal sizes on the meta device, the smallest for real in float32 and bfloat16, and illegal sizes refused.

``python tests/sizes.py`` runs every legal size.
"""

import pytest
import torch
from sizes import legal_sizes, run, some
from torch.utils._pytree import tree_leaves

import zoo
from zoo.errors import BadSize
from zoo.registry import installed
from zoo.spec import Size
from zoo.testing import ModelTrial

MODELS = zoo.list_models()
NANO = [name for name in MODELS if name.endswith("_nano")]


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward_on_meta_at_legal_sizes(name):
    spec = installed().model(name)
    if spec.data_dependent:
        pytest.skip(spec.data_dependent)
    for size in some(legal_sizes(spec)):
        run(spec, size)


@pytest.mark.parametrize("name", NANO)
def test_the_smallest_of_each_family_runs_for_real_at_five_sizes_and_in_bfloat16(name):
    spec = installed().model(name)
    trial = ModelTrial(spec)
    sizes = trial.sizes
    more = [Size((sizes[-1].values[-1] + i * spec.sizes.step(spec.knobs),), sizes[0].unit) for i in (1, 2, 3)]
    chosen = [*sizes, *more][:5]
    assert len(set(chosen)) == 5
    with torch.no_grad():
        for size in chosen:
            spec.sizes.check(size, spec.knobs)
            output = trial.call(trial.build(size), trial.inputs(size, 1))
            assert all(leaf.isfinite().all() for leaf in tree_leaves(output))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = trial.call(trial.small, trial.inputs(sizes[0], 1))
        assert all(leaf.isfinite().all() for leaf in tree_leaves(output))


@pytest.mark.parametrize("name", MODELS)
def test_an_illegal_size_is_refused_with_the_nearest_legal_ones(name):
    spec = installed().model(name)
    step, highest = spec.sizes.step(spec.knobs), spec.sizes.highest(spec.knobs)
    illegal = spec.size().values[0] + 1 if step > 1 else highest + 1 if highest else spec.sizes.min - 1
    if illegal < 1:
        pytest.skip("every size is legal")
    with pytest.raises(BadSize, match="nearest legal size: "):
        zoo.create_model(name, illegal)
