"""The depthwise 33 x 1 convolution of the values along storage order, as products with a banded matrix.

A block of 32 rows of the result is a (32 x 64) band times 64 rows of values. oneDNN's kernel for the depthwise
convolution returns wrong weight gradients in fp32 for some lengths (torch 2.13, CPU; 48 % off for two non-zero rows at
the end of 256) and is no faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LENGTH = 33  # of the convolution
REACH = LENGTH // 2
BLOCK = 32  # rows of one block
WINDOW = BLOCK + 2 * REACH


def band(weight: Tensor, rows: int, columns: int, center: int = REACH) -> Tensor:
    """The convolution ``weight`` (h, 33) as a matrix, ``(h, rows, columns)``: entry (i, j) weighs value j for output
    i."""
    at = torch.arange(columns, device=weight.device) - torch.arange(rows, device=weight.device)[:, None] + center
    return weight[:, at.clamp(0, LENGTH - 1)] * ((at >= 0) & (at < LENGTH))


def add_convolved(out: Tensor, blocks: Tensor, v: Tensor, begin: int, end: int) -> None:
    """Add rows begin .. end of the convolved values to ``out``.

    Args:
        out: ``(h, end - begin, d)``.
        blocks: ``(h, 32, 64)``, `band` with center 0.
        v: ``(T, h d)`` all values; values outside are zero.
        begin: first row wanted.
        end: one past the last row wanted.
    """
    windows, tail, rest = _windows(v, len(blocks), begin, end)
    # The library multiplies many matrices at once into contiguous ones alone; into others one after the other.
    target = out if out.is_contiguous() else out.new_empty(out.shape)
    for head, one in enumerate(blocks if len(windows) else ()):
        # One head at a time: its windows are overlapping views of the values, which nothing has to copy.
        whole = target[head, : len(windows) * BLOCK].view(len(windows), BLOCK, -1)
        torch.baddbmm(whole, one.expand(len(windows), -1, -1), windows[:, head], out=whole, beta=int(target is out))
    if target is not out:
        whole_rows = len(windows) * BLOCK
        out[:, :whole_rows] += target[:, :whole_rows]
    if rest:
        out[:, -rest:] += torch.bmm(blocks[:, :rest, : rest + 2 * REACH], tail)


def weight_gradient(v: Tensor, grad: Tensor, heads: int, begin: int, end: int) -> Tensor:
    """Gradient at the ``(h, 33)`` weights from rows begin .. end of the result, whose gradient is ``(T, h d)``."""
    windows, tail, rest = _windows(v, heads, begin, end)
    rows = grad[begin : end - rest].view(len(windows), BLOCK, heads, windows.shape[3])
    pairs = torch.zeros(heads, BLOCK, WINDOW, dtype=torch.promote_types(v.dtype, torch.float32), device=v.device)
    for head in range(heads):
        pairs[head] += torch.bmm(rows[:, :, head], windows[:, head].mT).sum(dim=0, dtype=pairs.dtype)
    if rest:
        last = grad[end - rest : end].unflatten(1, (heads, -1)).transpose(0, 1)
        pairs[:, :rest, : rest + 2 * REACH] += torch.bmm(last, tail.mT)
    # Entry (i, i + t) belongs to weight t.
    return pairs.as_strided((heads, BLOCK, LENGTH), (BLOCK * WINDOW, WINDOW + 1, 1)).sum(dim=1)


def _windows(v: Tensor, heads: int, begin: int, end: int) -> tuple[Tensor, Tensor, int]:
    """Return the 64 rows around each block of 32, ``(blocks, h, 64, d)``, and those around the r rows that are left
    over, ``(h, r + 32, d)``, with r."""
    first, last = begin - REACH, end + REACH
    rows = v[max(0, first) : min(len(v), last)]
    if first < 0 or last > len(v):
        rows = F.pad(rows, (0, 0, max(0, -first), max(0, last - len(v))))
    rows = rows.unflatten(1, (heads, -1))
    blocks, rest = divmod(end - begin, BLOCK)
    if blocks:
        windows = rows[: blocks * BLOCK + 2 * REACH].unfold(0, WINDOW, BLOCK).mT
    else:
        windows = rows.new_empty(0, heads, WINDOW, rows.shape[2])
    return windows, rows[blocks * BLOCK :].transpose(0, 1), rest
