"""Floating-point operations of a piece of work, counted from the shapes of the products it does.

Matrix products, convolutions and fused attention count, a multiplication and an addition each as one; elementwise
work, normalisations, softmax, sorting and gathering do not. torch's counter is the base, with what it misses or gets
wrong put right: fused attention on CPU (it counts none), matrix-vector products and products added in place (none),
and the weight gradient of grouped convolutions (it counts every pair of channels: 512 times too much for a depthwise
one of 512 channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Self

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

_Shape = Sequence[int]
aten = torch.ops.aten


def count_flops(work: Callable[[], Any], shapes: Shapes | None = None) -> int:
    """Return the floating-point operations of one call, backward pass included if the call does one.

    Fused attention recomputes its scores in the backward pass; that is counted, since the hardware does it.

    Args:
        work: what is called.
        shapes: for work on the meta device: each operation is carried out and counted once for each shape.
    """
    # The fused encoder kernels of torch.nn would hide their products from the counter; their plain form does the same.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if shapes is not None:
            with shapes:
                work()
            return shapes.flops
        with _counter() as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


class Shapes(TorchDispatchMode):
    """Make and count an operation on the meta device only once for each shape; the next result is an empty tensor.

    The shapes that many kernels give are worked out in Python, and so is every count, which takes most of the time: a
    step of TransMIL has 1,900 operations, of which 130 differ. Views, operations in place, and those on numbers without
    dimensions, whose types are promoted by other rules, are carried out as they are.

    Attributes:
        flops: floating-point operations since the mode was entered.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._counter = _counter()
        self._known: dict[Any, tuple[int, tuple[Any, ...] | None]] = {}

    def __enter__(self) -> Self:
        self.flops = 0
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):  # two functions may be equal and have other shapes inside
            return self._counted(func, args, kwargs)[1]
        try:
            key = (func, _key(args), tuple((name, _key(value)) for name, value in sorted(kwargs.items())))
            known = self._known.get(key)
        except TypeError:  # an argument that is no number, tensor or list of them
            return self._counted(func, args, kwargs)[1]
        if known is None:
            flops, result = self._counted(func, args, kwargs)
            self._known[key] = flops, None if _aliases(func) else _made(result)
            return result
        self.flops += known[0]
        made = known[1]
        if made is None:
            return func(*args, **kwargs)
        results = tuple(
            None if like is None else torch.empty_strided(like[0], like[1], dtype=like[2], device="meta")
            for like in made[1]
        )
        return results if made[0] else results[0]

    def _counted(self, func: Any, args: Any, kwargs: Any) -> tuple[int, Any]:
        with self._counter:
            result = func(*args, **kwargs)
        flops = int(self._counter.get_total_flops())
        self.flops += flops
        return flops, result


def _key(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.dim() == 0 or value.device.type != "meta":
            raise TypeError
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    return type(value), value


def _aliases(func: Any) -> bool:
    """Whether a result shares memory with an argument, or an argument is written to."""
    schema = func._schema
    return any(a.alias_info is not None for a in (*schema.arguments, *schema.returns))


def _made(result: Any) -> tuple[Any, ...] | None:
    """The inputs needed to compute a result again; None where it is more than tensors on the meta device."""
    several = isinstance(result, tuple)
    results = result if several else (result,)
    if not all(r is None or (type(r) is torch.Tensor and r.device.type == "meta") for r in results):
        return None
    return several, tuple(None if r is None else (r.shape, r.stride(), r.dtype) for r in results)


def _attention(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    """2 products of N_q x N_k x D: scores, and their sum over the values."""
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    """5 products: the scores again, and the gradients at scores, values, queries and keys."""
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward(
    grad: _Shape, x: _Shape, w: _Shape, _bias: Any, _stride: Any, _padding: Any, _dilation: Any, transposed: bool,
    _output_padding: Any, _groups: int, mask: Sequence[bool], **_: Any,
) -> int:  # fmt: skip
    """Each of the gradients at the input and at the weights pairs the same numbers as the forward pass, once."""
    forward = conv_flop_count(list(x), list(w), list(grad), transposed=transposed)
    return int(forward * (bool(mask[0]) + bool(mask[1])))


def _matrix_vector(a: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _added_matrix_vector(_self: _Shape, a: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _added_product(_self: _Shape, a: _Shape, b: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * b[-1]


def _added_batch(_self: _Shape, a: _Shape, b: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * b[-1]


def _embedding_bag(
    weight: _Shape, indices: _Shape, _offsets: Any, _scale: Any = False, _mode: Any = 0, _sparse: Any = False,
    per_sample_weights: _Shape | None = None, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """A weighted sum of rows; without weights there is no product."""
    return 0 if per_sample_weights is None else 2 * prod(indices) * weight[-1]


def _own_products(_vectors: _Shape, weight: _Shape, indices: _Shape, *_: Any, **__: Any) -> int:
    """A row times a vector, for each index: the gradient of `_embedding_bag` at its weights."""
    return 2 * prod(indices) * weight[-1]


def _linear(x: _Shape, weight: _Shape, *_: Any, **__: Any) -> int:
    """oneDNN's product without gradient: x W'."""
    return 2 * prod(x) * weight[0]


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: _convolution_backward,
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _added_matrix_vector,
    aten.addbmm: _added_batch,
    aten.addbmm_: _added_batch,
    aten.addmv_: _added_matrix_vector,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_batch,
    aten._embedding_bag: _embedding_bag,
    aten._embedding_bag_forward_only: _embedding_bag,
    aten._embedding_bag_per_sample_weights_backward: _own_products,
    aten.addr: lambda _self, a, b, *_, **__: 2 * prod(a) * prod(b),
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _FORMULAS[torch.ops.mkldnn._linear_pointwise] = _linear
