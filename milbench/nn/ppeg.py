"""PPEG: TransMIL's pyramid position encoding generator (Shao et al. 2021, section 3.3)."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .autocast import product_dtype, without_autocast
from .nystrom.chunks import add_into, wide

#: which depthwise kernels a variant has; the names are the authors'.
KERNELS = {
    "none": {},
    "3": {"proj2": 3},
    "5": {"proj1": 5},
    "7": {"proj": 7},
    "pyramid": {"proj": 7, "proj1": 5, "proj2": 3},
}
SLAB = 6144
TILE = 20  # side of a tile of the weight gradient on CPU


class PPEG(nn.Module):
    """x + dw7(x) + dw5(x) + dw3(x) on a square grid, zero padded, biases included.

    Three depthwise convolutions, their biases and the identity add up to one depthwise convolution with a summed
    kernel: one pass over the grid instead of three, exact in real arithmetic.

    Args:
        dim: channels.
        variant: ``3``, ``5`` or ``7`` for a single kernel, ``pyramid`` for all three.
    """

    def __init__(self, dim: int, variant: str) -> None:
        super().__init__()
        for name, size in KERNELS[variant].items():
            self.add_module(name, nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim))
        self.size = max(KERNELS[variant].values())

    def kernel(self, identity: bool = True) -> tuple[Tensor, Tensor]:
        """Return the summed kernel ``(dim, 1, s, s)``, with or without the identity, and the summed bias ``(dim,)``."""
        convs = [m for m in self.children() if isinstance(m, nn.Conv2d)]
        margins = [(self.size - c.weight.shape[-1]) // 2 for c in convs]
        kernels = [F.pad(c.weight, [m] * 4) if m else c.weight for c, m in zip(convs, margins, strict=True)]
        kernel = reduce(torch.add, kernels)
        bias = reduce(torch.add, [c.bias for c in convs if c.bias is not None])
        if identity:
            one = torch.zeros(1, 1, self.size, self.size, device=kernel.device, dtype=kernel.dtype)
            one[..., self.size // 2, self.size // 2] = 1
            kernel = kernel + one
        return kernel, bias

    def forward(self, grid: Tensor) -> Tensor:
        """Encode positions of small grids: ``(B, H, W, dim) -> (B, H, W, dim)``, channels last as tokens lie."""
        kernel, bias = self.kernel(identity=False)
        out: Tensor = _SmallGrids.apply(grid.contiguous(), kernel, bias)
        return out

    def tokens(self, h: Tensor, side: int) -> Tensor:
        """Encode positions of one large grid behind its class token: ``(1 + side^2, dim) -> (1 + side^2, dim)``.

        Under autocast the kernels' part is in its dtype; the identity, which carries the residual stream, is exact.
        """
        kernel, bias = self.kernel(identity=False)
        out: Tensor = _GridTokens.apply(h, kernel, bias, side)
        return out

    @torch.no_grad()
    def tokens_in_place(self, h: Tensor, side: int) -> None:
        """`tokens` without gradient, written over h."""
        kernel, bias = self.kernel(identity=False)
        _encode(h, kernel, bias, side, h)


class _SmallGrids(torch.autograd.Function):
    """x + kernel * x + bias on each of B grids of side 15 at most."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """Take ``(B, H, W, dim)``, contiguous."""
        ctx.dtype = product_dtype(x)
        ctx.save_for_backward(x, kernel)
        with without_autocast(x):
            return x + _depthwise(x.to(ctx.dtype), kernel.to(ctx.dtype), bias.to(ctx.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at x, kernel and bias."""
        x, kernel = ctx.saved_tensors
        with without_autocast(x):
            grad = grad.contiguous()
            dx = grad + _depthwise(grad.to(ctx.dtype), kernel.to(ctx.dtype).flip(2, 3), None)
            if x.device.type == "cpu":
                d_kernel = _sum_of_tiles(_windows_of_bags(x, kernel.shape[-1] // 2), grad)
            else:
                d_kernel = _kernel_gradient(x, grad, kernel, ctx.dtype)
        return dx, d_kernel.view_as(kernel).to(kernel.dtype), grad.sum(dim=(0, 1, 2)).to(kernel.dtype)


class _GridTokens(torch.autograd.Function):
    """h + kernel * h + bias on the grid, row slab by row slab; the class token passes through."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, kernel: Tensor, bias: Tensor, side: int) -> Tensor:
        out = torch.empty_like(h)
        ctx.dtype, ctx.side = _encode(h, kernel, bias, side, out), side
        ctx.save_for_backward(h, kernel)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, kernel = ctx.saved_tensors
        with without_autocast(h):
            grad = grad.contiguous()
            g, cells = _grid(grad, ctx.side), _grid(h, ctx.side)
            dh = torch.empty_like(h)
            dh[0] = grad[0]
            # The gradient of a correlation is the correlation with the kernel turned around.
            _convolve(g, kernel.to(ctx.dtype).flip(2, 3), None, _grid(dh, ctx.side))
            if h.device.type == "cpu":
                d_kernel = _tiled_kernel_gradient(cells, g, kernel.shape[-1])
            else:
                d_kernel = _kernel_gradient(cells[None], g[None], kernel, ctx.dtype)
        return dh, d_kernel.to(kernel.dtype), grad[1:].sum(dim=0).to(kernel.dtype), None


def _depthwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """(B, H, W, dim) -> (B, H, W, dim). Tokens are channels-last memory: as a whole tensor they take its fast path."""
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, padding=kernel.shape[-1] // 2, groups=len(kernel))
    return y.permute(0, 2, 3, 1)


def _kernel_gradient(x: Tensor, grad: Tensor, kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """The library's weight gradient, ``(dim, 1, size, size)``."""
    reach = kernel.shape[-1] // 2
    grid, g = (t.permute(0, 3, 1, 2).to(dtype) for t in (x, grad))
    _, out, _ = torch.ops.aten.convolution_backward(
        g, grid, kernel.to(dtype), None, [1, 1], [reach, reach], [1, 1], False, [0, 0], len(kernel),
        [False, True, False],
    )  # fmt: skip
    return out


def _encode(h: Tensor, kernel: Tensor, bias: Tensor, side: int, out: Tensor) -> torch.dtype:
    dtype = product_dtype(h)
    with without_autocast(h):
        if out is not h:
            out[0] = h[0]
        _convolve(_grid(h, side), kernel.to(dtype), bias.to(dtype), _grid(out, side))
    return dtype


def _grid(h: Tensor, side: int) -> Tensor:
    return h[1:].view(side, side, -1)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = x + kernel * x + bias, ``(H, W, dim)`` each; ``out`` may be the memory of ``x``."""
    side, _, dim = x.shape
    reach = kernel.shape[-1] // 2
    exact = kernel.dtype == x.dtype  # one pass less
    # Half precision also needs room in the cache for its converted copies.
    rows = max(1, reach, SLAB // (1 if exact else 2) // side) if x.device.type == "cpu" else side
    in_place, before = out.data_ptr() == x.data_ptr(), None  # rows above a slab as they were
    if exact:
        kernel = kernel.clone()
        kernel[:, :, reach, reach] += 1
    for a in range(0, side, rows):
        b, above, below = min(side, a + rows), max(0, a - reach), min(side, a + rows + reach)
        slab = x[above:below].to(kernel.dtype)
        if in_place:
            if before is not None:
                slab = torch.cat([before, x[a:below].to(kernel.dtype)])
            before = slab[b - reach - above : b - above].clone()
        image = slab[None].permute(0, 3, 1, 2)  # in this order: channels last needs the stride of a whole image
        y = F.conv2d(image, kernel, bias, padding=reach, groups=dim)[0].permute(1, 2, 0)[a - above : b - above]
        if exact:
            out[a:b].copy_(y)
        else:
            add_into(out[a:b], x[a:b], wide(y))


def _tiled_kernel_gradient(x: Tensor, grad: Tensor, size: int) -> Tensor:
    """Gradient at the ``(dim, 1, size, size)`` kernel from the ``(H, W, dim)`` grid and the gradient at the result.

    Entry (i, j) is the sum over cells of grad[y, x] times grid[y + i, x + j]: over a tile, a convolution of the grid's
    tile and halo with the gradient's tile as its kernel. Convolving many tiles at once (as channels) is a forward pass,
    which oneDNN does several times faster than its own weight gradient of a depthwise convolution, and with smaller
    errors, as tiles are summed on their own first.
    """
    side, _, dim = x.shape
    reach = size // 2
    count = -(-side // TILE)
    tile = -(-side // count)
    over = count * tile - side
    total = torch.zeros(dim, size * size, dtype=x.dtype)
    for a in range(0, side, tile):
        above, below = max(0, a - reach), min(side, a + tile + reach)
        halo = F.pad(
            x[above:below], (0, 0, reach, reach + over, above - a + reach, a + tile + reach - below)
        )  # (tile + 2 reach, count tile + 2 reach, dim)
        g = F.pad(grad[a : a + tile], (0, 0, 0, over, 0, max(0, a + tile - side)))
        tiles = halo.unfold(1, tile + 2 * reach, tile).permute(0, 3, 1, 2)  # (rows, columns, count, dim)
        total += _sum_of_tiles(tiles, g.view(tile, count, tile, dim).transpose(0, 1))
    return total.view(dim, 1, size, size)


def _windows_of_bags(x: Tensor, reach: int) -> Tensor:
    """(B, H, W, dim) grids with their zero padding, ``(H + 2 reach, W + 2 reach, B, dim)``."""
    return F.pad(x, (0, 0, reach, reach, reach, reach)).permute(1, 2, 0, 3)


def _sum_of_tiles(tiles: Tensor, grad: Tensor) -> Tensor:
    """Convolve tiles with their halos, ``(rows, columns, count, dim)``, by the gradients, ``(count, .., .., dim)``.

    Returns the sum over tiles, ``(dim, size^2)``.
    """
    count, down, across, dim = grad.shape
    kernels = grad.permute(0, 3, 1, 2).reshape(count * dim, 1, down, across)
    x = tiles.reshape(1, *tiles.shape[:2], count * dim).permute(0, 3, 1, 2)
    return F.conv2d(x, kernels, groups=count * dim).view(count, dim, -1).sum(dim=0)
