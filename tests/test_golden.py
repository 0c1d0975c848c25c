"""The numbers that papers and recounts agree on, from our own counter on the meta device."""

import pytest
import torch

import zoo
from zoo.metrics import macs, params

# (model, size): parameters exact, MACs of one sample in G to the digits that recounts print.
GOLDEN = {
    ("vit_s16", 224): (22_050_664, 4.599),
    ("vit_b16", 224): (86_567_656, 17.564),
    ("vit_b16", 384): (86_859_496, 55.484),
    ("vit_l16", 224): (304_326_632, 61.555),
    ("vit_h14", 224): (632_045_800, 167.295),
    ("mixer_s16", 256): (18_774_504, 4.933),
    ("mixer_b16", 224): (59_880_472, 12.602),
    ("resnet50", 224): (25_557_032, 4.089),
    ("resnet152", 224): (60_192_808, 11.514),
    ("fnet_base", 512): (82_861_056, 29.294),
    ("fnet_large", 512): (236_945_408, 103.617),
}


@pytest.mark.parametrize(("name", "size"), GOLDEN)
def test_parameters_are_exact_and_macs_agree(name, size):
    with torch.device("meta"):
        model = zoo.create_model(name, size).eval()
        inputs = torch.empty(1, size, dtype=torch.long) if name.startswith("fnet") else torch.empty(1, 3, size, size)
    counted = macs.count(model, (inputs,))
    expected_params, expected_gmacs = GOLDEN[name, size]
    assert params.count(model).total == expected_params
    assert round(counted.macs / 1e9, 3) == expected_gmacs
    assert not [op for op in counted.uncounted if op.material]


def test_fourier_term_of_fnet_is_apart_from_its_macs():
    with torch.device("meta"):
        model = zoo.create_model("fnet_base").eval()
        counted = macs.count(model, (torch.empty(1, 512, dtype=torch.long),))
    # 12 layers of 5 n log2 n, with n = 512 x 768 points transformed over both axes.
    n, log2_n = 512 * 768, 9 + 9.584962500721156
    assert counted.flops_fft == pytest.approx(12 * 5 * n * log2_n, abs=12)  # each layer is rounded
