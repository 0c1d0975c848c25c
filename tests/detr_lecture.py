"""The small DETR that the lectures print: a ResNet-50, torch's own Transformer, learned row and column positions."""

import torch
from torch import nn
from torchvision.models import resnet50

from zoo import InputSpec, ModelSpec, SizeRule, hookimpl

CELLS = 50  # rows and columns of features that have a position: 1,600 pixels


class LectureDETR(nn.Module):
    def __init__(self, num_classes, queries, width, heads, layers):
        super().__init__()
        self.trunk = nn.Sequential(*list(resnet50(weights=None).children())[:-2])  # without pooling and classifier
        self.project = nn.Conv2d(2048, width, 1)
        self.transformer = nn.Transformer(width, heads, layers, layers, batch_first=True)
        self.rows = nn.Parameter(torch.rand(CELLS, width // 2))
        self.columns = nn.Parameter(torch.rand(CELLS, width // 2))
        self.queries = nn.Parameter(torch.rand(queries, width))
        self.classes, self.box = nn.Linear(width, num_classes + 1), nn.Linear(width, 4)

    def forward(self, images):  # (B, 3, H, W)
        x = self.project(self.trunk(images))  # (B, d, h, w)
        h, w = x.shape[-2:]
        columns = self.columns[None, :w].expand(h, -1, -1)
        rows = self.rows[:h, None].expand(-1, w, -1)
        positions = torch.cat([columns, rows], dim=-1).flatten(0, 1)  # (h w, d)
        queries = self.queries.expand(len(x), -1, -1)  # (B, queries, d)
        found = self.transformer(x.flatten(2).transpose(1, 2) + positions, queries)
        return {"logits": self.classes(found), "boxes": self.box(found).sigmoid()}


def build(size, num_classes=91, queries=100, width=256, heads=8, layers=6):
    return LectureDETR(num_classes, queries, width, heads, layers)


@hookimpl
def zoo_models():
    yield ModelSpec(
        "detr_lecture",
        build=build,
        input=InputSpec("image", "resolution"),
        sizes=SizeRule("800x1200px", min=32, max=32 * CELLS),
        output={"logits": "batch queries num_classes+1", "boxes": "batch queries 4"},
        paper="https://arxiv.org/abs/2005.12872",
    )
