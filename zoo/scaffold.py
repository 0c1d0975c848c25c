"""``zoo new``: a plugin to start from, that installs, passes ``zoo check`` and runs in a suite unchanged."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from zoo import __version__
from zoo.errors import ZooError

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "The architecture $name as a plugin of attention-zoo."
requires-python = ">=3.11"
dependencies = ["attention-zoo>=$version"]

[project.entry-points.zoo]
$package = "$package"

[tool.hatch.build.targets.wheel]
packages = ["$package"]
"""

README = """\
# $distribution

The architecture `$name` as a plugin of attention-zoo.

```console
$$ pip install -e .
$$ zoo check $name
$$ zoo run lecture --models $name
$$ pytest
```

`$package/__init__.py` registers the model and says what it is; `model.py` is the model; `macs.py` works out its
multiply-accumulates by hand, and `zoo check` holds them against the count.
"""

INIT = '''\
"""What this plugin registers. Imported by `zoo list`, so it holds plain records and imports no torch."""

from zoo import ModelSpec, hookimpl, image_classifier


def tokens(size, patch_size, **options):
    """Return how many tokens an image becomes: its patches."""
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch_size) * (width // patch_size)


@hookimpl
def zoo_models():
    """Yield the models of this plugin. Each option is also an axis that a suite can sweep."""
    yield ModelSpec(
        "$name",
        build="$package.model:build",
        closed_form="$package.macs:closed_form",
        options={"num_classes": 10, "patch_size": 4, "width": 64, "depth": 4, "kernel_size": 5},
        **image_classifier(default=32, multiple_of="patch_size", tokens=tokens),
    )
'''

MODEL = '''\
"""$title: patches, mixed by depthwise convolutions, read by a linear layer. Replace it by yours.

image (B, 3, H, W)
  -> patches, a convolution of kernel and stride P            (B, d, H/P, W/P)
  -> depth x {x + depthwise(norm(x)); x + MLP(norm(x))}       (B, d, H/P, W/P)
  -> norm, mean over the places, linear                       (B, num_classes)
"""

from torch import Tensor, nn


class Block(nn.Module):
    """Mix the places of each channel, then the channels of each place."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, width)
        self.mix = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm2 = nn.GroupNorm(1, width)
        self.mlp = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Take and return (B, d, h, w)."""
        x = x + self.mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def build(
    size: int | tuple[int, int], num_classes: int, patch_size: int, width: int, depth: int, kernel_size: int
) -> nn.Module:
    """Return the model for images of ``size``. It has no parameter that depends on the size."""
    return nn.Sequential(
        nn.Conv2d(3, width, patch_size, patch_size),
        *(Block(width, kernel_size) for _ in range(depth)),
        nn.GroupNorm(1, width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )
'''

MACS = '''\
"""The multiply-accumulates of one image, worked out by hand."""

from $package import tokens


def closed_form(size, num_classes, patch_size, width, depth, kernel_size):
    """Return the MACs: patches, depthwise convolutions, MLPs, classifier."""
    n, d = tokens(size, patch_size), width
    patches = n * d * 3 * patch_size**2
    mix = n * d * kernel_size**2
    mlp = 2 * n * d * 4 * d
    return patches + depth * (mix + mlp) + d * num_classes
'''

TESTS = """\
from zoo.testing import assert_conforms


def test_${name}_conforms():
    assert_conforms("$name")
"""

FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "$package/__init__.py": INIT,
    "$package/model.py": MODEL,
    "$package/macs.py": MACS,
    "tests/test_$name.py": TESTS,
}


def write(name: str, folder: Path) -> Path:
    """Write a plugin with one model called ``name`` into a new folder below ``folder``, and return it.

    ZooError when the name cannot be a Python module's, is registered already, or the folder exists.
    """
    from zoo.registry import installed

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ZooError(f"{name!r} cannot name a plugin; expected small letters, digits and _, such as my_arch")
    registry = installed()
    if name in registry.models:
        raise ZooError(
            f"there is already a model {name!r}, of {registry.owners['model', name].owner}; choose another name"
        )
    package = f"zoo_{name}"
    if any(package == plugin.module for plugin in registry.plugins):
        raise ZooError(f"there is already a plugin {package}; choose another name")
    distribution = package.replace("_", "-")
    target = folder / distribution
    if target.exists():
        raise ZooError(f"{target} exists; nothing was written")
    words = {
        "name": name,
        "package": package,
        "distribution": distribution,
        "title": name.replace("_", " ").capitalize(),
        "version": __version__,
    }
    for path, text in FILES.items():
        file = target / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words))
    return target
