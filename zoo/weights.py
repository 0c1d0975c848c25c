"""Checkpoints in: read a file safely, tell its layout, convert it to a model's names, and say what does not fit."""

from __future__ import annotations

import argparse
import fnmatch
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadWeights
from zoo.spec import Scalar, WeightSpec, resolve
from zoo.task import TIMM

FORMATS = {
    ".pth": "torch",
    ".pt": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".safetensors": "safetensors",
    ".npz": "npz",
}
# Under these keys training scripts keep the parameters, beside an optimiser and arguments that are of no use here.
CONTAINERS = ("model", "state_dict", "model_state_dict")
MOST_CONTAINERS = 3
# An npz that would grow more than this when it is read is no checkpoint: weights hardly compress.
MOST_INFLATION = 50
SHOWN = 6
COUNTER = ".num_batches_tracked"  # of a batch norm's steps, which older files and other layouts do without
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    MemoryError,
    zipfile.BadZipFile,
)


def load_weights(model: nn.Module, file: str | Path, layouts: Iterable[WeightSpec] = ()) -> WeightSpec | None:
    """Load a checkpoint into ``model`` and return the layout it was in, None where the names are the model's own.

    BadWeights when the file cannot be read, or names the keys that are missing or left over and the shapes that differ.
    The model is then as it was.
    """
    path = Path(file)
    return load_tensors(model, read_tensors(path), layouts, str(path))


def load_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], layouts: Iterable[WeightSpec], source: str
) -> WeightSpec | None:
    """Load named tensors as :func:`load_weights` does; ``source`` is what errors call them."""
    layout = recognise(tensors, layouts)
    if layout and layout.convert:
        try:
            converted = resolve(str(layout.convert))(dict(tensors), model)
        except BadWeights as error:
            raise BadWeights(f"{source}: {error}") from None
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadWeights(
                f"{source}: it looks like the layout {layout.id}, but cannot be converted: {reason}"
            ) from None
    else:
        converted = dict(tensors)
    told = f"{source} (layout {layout.id})" if layout else source
    check_fit(model, converted, told, layouts)
    model.load_state_dict(converted, strict=False)  # all that may be left out now are counters
    return layout


def load_published(model: nn.Module, given: str, layouts: Iterable[WeightSpec]) -> Mapping[str, Scalar]:
    """Load a checkpoint, or ``timm/NAME`` from timm's hub, and return how its inputs are prepared, as far as is known.

    BadWeights as :func:`load_weights`, and where timm cannot download: then it says what to get instead.
    """
    if not given.startswith(TIMM):
        layout = load_weights(model, given, layouts)
        return layout.preprocess if layout else {}
    tensors, preprocess = read_timm(given.removeprefix(TIMM))
    load_tensors(model, tensors, layouts, given)
    return preprocess


def read_timm(name: str) -> tuple[dict[str, Tensor], dict[str, Scalar]]:
    """Return the weights that timm publishes under a name, and how their images are prepared."""
    import timm

    found = timm.models.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise BadWeights(f"timm publishes no weights called {name}")
    try:
        tensors = timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        where = f"model.safetensors of {found.hf_hub_id} on the Hugging Face Hub" if found.hf_hub_id else found.url
        why = " ".join(str(error).split())[:100]
        raise BadWeights(
            f"timm's weights {name} cannot be downloaded ({why}); get {where} and give its path instead"
        ) from None
    mean, std = (" ".join(map(str, values)) for values in (found.mean, found.std))
    return tensors, {"mean": mean, "std": std, "crop_pct": found.crop_pct, "interpolation": found.interpolation}


def recognise(tensors: Mapping[str, Tensor], layouts: Iterable[WeightSpec]) -> WeightSpec | None:
    """Return the first layout whose key the file has."""
    for layout in layouts:
        if any(fnmatch.fnmatchcase(name, layout.key) for name in tensors):
            return layout
    return None


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], told: str, layouts: Iterable[WeightSpec]) -> None:
    """Raise BadWeights unless the tensors are the model's, all but counters of steps, and in their shapes."""
    wanted = {name: t for name, t in model.state_dict().items() if name in tensors or not name.endswith(COUNTER)}
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} is {shape_of(tensors[name])}, expected {shape_of(tensor)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    kinds = [
        f"{name} is {str(tensors[name].dtype).removeprefix('torch.')}"
        for name, tensor in wanted.items()
        if name in tensors and not is_like(tensors[name], tensor)
    ]
    faults = [
        f"{len(found)} {what}: {', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''}"
        for what, found in (
            ("missing", missing),
            ("not known", extra),
            ("of another shape", shapes),
            ("of another kind", kinds),
        )
        if found
    ]
    if faults:
        known = ", ".join(layout.id for layout in layouts)
        expected = f"; layouts that this model reads: {known}" if known and len(missing) == len(wanted) else ""
        raise BadWeights(f"{told} does not fit the model: {'; '.join(faults)}{expected}")


def is_like(found: Tensor, wanted: Tensor) -> bool:
    """Tell whether a tensor holds values, of the kind that the model has: floating point or not."""
    plain = found.layout == torch.strided and (wanted.is_meta or not found.is_meta) and not found.is_complex()
    return plain and found.is_floating_point() == wanted.is_floating_point()


def shape_of(tensor: Tensor) -> str:
    """Write a shape as ``192x3x16x16``."""
    return "x".join(map(str, tensor.shape)) or "a number"


# -- files ---------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file, without running any code in it. BadWeights says why it cannot be read."""
    if not path.is_file():
        raise BadWeights(f"{path}: there is no such file; expected a checkpoint that ends in {', '.join(FORMATS)}")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise BadWeights(f"{path}: not a known kind of checkpoint; expected one that ends in {', '.join(FORMATS)}")
    readers = {"torch": read_torch, "safetensors": read_safetensors, "npz": read_npz}
    try:
        found = unwrap(readers[kind](path))
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}") from None
    except pickle.UnpicklingError:
        raise BadWeights(
            f"{path}: it holds more than tensors and plain data, and is not loaded, as it could run code"
        ) from None
    except UNREADABLE as error:
        raise BadWeights(f"{path}: it cannot be read as {kind}: {' '.join(str(error).split())[:200]}") from None
    if not found:
        raise BadWeights(f"{path}: it holds no tensors")
    return found


def read_torch(path: Path) -> Any:
    """Read a file of ``torch.save``: tensors and plain data, and the arguments that DETR's files hold beside them."""
    with path.open("rb") as file:
        if file.read(2)[:1] not in (b"P", b"\x80"):  # a zip archive, or a pickle
            raise ValueError("it is no file of torch.save; a download that failed?")
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on pickle protocols that torch itself would not have written
        return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path: Path) -> Any:
    """Read a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(error) from None


def read_npz(path: Path) -> Any:
    """Read the arrays of an npz file; pickled ones are refused."""
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_INFLATION * path.stat().st_size:
            raise ValueError(f"it would grow more than {MOST_INFLATION} times when it is read")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array_of(arrays[name])) for name in arrays.files}


def array_of(array: Any) -> Any:
    """Return an array as torch can take it: bfloat16, which numpy keeps as two raw bytes, becomes float32."""
    import numpy as np

    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array


def unwrap(found: Any) -> dict[str, Tensor]:
    """Return the mapping of names to tensors inside the containers that training scripts use."""
    for _ in range(MOST_CONTAINERS):
        if not isinstance(found, Mapping):
            break
        inner = next((found[key] for key in CONTAINERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping):
        raise BadWeights(f"expected a mapping of names to tensors, not {type(found).__name__}")
    odd = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if odd:
        raise BadWeights(f"expected tensors only, also found {', '.join(odd[:SHOWN])}")
    return {str(name): value for name, value in found.items()}
