"""SASA (Ramachandran et al. 2019): a ResNet whose 3x3 convolutions are attention over the neighbourhood of each pixel.

Written from the paper: its authors have not published their code. Parameters are named as in torchvision's ResNet; an
attention has ``conv2.{q,k,v}.weight``, ``conv2.rel_h`` and ``conv2.rel_w`` in the place of ``conv2.weight``.

    image (B, 3, H, W)
      -> stem: attention in blocks of 4x4, norm, ReLU, 4x4 max-pool          (B, 64, H/4, W/4)
         or 7x7 convolution of stride 2, norm, ReLU, 3x3 max-pool of stride 2
      -> four groups of bottlenecks with 64, 128, 256, 512 planes            (B, 2048, H/32, W/32)
         1x1 convolution, attention (then 2x2 mean where the group halves), 1x1 convolution, each with norm and ReLU
      -> mean over the positions, linear                                     (B, num_classes)

Where the paper leaves open, or contradicts itself, what is done:

1. Queries, keys and values are dense projections, d to d. The text splits them by head (Section 2.2), which gives
   14.7 M parameters for 50 layers; its tables, 18.0 M, need dense ones.
2. Attention runs before the mean that halves a map: after it, there would be 6.1 instead of 7.0 GFLOPs.
3. Each head has its own embeddings of offsets, half of its channels for rows and half for columns.
4. Pixels beyond the border are zeros and share in the softmax, with scores q . r; ``borders="masked"`` leaves them out.
5. Queries have no 1 / sqrt(d_head), as in the paper; their weights start smaller by it. Embeddings start as N(0, 1).
6. The stem mixes 4 projections, which the paper does not print: they, applied to each pixel and then mixed, give the
   FLOPs of its tables. Its embeddings have 16 dimensions. ``mixtures=1`` is its plain stand-alone stem. The ReLU
   between norm and max-pool is the ResNet's; the paper names norm and pool only.
7. The last norm of a block does not start at zero, as in torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo_sasa.attention import BlockAttention, LocalAttention, check_mixtures, check_neighbourhood
from zoo_sasa.macs import EXPANSION, read_groups, read_stem, walk


class Bottleneck(nn.Module):
    """1x1, spatial, 1x1, added to the shortcut: (B, channels, H, W) -> (B, 4 planes, H / stride, W / stride)."""

    def __init__(self, channels: int, planes: int, spatial: nn.Module, stride: int) -> None:
        super().__init__()
        out = EXPANSION * planes
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = spatial
        # Section 3.1: attention sees the whole map, and the mean follows it; a convolution strides.
        self.pool = nn.AvgPool2d(2) if stride == 2 and isinstance(spatial, LocalAttention) else nn.Identity()
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride == 2 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.pool(self.conv2(x))))
        mixed: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return mixed


class SASA(nn.Module):
    """The ResNet: stem, four groups, classifier."""

    def __init__(self, stem: nn.Module, groups: list[nn.Sequential], width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(4) if isinstance(stem, BlockAttention) else nn.MaxPool2d(3, 2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * EXPANSION * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, 3, H, W): logits (B, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, 64, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 2048, H/32, W/32)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def init_convolutions(module: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. do, by fan-out; attentions have drawn theirs already."""
    for child in module.children():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
        elif not isinstance(child, LocalAttention | BlockAttention):
            init_convolutions(child)


# -- built by name -------------------------------------------------------------------------------------------


def build(
    size: int | tuple[int, int],
    num_classes: int,
    stages: str,
    stem: str,
    groups: str,
    kernel_size: int,
    heads: int,
    content: bool,
    borders: str,
    mixtures: int,
    width: int,
) -> nn.Module:
    """Return a SASA ResNet; ``size`` changes nothing in it. ZooError for an option that it cannot have.

    ``groups`` says which have attention and which 3x3 convolutions: ``"cccc"``, with the convolutional stem, is the
    ResNet of the paper's baselines. Options of attention and of its stem mean nothing where there are none.
    """
    check_neighbourhood(kernel_size, borders)
    check_mixtures(mixtures)

    def spatial(kind: str, planes: int, stride: int) -> nn.Module:
        if kind == "c":
            return nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        return LocalAttention(planes, kernel_size, heads, content, borders)

    kinds, channels = read_groups(groups), width
    layers: list[list[Bottleneck]] = [[] for _ in kinds]
    for group, planes, stride in walk(stages, width):
        layers[group].append(Bottleneck(channels, planes, spatial(kinds[group], planes, stride), stride))
        channels = EXPANSION * planes
    model = SASA(build_stem(stem, width, mixtures), [nn.Sequential(*blocks) for blocks in layers], width, num_classes)
    init_convolutions(model)
    return model


def build_stem(stem: str, width: int, mixtures: int) -> nn.Module:
    """Return the first layer of a stem. ZooError when there is none of that name."""
    if read_stem(stem) == "attention":
        return BlockAttention(width, mixtures)
    return nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
