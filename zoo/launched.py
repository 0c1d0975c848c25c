"""Train the cases of a suite in several processes, launched by torch: one model, its batches shared out (DDP).

    torchrun --nproc-per-node 2 -m zoo.launched accuracy --models vit_nano
    zoo run accuracy --models vit_nano

The first command trains and leaves what was trained where the second looks for it, which tests and records it.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch
from torch import distributed

from zoo import environment
from zoo.cli import split
from zoo.expansion import Planned
from zoo.plan import Prints
from zoo.registry import Registry, use
from zoo.runner import Request, open_store, prepare
from zoo.trained import Exam
from zoo.worker import apply_settings


@click.command()
@click.argument("suite")
@click.option("--models", default="", metavar="A,B", help="Only these models.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Train on this device.")
@click.option("--data", multiple=True, metavar="FOLDER", help="Where tasks look for their data.")
@click.option("--out", default="runs", show_default=True, help="Where zoo run keeps its records.")
def main(suite: str, models: str, device: str | None, data: tuple[str, ...], out: str) -> None:
    """Train the cases of SUITE that have a task. It is for torchrun, which starts it several times."""
    if "WORLD_SIZE" not in os.environ:
        raise click.UsageError("this is for torchrun, as in torchrun --nproc-per-node 2 -m zoo.launched SUITE")
    axes = {"device": [device]} if device else {}
    file, registry, items = prepare(Request(suite, models=split(models), axes=axes, data=data))  # type: ignore[arg-type]
    use(registry)
    store = open_store(file, items, Path(out))
    prints = Prints(registry, store.machine)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        seen: set[str] = set()
        for item in items:
            name = prints.training(item) if item.assignment and not item.illegal else ""
            if name and name not in seen:
                seen.add(name)
                train(registry, item, store.checkpoints / name)
    finally:
        distributed.destroy_process_group()


def train(registry: Registry, item: Planned, checkpoint: Path) -> None:
    """Train one case, all processes together."""
    assert item.assignment is not None
    case, spec, first = item.case, registry.model(item.case.model), distributed.get_rank() == 0
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if case.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    apply_settings()
    torch.set_num_threads(max(1, environment.usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

    exam = Exam(
        spec,
        case,
        item.assignment,
        device,
        getattr(torch, case.dtype),
        checkpoint,
        progress=lambda text: click.echo(f"{case.model}: {text}", err=True) if first else None,
    )
    _, detail = exam.learned(0.0)
    if first:
        click.echo(f"{case.id}: {detail['steps']} steps in {detail['seconds']:.0f} s")


if __name__ == "__main__":
    main()
