"""Several models of one method as one: every parameter with a leading axis, each model answering its own bags.

Where a fold is a few hundred bags of a few instances, calling a kernel costs more than what it computes, and a study is
hundreds of such trainings that differ in fold and seed alone. Stacked, a pooling over a ragged batch, a softmax, a loss
and an optimizer's step are one call for all of them; only the products stay one by one, each with its own weights.
Nothing is approximated and no model sees another: the gradient of the sum of their losses is each one's own.

The bags of a batch are ordered by model, equally many for each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..bags import BagOutput, Bags
from ..errors import MilbenchError

if TYPE_CHECKING:
    from ..aggregator import Aggregator

FEW = 12  # rows of a product that numpy makes
SMALL = 1 << 18  # multiplications of one whose right factor is transposed; beyond them its BLAS has no small kernel
VECTOR = 64  # a multiple of the entries that a processor's widest register holds


class StackedBatch:
    """The batch that a `Stack` is given, as its layers share it: whose each row and each bag is.

    Args:
        models: how many the stack has.
    """

    def __init__(self, models: int) -> None:
        self._models = models
        self._rows: list[int] = []  # of each model
        self._bags = 0  # of each model
        self._model_of: dict[tuple[int, ...], Tensor] = {}

    def begin(self, lengths: Sequence[int]) -> None:
        """Take the lengths of a new batch's bags, ordered by model, equally many for each."""
        self._bags = each = len(lengths) // self._models
        self._rows, self._model_of = [sum(lengths[i : i + each]) for i in range(0, len(lengths), each)], {}

    def parts(self, x: Tensor) -> list[int]:
        """How many of the first axis belong to each model: rows of its instances, or its bags."""
        rows, bags = sum(self._rows), self._bags * len(self._rows)
        if len(x) not in (rows, bags):
            raise ValueError(f"a stacked layer takes the batch's {rows} rows or {bags} bags, not {len(x)}")
        return self._rows if len(x) == rows else [self._bags] * len(self._rows)

    def model_of(self, parts: list[int], x: Tensor) -> Tensor:
        """Return the model of each row, ``(n,)``, made once a batch."""
        key = tuple(parts)
        if key not in self._model_of:
            made = torch.repeat_interleave(torch.tensor(parts, device=x.device), output_size=len(x))
            self._model_of[key] = made
        return self._model_of[key]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W_i' + b_i by each model i for its own rows or bags: ``(n, ..., k), (M, m, k), (M, m) -> (n, ..., m)``."""
        parts = self.parts(x)
        if weight.shape[1] == 1 and x.ndim == 2:
            # A product with one column is a weighted sum, of all rows at once.
            of = self.model_of(parts, x)
            y = (x * weight[:, 0].index_select(0, of)).sum(dim=1, keepdim=True)
            return y if bias is None else y + bias.index_select(0, of)
        if x.ndim > 2:
            inner = x.shape[1:-1]
            each = int(inner.numel())
            flat = self._each(x.reshape(-1, x.shape[-1]), weight, bias, [n * each for n in parts])
            return flat.unflatten(0, (len(x), *inner))
        return self._each(x, weight, bias, parts)

    def _each(self, x: Tensor, weight: Tensor, bias: Tensor | None, parts: list[int]) -> Tensor:
        out: Tensor = _Each.apply(x, weight, bias, parts, None if bias is None else self.model_of(parts, x))
        return out


class _Each(torch.autograd.Function):
    """The products of `StackedBatch.linear`, written where they belong: no copy on either way.

    One by one, so that a model's result does not depend on who else is in the stack, to the bit. On CPU those of a few
    rows are numpy's, whose BLAS has kernels for small matrices: half the time of torch's, and a third of the call.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: list[int], of: Tensor | None
    ) -> Tensor:
        """Take ``(n, k), (M, m, k), (M, m)``, the M numbers of rows and, with a bias, the model of each row."""
        ctx.save_for_backward(x, weight)
        ctx.parts, ctx.of = parts, of
        y = x.new_empty(len(x), weight.shape[1])
        _each(_times_transposed, parts, x, weight, y)
        if bias is not None:
            y += bias.index_select(0, ctx.of)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at x (where it is wanted), W and b."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        dx, d_bias = None, None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _each(_times, ctx.parts, grad, weight, dx)
        d_weight = torch.empty_like(weight)
        _each(_transposed_times, ctx.parts, grad, d_weight, x)
        if ctx.of is not None:
            d_bias = grad.new_zeros(weight.shape[:2]).index_add_(0, ctx.of, grad)
        return dx, d_weight, d_bias, None, None


def _each(product: Callable[[Any, Any, Any, Any], None], parts: list[int], a: Tensor, w: Tensor, b: Tensor) -> None:
    """Call ``product(library, a_i, w_i, b_i)`` for each model: its rows of a and b, and its own w."""
    few = a.device.type == "cpu" and a.dtype == torch.float32
    small = [t.detach().numpy() for t in (a, w, b)] if few else []
    start = 0
    for i, n in enumerate(parts):
        rows = slice(start, start + n)
        if few and n <= FEW:
            product(np, small[0][rows], small[1][i], small[2][rows])
        else:
            product(torch, a[rows], w[i], b[rows])
        start += n


def _times_transposed(library: Any, x: Any, w: Any, y: Any) -> None:
    """y = x w'."""
    wide = len(w) if library is torch else max(16, SMALL // x.size // 16 * 16)
    if len(w) <= wide:
        library.matmul(x, w.T, out=y)
    else:
        for at in range(0, len(w), wide):
            library.matmul(x, w[at : at + wide].T, out=y[:, at : at + wide])


def _times(library: Any, g: Any, w: Any, dx: Any) -> None:
    """dx = g w."""
    library.matmul(g, w, out=dx)


def _transposed_times(library: Any, g: Any, dw: Any, x: Any) -> None:
    """dw = g' x."""
    library.matmul(g.T, x, out=dw)


class StackedLinear(nn.Module):
    """M linear layers; weight ``(M, m, k)``, bias ``(M, m)``."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, like: nn.Linear, batch: StackedBatch) -> None:
        super().__init__()
        self.in_features, self.out_features, self.batch = like.in_features, like.out_features, batch
        self.register_parameter("bias", None)  # where the layers have one, the stack sets it with the weight

    def forward(self, x: Tensor) -> Tensor:
        """``(n, ..., k) -> (n, ..., m)``."""
        return self.batch.linear(x, self.weight, self.bias)


class _StackedConv1d(nn.Module):
    """M convolutions whose kernel is as wide as what they are given; weight ``(M, m, c, k)``, bias ``(M, m)``."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, batch: StackedBatch) -> None:
        super().__init__()
        self.batch = batch
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, k) -> (n, m, 1)``: a product with every entry."""
        if x.shape[1:] != self.weight.shape[2:]:
            raise ValueError(f"a stacked convolution takes {tuple(self.weight.shape[2:])}, not {tuple(x.shape[1:])}")
        return self.batch.linear(x.flatten(1), self.weight.flatten(2), self.bias).unsqueeze(2)


class _StackedDropout(nn.Module):
    """Dropout in which each model draws from a generator of its own."""

    def __init__(self, p: float, generators: Sequence[torch.Generator], batch: StackedBatch) -> None:
        super().__init__()
        self.p, self.generators, self.batch = p, generators, batch

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries with probability p and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        drawn = torch.empty_like(x)
        for part, generator in zip(drawn.split(self.batch.parts(x)), self.generators, strict=True):
            part.uniform_(generator=generator)
        return x * (drawn >= self.p).to(x.dtype).mul_(1 / (1 - self.p))


class Stack(nn.Module):
    """M models of one method trained as one; the models' own parameters become views of the stack's.

    Args:
        models: of one class and shape, without buffers, tied or frozen parameters, of a class that is
            `Aggregator.stackable`.
        generators: of each model's dropout, on its device.
    """

    def __init__(self, models: Sequence[Aggregator], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        first = models[0]
        tied = len(list(first.named_parameters(remove_duplicate=False))) > len(list(first.parameters()))
        frozen = not all(p.requires_grad for p in first.parameters())
        if not first.stackable or any(True for _ in first.buffers()) or tied or frozen:
            raise MilbenchError(
                f"{type(first).__name__} cannot be trained in a stack; set stacked = 1.", code="method-unsupported"
            )
        self.size = len(models)
        self.batch = StackedBatch(self.size)
        self.joint: Aggregator = copy.deepcopy(first)
        _replace(self.joint, generators, self.batch)
        every = [dict(model.named_parameters()) for model in models]
        for name in every[0]:
            values = torch.stack([own[name].detach() for own in every])
            for own, value in zip(every, values.unbind(), strict=True):
                own[name].data = value
            owner, _, last = name.rpartition(".")
            setattr(self.joint.get_submodule(owner), last, nn.Parameter(values))

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters as an optimizer takes them.

        A fused optimizer rounds what is left over at a tensor's end, beyond whole vectors, in another way than the
        rest. Where that would be the end of some model's parameters it is not used, or the last model would have
        results of its own.
        """
        even: list[nn.Parameter] = []
        odd: list[nn.Parameter] = []
        for p in self.parameters():
            (odd if p[0].numel() % VECTOR else even).append(p)
        groups: list[dict[str, Any]] = [{"params": even}, {"params": odd, "fused": False, "foreach": False}]
        return [group for group in groups if group["params"]]

    def forward(self, bags: Bags) -> BagOutput:
        """Predict for bags ordered by model, equally many for each."""
        self.batch.begin(bags.lengths)
        out: BagOutput = self.joint(bags)
        return out

    def loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """Return what has each model's gradient of its own mean loss, to the bit; its value is of no use.

        A loss divides by the number of all bags. Filled up with bags that nothing depends on to a power of two times
        one model's, that is undone exactly; else a model's rounding would depend on how many others there are.
        """
        filled = 1 << (self.size - 1).bit_length()
        more = (filled - self.size) * (len(targets) // self.size)
        if more:
            aux = {name: _longer(values, more) for name, values in out.aux.items()}
            out, targets = BagOutput(_longer(out.logits, more), aux=aux), _longer(targets, more)
        return self.joint.loss(out, targets) * filled


def _longer(values: Tensor, more: int) -> Tensor:
    return torch.cat([values, values.new_zeros(more, *values.shape[1:])])


def _replace(module: nn.Module, generators: Sequence[torch.Generator], batch: StackedBatch) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, StackedLinear(child, batch))
        elif isinstance(child, nn.Conv1d):
            if (child.stride, child.padding, child.dilation, child.groups) != ((1,), (0,), (1,), 1):
                raise MilbenchError(
                    f"{name}, a convolution, cannot be trained in a stack; set stacked = 1.", code="method-unsupported"
                )
            setattr(module, name, _StackedConv1d(batch))
        elif isinstance(child, nn.Dropout):
            setattr(module, name, _StackedDropout(child.p, generators, batch))
        else:
            _replace(child, generators, batch)
