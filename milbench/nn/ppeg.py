"""PPEG: TransMIL's pyramid position encoding generator (Shao et al. 2021, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: which depthwise kernels a variant has; the names are the authors'.
KERNELS = {
    "none": {},
    "3": {"proj2": 3},
    "5": {"proj1": 5},
    "7": {"proj": 7},
    "pyramid": {"proj": 7, "proj1": 5, "proj2": 3},
}


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

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the summed kernel ``(dim, 1, s, s)``, identity included, and the summed bias ``(dim,)``."""
        convs = [m for m in self.children() if isinstance(m, nn.Conv2d)]
        kernel = sum(F.pad(c.weight, [(self.size - c.weight.shape[-1]) // 2] * 4) for c in convs)
        bias = sum(c.bias for c in convs if c.bias is not None)
        identity = torch.zeros(1, 1, self.size, self.size, device=convs[0].weight.device, dtype=convs[0].weight.dtype)
        identity[..., self.size // 2, self.size // 2] = 1
        assert isinstance(kernel, Tensor)
        assert isinstance(bias, Tensor)
        return kernel + identity, bias

    def forward(self, grid: Tensor) -> Tensor:
        """Encode positions: ``(B, H, W, dim) -> (B, H, W, dim)``, channels last as the tokens lie in memory."""
        kernel, bias = self.kernel()
        # A strided view would silently take the slow channels-first path; as a whole tensor it is channels-last memory
        # already.
        out = F.conv2d(
            grid.contiguous().permute(0, 3, 1, 2), kernel, bias, padding=self.size // 2, groups=grid.shape[-1]
        )
        if out.requires_grad:
            # The same for the gradient, which comes back as a slice of the token sequence.
            out.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return out.permute(0, 2, 3, 1)
