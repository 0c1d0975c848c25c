"""What tests of a real GPU have in common: ``pytest -m gpu`` runs them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

# Libraries warn of what they do on a GPU, and of other things on other GPUs.
MARKS = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("default"),
)
CUDA = pytest.param("cuda", marks=MARKS)


def on_gpu(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that needs a GPU."""
    for mark in MARKS:
        test = mark(test)
    return test
