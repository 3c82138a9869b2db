"""Bags: the packed ragged batch every aggregator reads, and BagOutput, the output of every aggregator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .errors import MilbenchError


class Bags:
    """A ragged batch of B bags, their instances stacked row upon row without padding.

    Attributes:
        x: ``(N, d)`` features of all instances, bag after bag.
        ptr: ``(B + 1,)`` int64 on the device of ``x``; bag ``i`` holds rows ``ptr[i]:ptr[i + 1]``.
        coords: ``(N, 2)`` positions, or None.
        lengths: the B bag lengths as Python integers, so that shapes never cost a device synchronisation.
    """

    __slots__ = ("_index", "coords", "lengths", "ptr", "x")

    def __init__(self, x: Tensor, lengths: Sequence[int], coords: Tensor | None = None) -> None:
        """Wrap rows that are packed already; `Bags.pack` is the usual way in."""
        if x.ndim != 2:
            raise MilbenchError(f"features must have shape (rows, dim), got {tuple(x.shape)}.", code="bag-shape")
        if not x.is_floating_point():
            raise MilbenchError(
                f"features must be floating point, got {x.dtype}; convert them with .float().", code="bag-shape"
            )
        if len(lengths) == 0:
            raise MilbenchError("a batch needs at least one bag, got none.", code="bag-shape")
        if min(lengths) < 1:
            raise MilbenchError(
                f"bag {list(lengths).index(min(lengths))} of the batch is empty; leave empty bags out.",
                code="bag-shape",
            )
        if sum(lengths) != x.shape[0]:
            raise MilbenchError(
                f"bag lengths add up to {sum(lengths)} but there are {x.shape[0]} rows of features.", code="bag-shape"
            )
        if coords is not None and tuple(coords.shape) != (x.shape[0], 2):
            raise MilbenchError(
                f"coords must have shape ({x.shape[0]}, 2), got {tuple(coords.shape)}.", code="bag-shape"
            )
        self.x = x
        self.coords = coords
        self.lengths = tuple(int(n) for n in lengths)
        self.ptr = offsets_on(torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int64), x.device)
        self._index: Tensor | None = None

    @classmethod
    def pack(cls, xs: Sequence[Tensor | np.ndarray], coords: Sequence[Tensor | np.ndarray] | None = None) -> Bags:
        """Pack a list of ``(n_i, d)`` tensors or numpy arrays; one tensor alone is taken as it is, without a copy.

        Raises:
            MilbenchError: no bag, an empty bag, bags of different width, something that is neither tensor nor array, or
                coordinates that do not fit.
        """
        xs = _tensors(xs, "features")
        coords = None if coords is None else _tensors(coords, "coords")
        if len(xs) == 0:
            raise MilbenchError("a batch needs at least one bag, got none.", code="bag-shape")
        for i, x in enumerate(xs):
            if x.ndim != 2:
                raise MilbenchError(f"bag {i} must have shape (rows, dim), got {tuple(x.shape)}.", code="bag-shape")
            if x.shape[1] != xs[0].shape[1]:
                raise MilbenchError(
                    f"bag {i} has {x.shape[1]}-d features but bag 0 has {xs[0].shape[1]}-d ones.", code="bag-shape"
                )
            if x.shape[0] == 0:
                raise MilbenchError(f"bag {i} of the batch is empty; leave empty bags out.", code="bag-shape")
        if coords is not None and [len(c) for c in coords] != [len(x) for x in xs]:
            raise MilbenchError("coords must hold one (n_i, 2) tensor a bag, as long as the bag.", code="bag-shape")
        one = len(xs) == 1
        where = None if coords is None else (coords[0] if one else torch.cat(list(coords)))
        return cls(xs[0] if one else torch.cat(list(xs)), [len(x) for x in xs], where)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Bags:
        if not -len(self) <= i < len(self):
            raise IndexError(f"bag {i} of a batch of {len(self)}")
        i %= len(self)
        start = sum(self.lengths[:i])
        rows = slice(start, start + self.lengths[i])
        return Bags(self.x[rows], self.lengths[i : i + 1], None if self.coords is None else self.coords[rows])

    def __repr__(self) -> str:
        return f"Bags({len(self)} bags, {self.x.shape[0]} rows, dim {self.dim}, {self.x.dtype}, {self.x.device})"

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.x.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the features live."""
        return self.x.device

    @property
    def index(self) -> Tensor:
        """``(N,)`` int64: the bag each row belongs to; made once, on first use."""
        if self._index is None:
            self._index = torch.repeat_interleave(self.ptr.diff(), output_size=self.x.shape[0])
        return self._index

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None,
           non_blocking: bool = False) -> Bags:  # fmt: skip
        """Move features and coordinates to a device, or features to another floating dtype."""
        x = self.x.to(device=device, dtype=dtype, non_blocking=non_blocking)
        coords = None if self.coords is None else self.coords.to(device=device, non_blocking=non_blocking)
        if x is self.x and coords is self.coords:
            return self
        other = self.with_features(x)
        if x.device != self.x.device:
            other.ptr, other._index = offsets_on(self.ptr, x.device), None
        other.coords = coords
        return other

    def with_features(self, x: Tensor) -> Bags:
        """Return the same bags over other rows, ``(N, e)``: a hidden layer of the features, for instance."""
        other = object.__new__(Bags)
        other.x, other.coords, other.lengths, other.ptr, other._index = (
            x,
            self.coords,
            self.lengths,
            self.ptr,
            self._index,
        )
        return other


def _tensors(values: Sequence[Tensor | np.ndarray], what: str) -> list[Tensor]:
    """Return one tensor a bag of what `Bags.pack` was given."""
    kinds = (Tensor, np.ndarray)
    if isinstance(values, kinds) and values.ndim == 2:
        raise MilbenchError(
            f"Bags.pack takes a list with the {what} of every bag; for one bag write Bags.pack([x]).", code="bag-shape"
        )
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise MilbenchError(
            f"Bags.pack takes a list of (n_i, d) tensors or arrays, not a {type(values).__name__}.", code="bag-shape"
        )
    checked = []
    for i, value in enumerate(values):
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            # A view where torch can write to it and knows its byte order and precision, else a copy.
            native = value.astype("f8" if value.dtype.itemsize > 8 else value.dtype.newbyteorder("="), copy=False)
            usable = native.flags.writeable and min(native.strides, default=0) >= 0
            value = torch.from_numpy(native if usable else native.copy())
        if not isinstance(value, Tensor):
            kind = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
            raise MilbenchError(
                f"{what} of bag {i} are a {kind}; Bags.pack takes (n_i, d) tensors or numpy arrays.", code="bag-shape"
            )
        checked.append(value)
    return checked


def offsets_on(offsets: Tensor, device: torch.device) -> Tensor:
    """Bring offsets, lengths or the like to a device, without waiting for what the device is doing."""
    if device.type == "cuda" and offsets.device.type == "cpu":
        return offsets.pin_memory().to(device, non_blocking=True)
    return offsets.to(device)


@dataclass(slots=True)
class BagOutput:
    """The output of an aggregator for B bags of N instances in all.

    Attributes:
        logits: ``(B, k)`` from the method's own head; ``k = 1`` where the authors use one sigmoid output.
        attention: ``(N, h)`` in row order, normalised per bag, or None when it was not requested.
        embedding: ``(B, e)`` bag representation, flattened, or None where a method has none.
        aux: tensors the method's loss needs besides the logits (an instance stream, say).
    """

    logits: Tensor
    attention: Tensor | None = None
    embedding: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)

    def bag(self, i: int) -> BagOutput:
        """Return what the loss of bag i needs: its logits, and its rows of the embedding and of every `aux`.

        Raises:
            MilbenchError: an entry of `aux` does not have one row a bag.
        """
        bags = len(self.logits)
        if bags == 1:
            return self
        for name, value in self.aux.items():
            if value.ndim == 0 or len(value) != bags:
                raise MilbenchError(
                    f"aux[{name!r}] has shape {tuple(value.shape)} for {bags} bags; class weights need one row a bag: "
                    'set batch_size = 1, or class_weights = "none".',
                    code="bag-shape",
                )
        rows = slice(i, i + 1)
        embedding = None if self.embedding is None else self.embedding[rows]
        return BagOutput(self.logits[rows], None, embedding, {name: value[rows] for name, value in self.aux.items()})
