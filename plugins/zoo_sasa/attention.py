"""The two attentions of SASA: over the neighbourhood of each pixel, and inside blocks of 4 x 4 pixels for the stem."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo import ZooError
from zoo_sasa.local import local_attention
from zoo_sasa.macs import EMBEDDING

KERNELS = (3, 5, 7, 9, 11)
STEM_HEADS = 4
STEM_BLOCK = 4


# -- the neighbourhood ---------------------------------------------------------------------------------------


class LocalAttention(nn.Module):
    """Stand-alone self-attention (paper, Section 2.2): (B, d, H, W) -> (B, d, H, W), each head d / heads channels.

    ``rel_h`` and ``rel_w`` (heads, k, d / heads / 2) embed row and column offsets, from -(k // 2) to k // 2; the
    embedding of an offset is the two behind one another. Without ``content`` there are no keys: only q . r is left.
    Beyond the border lie zeros, which share in the softmax, or nothing where ``borders`` is ``"masked"``.
    """

    def __init__(
        self, width: int, kernel_size: int = 7, heads: int = 8, content: bool = True, borders: str = "zero"
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        check_neighbourhood(kernel_size, borders)
        self.masked = borders == "masked"
        self.q = nn.Conv2d(width, width, 1, bias=False)
        self.k = nn.Conv2d(width, width, 1, bias=False) if content else None
        self.v = nn.Conv2d(width, width, 1, bias=False)
        self.rel_h = nn.Parameter(torch.empty(heads, kernel_size, width // heads // 2))
        self.rel_w = nn.Parameter(torch.empty(heads, kernel_size, width // heads // 2))
        init_projections(self.q, self.k, self.v, heads=heads)
        init_embeddings(self.rel_h, self.rel_w)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of a map (B, d, H, W)."""
        q, v = self.q(x), self.v(x)
        k = None if self.k is None else self.k(x)
        mixed: Tensor = local_attention(q, k, v, self.rel_h.to(q.dtype), self.rel_w.to(q.dtype), self.masked)
        return mixed


def check_neighbourhood(kernel_size: int, borders: str) -> None:
    """Raise ZooError unless the neighbourhood has a size and borders that there are."""
    if kernel_size not in KERNELS:
        raise ZooError(f"kernel_size is {kernel_size!r}; expected one of {', '.join(map(str, KERNELS))}")
    if borders not in ("zero", "masked"):
        raise ZooError(f"borders is {borders!r}; expected zero or masked")


def check_heads(width: int, heads: int) -> None:
    """Raise ZooError unless every head gets an even number of channels, half for rows and half for columns."""
    if heads < 1 or width % (2 * heads):
        raise ZooError(f"a width of {width} cannot be split into {heads} heads of an even number of channels")


def check_mixtures(mixtures: int) -> None:
    """Raise ZooError unless the stem has a mixture."""
    if mixtures < 1:
        raise ZooError(f"mixtures is {mixtures}; expected at least 1")


def init_projections(q: nn.Conv2d, *others: nn.Conv2d | None, heads: int) -> None:
    """Draw k and v as He et al. do, and q smaller, so that scores start with a variance of about 1.

    The paper has no 1 / sqrt(d_head) in its formula and gives no initialisation; here it is in the weights of q.
    """
    for projection in (q, *others):
        if projection is not None:
            nn.init.normal_(projection.weight, std=math.sqrt(2 / projection.in_channels))
    with torch.no_grad():
        q.weight.mul_((q.out_channels // heads) ** -0.5)


def init_embeddings(*embeddings: Tensor) -> None:
    """Draw embeddings from N(0, 1): with queries of variance 1 / d_head, q . r starts like q . k."""
    for embedding in embeddings:
        nn.init.normal_(embedding)


# -- the stem ------------------------------------------------------------------------------------------------


class BlockAttention(nn.Module):
    """Attention of the stem (paper, Section 3.2 and appendix): inside each block of 4 x 4 pixels, with 4 heads.

    A value is a mixture of ``mixtures`` projections of its pixel, with weights p(a, b, m) that depend on the place
    (a, b) in the block: the softmax over m of (row_a + column_b) . nu_m.
    """

    def __init__(self, width: int, mixtures: int) -> None:
        super().__init__()
        check_heads(width, STEM_HEADS)
        check_mixtures(mixtures)
        self.q = nn.Conv2d(3, width, 1, bias=False)
        self.k = nn.Conv2d(3, width, 1, bias=False)
        self.v = nn.Conv2d(3, mixtures * width, 1, bias=False)
        half, span = width // STEM_HEADS // 2, 2 * STEM_BLOCK - 1
        self.rel_h = nn.Parameter(torch.empty(STEM_HEADS, span, half))
        self.rel_w = nn.Parameter(torch.empty(STEM_HEADS, span, half))
        init_projections(self.q, self.k, self.v, heads=STEM_HEADS)
        init_embeddings(self.rel_h, self.rel_w)
        self.mixtures = mixtures
        if mixtures > 1:
            self.row = nn.Parameter(torch.empty(STEM_BLOCK, EMBEDDING))
            self.column = nn.Parameter(torch.empty(STEM_BLOCK, EMBEDDING))
            self.nu = nn.Parameter(torch.empty(mixtures, EMBEDDING))
            init_embeddings(self.row, self.column)
            nn.init.normal_(self.nu, std=EMBEDDING**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Mix the pixels of each block of images (B, 3, H, W): (B, width, H, W)."""
        q, k = blocks(self.q(images), STEM_HEADS), blocks(self.k(images), STEM_HEADS)  # (heads, 16, n, d)
        v = self.mix(blocks(self.v(images), STEM_HEADS * self.mixtures))
        r = self.embeddings().to(q.dtype)  # (heads, 16, 16, d)
        by_block = (0, 2, 1, 3)  # (heads, n, 16, ...)
        scores = q.permute(by_block) @ k.permute(0, 2, 3, 1) + (q @ r.transpose(2, 3)).permute(by_block)
        mixed = scores.softmax(-1).to(v.dtype) @ v.permute(by_block)
        return unblock(mixed.permute(by_block), images.shape)

    def mix(self, values: Tensor) -> Tensor:
        """Mix the projections (m heads, 16, n, d) by their weights at each place: (heads, 16, n, d)."""
        if self.mixtures == 1:
            return values
        places, n, d = values.shape[1:]
        each = values.view(self.mixtures, STEM_HEADS, places, n, d).permute(2, 1, 3, 4, 0)
        weights = self.weights().to(values.dtype)  # (16, m)
        mixed = torch.bmm(each.reshape(places, -1, self.mixtures), weights[..., None])
        return mixed.view(places, STEM_HEADS, n, d).transpose(0, 1)

    def weights(self) -> Tensor:
        """Return p(a, b, m): (16, m)."""
        place = (self.row[:, None] + self.column).flatten(0, 1)  # (16, e)
        # The same for all images, so in no count of one: addcmul is pointwise, a product that is summed would count.
        each = torch.addcmul(place.new_zeros(()), place[:, None], self.nu)
        return (each.mean(-1) * EMBEDDING).softmax(-1)

    def embeddings(self) -> Tensor:
        """Return the embedding of the offset from each place to each other one: (heads, 16, 16, d)."""
        at = torch.arange(STEM_BLOCK, device=self.rel_h.device)
        offset = at - at[:, None] + STEM_BLOCK - 1  # (query, key)
        rows = self.rel_h[:, offset][:, :, None, :, None]  # (heads, 4, 1, 4, 1, d / 2)
        columns = self.rel_w[:, offset][:, None, :, None]  # (heads, 1, 4, 1, 4, d / 2)
        both = [t.expand(-1, *[STEM_BLOCK] * 4, -1) for t in (rows, columns)]
        return torch.cat(both, -1).flatten(3, 4).flatten(1, 2)


def blocks(x: Tensor, heads: int) -> Tensor:
    """Cut (B, heads d, H, W) into blocks of 4 x 4 places: (heads, 16, n, d) with n = B H W / 16."""
    batch, _, height, width = x.shape
    s = STEM_BLOCK
    cut = x.view(batch, heads, -1, height // s, s, width // s, s).permute(1, 4, 6, 0, 3, 5, 2)
    return cut.reshape(heads, s * s, -1, cut.shape[-1])


def unblock(x: Tensor, shape: torch.Size) -> Tensor:
    """Undo :func:`blocks` for a map as large as ``shape`` (B, ..., H, W)."""
    batch, _, height, width = shape
    s = STEM_BLOCK
    cut = x.reshape(x.shape[0], s, s, batch, height // s, width // s, -1).permute(3, 0, 6, 4, 1, 5, 2)
    return cut.reshape(batch, -1, height, width)


# -- the layer by name ---------------------------------------------------------------------------------------


class TokenMixer(nn.Module):
    """Local attention among tokens (B, N, C) that lie on a grid in row-major order."""

    def __init__(self, grid: tuple[int, int], width: int, kernel_size: int, heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.attention = LocalAttention(width, kernel_size, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, N, C)."""
        mixed: Tensor = self.attention(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *self.grid))
        return mixed.flatten(2).transpose(1, 2)


def build(size: tuple[int, int], width: int, kernel_size: int, heads: int) -> nn.Module:
    """Return the layer for a grid of tokens, (H, W)."""
    return TokenMixer(size, width, kernel_size, heads)
