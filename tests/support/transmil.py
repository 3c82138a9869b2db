"""TransMIL in its authors' form: the PyPI package `nystrom-attention` inside a plain PPEG model, one bag at a time.

Options that the authors' form lacks (readout, square, order) are added in the plainest way.
"""

from __future__ import annotations

import math

import torch
from nystrom_attention import NystromAttention
from torch import Tensor, nn

KERNELS = {"none": (), "3": (3,), "5": (5,), "7": (7,), "pyramid": (7, 5, 3)}
NAMES = {7: "proj", 5: "proj1", 3: "proj2"}


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int, landmarks: int, iterations: int, value_conv: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = NystromAttention(
            dim=dim, dim_head=dim // heads, heads=heads, num_landmarks=landmarks, pinv_iterations=iterations,
            residual=value_conv, dropout=dropout,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x))


class AuthorsTransMIL(nn.Module):
    """Logits of one bag (n, d), its (n, 2) coordinates given for order=raster.

    With one layer PPEG comes before it, as milbench declares.
    """

    def __init__(self, in_dim: int, n_classes: int = 2, *, ppeg: str = "pyramid", layers: int = 2, heads: int = 8,
                 landmarks: int = 256, pinv_iterations: int = 6, value_conv: bool = True, dim: int = 512,
                 dropout: float = 0.1, readout: str = "class", square: str = "repeat", order: str = "storage"
                 ) -> None:  # fmt: skip
        super().__init__()
        self.readout, self.square, self.order = readout, square, order
        self._fc1 = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        for i in range(layers):
            self.add_module(f"layer{i + 1}", Layer(dim, heads, landmarks, pinv_iterations, value_conv, dropout))
        self.layers = layers
        if KERNELS[ppeg]:
            self.pos_layer = nn.Module()
            for size in KERNELS[ppeg]:
                self.pos_layer.add_module(NAMES[size], nn.Conv2d(dim, dim, size, 1, size // 2, groups=dim))
        self.norm = nn.LayerNorm(dim)
        self._fc2 = nn.Linear(dim, n_classes)

    def encode(self, h: Tensor, side: int) -> Tensor:
        if not hasattr(self, "pos_layer"):
            return h
        cls, tokens = h[:, :1], h[:, 1:]
        grid = tokens.transpose(1, 2).reshape(1, -1, side, side)
        grid = grid + sum(conv(grid) for conv in self.pos_layer.children())
        return torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, x: Tensor, coords: Tensor | None = None) -> Tensor:
        n = len(x)
        if self.order == "raster":
            assert coords is not None
            places = coords.tolist()
            x = x[sorted(range(n), key=lambda row: (places[row][1], places[row][0]))]
        h = self._fc1(x)[None]
        side = math.ceil(math.sqrt(n))
        missing = h[:, : side * side - n]
        h = torch.cat([h, torch.zeros_like(missing) if self.square == "zeros" else missing], dim=1)
        h = torch.cat([self.cls_token, h], dim=1)
        if self.layers == 1:
            h = self.encode(h, side)
        for i in range(self.layers):
            h = getattr(self, f"layer{i + 1}")(h)
            if i == 0 and self.layers > 1:
                h = self.encode(h, side)
        h = self.norm(h)
        return self._fc2(h[:, 1 : 1 + n].mean(dim=1) if self.readout == "mean" else h[:, 0])
