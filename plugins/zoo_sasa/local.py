"""Local attention over the k x k neighbourhood of each pixel, as one operator: ``torch.ops.zoo_sasa.local_attention``.

    y_p = sum over o of softmax_o(q_p . k_{p+o} + q_p . r_o) v_{p+o},   o = (a, b) in [-k/2, k/2]^2

The formula wants k^2 keys and values for each query; copied side by side (unfold) they take k^2 times the memory of
the map, and moving them takes all the time. Here nothing is copied k^2 times:

1. The map is cut into blocks of about 8 columns, each with a halo of k // 2 columns and rows on every side.
2. A row of a block (w queries) meets its k rows of neighbours (w + k - 1 keys each) in one matrix product. What counts
   of it are k diagonals for each row of neighbours, which a strided view reads, and writes, in place.
3. q . r_o splits into row and column parts, k products each instead of k^2.
4. Heads and images are taken in chunks that stay in the cache, so scratch memory does not grow with the batch. The
   backward pass goes over the same chunks, and computes the attention weights again instead of keeping them.

Everything is computed in float32 (float64 stays), whatever autocast says, and given back in the dtype of the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # queries in a row of a block: with more of them halos take less, and products off the band more
CPU_CHUNK = 2**20  # elements of a chunk's products: on a CPU they stay in the cache
CHUNK = 2**26


# -- the operator --------------------------------------------------------------------------------------------


@torch.library.custom_op("zoo_sasa::local_attention", mutates_args=())
def local_attention(q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool) -> Tensor:
    """Attend from each pixel to its neighbourhood: q, k, v (B, C, H, W) -> (B, C, H, W).

    ``rel_h`` and ``rel_w`` (heads, K, C / heads / 2) are the embeddings of row and column offsets, from -(K // 2) up.
    Without ``k`` attention goes by position alone (q . r). Beyond the border keys and values are zero, and share in the
    softmax; with ``masked`` they do not.
    """
    with _full_precision(q):
        return forward(q, k, v, rel_h, rel_w, masked)


@torch.library.custom_op("zoo_sasa::local_attention_backward", mutates_args=())
def local_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k (empty without k), v, rel_h and rel_w from that of the result."""
    with _full_precision(q):
        return backward(grad, q, k, v, rel_h, rel_w, masked)


@local_attention.register_fake
def _(q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool) -> Tensor:
    return q.new_empty(q.shape)


@local_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_k = q.new_empty(0) if k is None else k.new_empty(k.shape)
    return (
        q.new_empty(q.shape),
        grad_k,
        v.new_empty(v.shape),
        rel_h.new_empty(rel_h.shape),
        rel_w.new_empty(rel_w.shape),
    )


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    *tensors, ctx.masked = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors)  # type: ignore[arg-type]


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, rel_h, rel_w = ctx.saved_tensors  # type: ignore[attr-defined]
    gradients = local_attention_backward(grad, q, k, v, rel_h, rel_w, ctx.masked)  # type: ignore[attr-defined]
    return gradients[0], None if k is None else gradients[1], *gradients[2:], None


local_attention.register_autograd(_differentiate, setup_context=_save)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Turn autocast off, where the device has it."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


# -- geometry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """How maps (height, width) are cut: into ``count`` blocks of ``block`` columns, with ``pad`` more on both sides.

    A plane is one head of one image, (d, H, W). Of the M = m count blocks of m planes, queries are (M R, block, d) and
    halos (M R, block + 2 pad, d), with R = H + 2 pad rows a block. The k rows of neighbours of a row of queries are a
    run in the halos, and run over into the next block only for the rows that pad the queries.
    """

    height: int
    width: int
    kernel: int

    @property
    def pad(self) -> int:
        """How far the neighbourhood reaches."""
        return self.kernel // 2

    @property
    def rows(self) -> int:
        """Rows of a block with its halo."""
        return self.height + 2 * self.pad

    @property
    def count(self) -> int:
        """How many blocks lie side by side."""
        return -(-self.width // BLOCK)

    @property
    def block(self) -> int:
        """Columns of a block: the last one may stick out of the map."""
        return -(-self.width // self.count)

    @property
    def halo(self) -> int:
        """Columns of a block with its halo."""
        return self.block + 2 * self.pad

    @property
    def products(self) -> int:
        """Elements of the matrix products of one plane."""
        return self.count * self.rows * self.block * self.kernel * self.halo

    def queries(self, planes: Tensor) -> Tensor:
        """Lay out (m, d, H, W) as queries, (M R, block, d), with zeros in the rows that pad them."""
        m, d = planes.shape[:2]
        wide = F.pad(planes, (0, self.count * self.block - self.width, 0, 2 * self.pad))
        rows = wide.view(m, d, self.rows, self.count, self.block).permute(0, 3, 2, 4, 1)
        return rows.reshape(-1, self.block, d).contiguous()

    def inner(self, queries: Tensor) -> Tensor:
        """View queries without the rows that pad them, as (M, H, block, d)."""
        return queries.view(-1, self.rows, *queries.shape[1:])[:, : self.height]

    def planes(self, inner: Tensor) -> Tensor:
        """Put (M, H, block, d) back as planes, (m, d, H, W)."""
        rows = inner.reshape(-1, self.count, *inner.shape[1:]).permute(0, 4, 2, 1, 3)
        return rows.flatten(3)[..., : self.width]

    def halos(self, planes: Tensor) -> Tensor:
        """Lay out (m, d, H, W) as halos, (M R, halo, d), with zeros beyond the borders."""
        right = self.pad + self.count * self.block - self.width
        windows = F.pad(planes, (self.pad, right, self.pad, self.pad)).unfold(3, self.halo, self.block)
        rows = windows.permute(0, 3, 2, 4, 1)  # (m, count, R, halo, d)
        return rows.reshape(-1, self.halo, planes.shape[1]).contiguous()

    def fold(self, halos: Tensor) -> Tensor:
        """Add up the gradients of halos, where these overlap too: (m, d, H, W)."""
        rows = halos.view(-1, self.count, self.rows, self.halo, halos.shape[-1]).permute(1, 0, 4, 2, 3)
        wide = rows.new_zeros(*rows.shape[1:4], self.count * self.block + 2 * self.pad)
        for index, block in enumerate(rows):  # (m, d, R, halo)
            start = index * self.block
            wide[..., start : start + self.halo] += block
        return wide[:, :, self.pad : self.pad + self.height, self.pad : self.pad + self.width]

    def neighbours(self, halos: Tensor) -> Tensor:
        """View the k rows that each row of queries meets: (M R - 2 pad, K halo, d), each row in k views."""
        d = halos.shape[-1]
        return halos.as_strided(
            (len(halos) - 2 * self.pad, self.kernel * self.halo, d), (self.halo * d, d, 1), halos.storage_offset()
        )

    def band(self, products: Tensor) -> Tensor:
        """View what counts of products (M R, block, K halo), k diagonals for each of k rows: (M, H, block, K, K)."""
        row = self.kernel * self.halo
        shape = (len(products) // self.rows, self.height, self.block, self.kernel, self.kernel)
        return products.as_strided(shape, (self.rows * self.block * row, self.block * row, row + 1, self.halo, 1))

    def outside(self, like: Tensor) -> Tensor:
        """Return -inf for neighbours beyond the border and 0 for others: (count, H, block, K, K)."""
        at = torch.arange(-self.pad, self.pad + 1, device=like.device)
        y = torch.arange(self.height, device=like.device)[:, None] + at  # (H, K)
        x = torch.arange(self.count * self.block, device=like.device)[:, None] + at
        # Queries beyond the right border are dropped in the end: they must only stay finite.
        out_x = ((x < 0) | (x >= self.width)) & (x - at < self.width)
        out_y = ((y < 0) | (y >= self.height)).view(1, self.height, 1, self.kernel, 1)
        out = out_y | out_x.view(self.count, 1, self.block, 1, self.kernel)
        return torch.zeros_like(out, dtype=like.dtype).masked_fill_(out, float("-inf"))


# -- one chunk -----------------------------------------------------------------------------------------------


def multiply(queries: Tensor, halos: Tensor, blocks: Blocks, products: Tensor) -> Tensor:
    """Multiply queries by their neighbours into ``products``; return the band, (M, H, block, K, K)."""
    some = len(queries) - 2 * blocks.pad
    torch.bmm(queries[:some], blocks.neighbours(halos).transpose(1, 2), out=products[:some])
    return blocks.band(products)


def spread(band: Tensor, blocks: Blocks, products: Tensor) -> None:
    """Write a band (M, H, block, K, K) into products that are zero elsewhere."""
    products.zero_()
    blocks.band(products).copy_(band)


def gather(products: Tensor, halos: Tensor, blocks: Blocks) -> Tensor:
    """Sum neighbours by the weights in ``products``: (M, H, block, d)."""
    out = halos.new_empty(len(halos), blocks.block, halos.shape[-1])
    some = len(out) - 2 * blocks.pad
    torch.bmm(products[:some], blocks.neighbours(halos), out=out[:some])
    return blocks.inner(out)


def scatter(products: Tensor, queries: Tensor, blocks: Blocks) -> Tensor:
    """Do the transpose of :func:`gather`: give each neighbour its share of the queries, (m, d, H, W)."""
    halos = queries.new_zeros(len(queries), blocks.halo, queries.shape[-1])
    some = len(queries) - 2 * blocks.pad
    for a, of_row in enumerate(torch.split(products, blocks.halo, dim=-1)):
        halos[a : a + some].baddbmm_(of_row[:some].transpose(1, 2), queries[:some])
    return blocks.fold(halos)


def attention_weights(
    queries: Tensor, keys: Tensor | None, offsets: Tensor, outside: Tensor | None, blocks: Blocks, products: Tensor
) -> Tensor:
    """Return the softmax over the neighbourhood, (M, H, block, K, K).

    ``offsets`` (M, H, block, 2 K) are the products of the queries with the embeddings of rows, then of columns.
    """
    rows, columns = torch.split(offsets, blocks.kernel, dim=-1)
    scores = rows[..., :, None] + columns[..., None, :]
    if keys is not None:
        scores += multiply(queries, keys, blocks, products)
    if outside is not None:
        scores.view(-1, *outside.shape).add_(outside)
    return scores.flatten(3).softmax(-1).view_as(scores)


# -- all chunks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """The operator's arguments, taken apart into planes: one head of one image each, (B heads, d, H, W)."""

    q: Tensor
    k: Tensor | None
    v: Tensor
    table: Tensor  # (B heads, 2 K, d): embeddings of rows on the first half of d, of columns on the second
    outside: Tensor | None
    blocks: Blocks

    @classmethod
    def of(cls, q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool) -> Problem:
        """Take the arguments of :func:`local_attention` apart."""
        heads, kernel, half = rel_h.shape
        blocks = Blocks(q.shape[2], q.shape[3], kernel)
        table = rel_h.new_zeros(heads, 2 * kernel, 2 * half, dtype=_wide(q))
        table[:, :kernel, :half], table[:, kernel:, half:] = rel_h, rel_w
        shape = q.shape[0] * heads, 2 * half, *q.shape[2:]
        keys = None if k is None else k.reshape(shape)
        outside = blocks.outside(table) if masked else None
        return cls(q.reshape(shape), keys, v.reshape(shape), table.repeat(q.shape[0], 1, 1), outside, blocks)

    def chunks(self) -> Iterator[slice]:
        """Yield runs of planes whose products fit a chunk."""
        room = CPU_CHUNK if self.q.device.type == "cpu" else CHUNK
        step = max(1, room // self.blocks.products)
        for start in range(0, len(self.q), step):
            yield slice(start, min(start + step, len(self.q)))

    def products(self, m: int) -> Tensor:
        """Allocate the matrix products of m planes: (M R, block, K halo)."""
        b = self.blocks
        return self.table.new_empty(m * b.count * b.rows, b.block, b.kernel * b.halo)


def forward(q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool) -> Tensor:
    """Compute :func:`local_attention`, chunk by chunk."""
    problem = Problem.of(q, k, v, rel_h, rel_w, masked)
    blocks, out = problem.blocks, torch.empty_like(problem.q, memory_format=torch.contiguous_format)
    for chunk in problem.chunks():
        products = problem.products(chunk.stop - chunk.start)
        weights = _weights(problem, chunk, products)
        spread(weights, blocks, products)
        values = blocks.halos(problem.v[chunk].to(_wide(q)))
        out[chunk] = blocks.planes(gather(products, values, blocks))
    return out.view(q.shape)


def backward(
    grad: Tensor, q: Tensor, k: Tensor | None, v: Tensor, rel_h: Tensor, rel_w: Tensor, masked: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute :func:`local_attention_backward`, chunk by chunk, from the weights computed again."""
    problem = Problem.of(q, k, v, rel_h, rel_w, masked)
    grad_out = grad.reshape(problem.q.shape)
    grad_q, grad_v = (torch.empty_like(problem.q, memory_format=torch.contiguous_format) for _ in range(2))
    grad_k = q.new_empty(0) if k is None else torch.empty_like(grad_q)
    grad_table = torch.empty_like(problem.table)
    for chunk in problem.chunks():
        of_q, of_k, of_v, of_table = _backward_of_chunk(problem, chunk, grad_out[chunk].to(_wide(q)))
        grad_q[chunk], grad_v[chunk], grad_table[chunk] = of_q, of_v, of_table
        if of_k is not None:
            grad_k[chunk] = of_k
    heads, kernel, half = rel_h.shape
    of_heads = grad_table.view(q.shape[0], heads, 2 * kernel, 2 * half).sum(0).to(rel_h.dtype)
    # Copies, not views of one tensor: the results of an operator share no memory.
    grad_h, grad_w = of_heads[:, :kernel, :half].clone(), of_heads[:, kernel:, half:].clone()
    return grad_q.view(q.shape), grad_k if k is None else grad_k.view(q.shape), grad_v.view(q.shape), grad_h, grad_w


def _weights(problem: Problem, chunk: slice, products: Tensor) -> Tensor:
    """Return the attention weights of a chunk, (M, H, block, K, K); ``products`` is scratch."""
    blocks, q = problem.blocks, problem.q[chunk].to(problem.table.dtype)
    offsets = torch.bmm(problem.table[chunk], q.flatten(2)).view(len(q), -1, *q.shape[2:])  # (m, 2 K, H, W)
    keys = None if problem.k is None else blocks.halos(problem.k[chunk].to(q.dtype))
    queries = blocks.queries(q)
    return attention_weights(queries, keys, blocks.inner(blocks.queries(offsets)), problem.outside, blocks, products)


def _backward_of_chunk(problem: Problem, chunk: slice, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return the gradients of q, k, v (m, d, H, W) and of the table (m, 2 K, d) of a chunk from that of its result."""
    blocks, wide = problem.blocks, grad.dtype
    products, grads = problem.products(len(grad)), blocks.queries(grad)
    weights = _weights(problem, chunk, products)
    spread(weights, blocks, products)
    grad_v = scatter(products, grads, blocks)
    of_weights = multiply(grads, blocks.halos(problem.v[chunk].to(wide)), blocks, products)
    weighted = weights * of_weights
    of_scores = weighted.addcmul_(weights, weighted.sum((-2, -1), keepdim=True), value=-1)
    # The row part of q . r meets all columns, and the column part all rows.
    of_offsets = blocks.planes(torch.cat([of_scores.sum(-1), of_scores.sum(-2)], -1)).flatten(2)  # (m, 2 K, H W)
    q = problem.q[chunk].to(wide)
    grad_table = torch.bmm(of_offsets, q.flatten(2).transpose(1, 2))
    grad_q = torch.bmm(problem.table[chunk].transpose(1, 2), of_offsets).view_as(q)
    if problem.k is None:
        return grad_q, None, grad_v, grad_table
    spread(of_scores, blocks, products)
    grad_k = scatter(products, blocks.queries(q), blocks)
    keys = blocks.halos(problem.k[chunk].to(wide))
    return grad_q.add_(blocks.planes(gather(products, keys, blocks))), grad_k, grad_v, grad_table


def _wide(x: Tensor) -> torch.dtype:
    """Return the dtype to compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
