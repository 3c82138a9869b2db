"""mat: bags in a .mat file, in the layouts in which MUSK, Elephant, Fox, Tiger and the newsgroups are distributed.

- ``features`` (N, d), ``bag_ids`` (N), ``labels`` (N or B), also sparse: Andrews et al., NIPS 2002;
- a structure or PRTools data set, whatever its name: ``data`` (N, d), ``nlab`` (N), ``lablist``, ``ident.milbag`` (N):
  Tax, A Matlab toolbox for multiple-instance learning;
- ``data``, cells of (B, 2 or 3): instances (n, d), label of the bag, labels of the instances: Zhou et al., ICML 2009;
- ``pos`` and ``neg`` (Wei et al., ICDM 2014), or ``Pbags`` and ``Nbags``: cells of instances;
- ``bags``, cells of instances, and ``labels`` (B).

Names are recognised in any letter case. A bag's label is the largest of its instances'; labels -1 and 1, and
``negative`` and ``positive``, become 0 and 1. Files of version 7.3 are to be saved again as ``-v7``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count, some
from . import Slides
from ._matlab import dense, mat_variables
from ._packed import Packed, PackedSlides, coded, pack

NAME = "mat"

_FEATURES = ("features", "data", "instances", "x", "bags", "bag")
_BAGS = ("bag_ids", "bagids", "bag_id", "bagid", "milbag", "xtb", "bags", "bag")
_LABELS = ("labels", "label", "nlab", "bag_labels", "targets", "y", "yb")
_PAIRS = (("pos", "neg"), ("pbags", "nbags"))
_ADVICE = "give features (N, d), bag_ids (N) and labels (N)"

Fields: TypeAlias = dict[str, Any]


def detect(source: Path) -> str | None:
    """Recognise a .mat file."""
    if source.suffix.lower() != ".mat" or not source.is_file():
        return None
    packed = _read(source)
    return f"MATLAB bags in {source}: {count(len(packed.names), 'bag')} of {len(packed.features)} instances"


def open_source(source: Path) -> Slides:
    """Open the bags, in stored order.

    Raises:
        MilbenchError: the file is damaged, of none of the layouts, holds what only MATLAB can rebuild, or a column is
            the label.
    """
    return PackedSlides(_read(source), source)


def _read(path: Path) -> Packed:
    fields = _fields(mat_variables(path))
    for positive, negative in _PAIRS:
        if positive in fields and negative in fields:
            bags = [*_bags(fields[positive], path), *_bags(fields[negative], path)]
            labels_read = np.repeat([1.0, 0.0], [len(_bags(fields[name], path)) for name in (positive, negative)])
            return _stack(path, bags, labels_read)
    data, ids, labels = _among(fields, _FEATURES), _among(fields, _BAGS), _among(fields, _LABELS)
    if data is None:
        raise MilbenchError(
            f"{path} holds {some(list(fields), 8) or 'nothing'}, without bags; {_ADVICE}.",
            code="file-wrong-content",
        )
    if _is_cells(data):
        if data.ndim == 2 and data.shape[1] in (2, 3) and labels is None:
            labels_read = np.array([_scalar(cell, path) for cell in data[:, 1]])
            return _stack(path, _bags(data[:, 0], path), labels_read)
        if labels is not None:
            return _stack(path, _bags(data, path), _numbers(labels, path, "labels"))
    elif ids is not None and ids is not data and labels is not None:
        return _flat(path, _matrix(data, path), _names(ids, path), _labels(labels, fields, path))
    raise MilbenchError(
        f"{path} holds {some(list(fields), 8)}, where bags and labels are not recognised; {_ADVICE}.",
        code="file-wrong-content",
    )


def _fields(variables: Fields) -> Fields:
    """Return what holds the bags: the variables, or the fields of a structure among them, by small letters."""
    for fields in map(_record, variables.values()):
        if _among(fields, _FEATURES) is not None:
            return fields | _record(fields.get("ident"))
    return {name.lower(): value for name, value in variables.items()}


def _record(value: Any) -> dict[str, Any]:
    """Return the fields of a structure; none of an array of structures, and of anything else."""
    if not isinstance(value, np.ndarray) or value.dtype.names is None or value.size != 1:
        return {}
    record = value.reshape(-1)[0]
    return {name.lower(): record[name] for name in value.dtype.names}


def _among(fields: Fields, names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def _is_cells(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.names is None and value.dtype.kind == "O"


def _matrix(value: Any, path: Path) -> np.ndarray:
    """Return instances (n, d) as floating point."""
    value = dense(value, path)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim != 2:
        what = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise MilbenchError(f"{path} holds {what} where instances should be; {_ADVICE}.", code="file-wrong-content")
    return value if value.dtype.kind == "f" else value.astype(np.float64)


def _bags(cells: Any, path: Path) -> list[np.ndarray]:
    """Return the bags of a vector of cells; of a (B, n, d) array, which holds bags of one length."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf" and cells.ndim == 3:
        return [_matrix(bag, path) for bag in cells]
    if not _is_cells(cells) or cells.size != max(cells.shape, default=0):
        raise MilbenchError(
            f"{path} holds no vector of cells where bags should be; {_ADVICE}.", code="file-wrong-content"
        )
    return [_matrix(bag, path) for bag in cells.reshape(-1)]


def _stack(path: Path, bags: list[np.ndarray], labels: np.ndarray) -> Packed:
    """Pack bags that have no names: they are numbered in their order."""
    if len(bags) != len(labels) or not bags:
        raise MilbenchError(
            f"{path} holds {count(len(bags), 'bag')} and {count(len(labels), 'label')}; {_ADVICE}.",
            code="file-wrong-content",
        )
    full = [bag for bag in bags if bag.size]
    widths = sorted({bag.shape[1] for bag in full})
    if len(widths) != 1:
        widths_text = " and ".join(map(str, widths[:5])) or "no"
        raise MilbenchError(f"{path} holds bags of {widths_text} features; {_ADVICE}.", code="features-disagree")
    lengths = [len(bag) if bag.size else 0 for bag in bags]
    names = [f"bag{i:04d}" for i in range(len(bags))]
    labels = coded(labels, path)
    packed = pack(path, np.concatenate(full), np.repeat(names, lengths).tolist(), np.repeat(labels, lengths), "bag")
    # Bags without instances have a place and a label too.
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Packed(packed.features, offsets, tuple(f"{label:.0f}" for label in labels), tuple(names))


def _flat(path: Path, features: np.ndarray, names: list[str], labels: np.ndarray) -> Packed:
    bags = list(dict.fromkeys(names))
    if len(names) != len(features) or len(labels) not in (len(features), len(bags)) or not names:
        raise MilbenchError(
            f"{path} holds {count(len(features), 'instance')}, {len(names)} ids of {count(len(bags), 'bag')} and "
            f"{count(len(labels), 'label')}; {_ADVICE}.",
            code="file-wrong-content",
        )
    if len(labels) == len(features):
        return pack(path, features, names, labels)
    label_of = dict(zip(bags, labels, strict=True))
    return pack(path, features, names, np.array([label_of[name] for name in names]), "bag")


def _names(value: Any, path: Path) -> list[str]:
    """Return ids of bags: numbers, rows of letters, or cells of either."""
    if _is_cells(value):
        return [_name(cell, path) for cell in value.reshape(-1)]
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return [str(name).rstrip() for name in value.reshape(-1)]
    return [_digits(number) for number in _numbers(value, path, "ids of bags")]


def _name(cell: Any, path: Path) -> str:
    if isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size == 1:
        return str(cell.reshape(-1)[0])
    return _digits(_scalar(cell, path))


def _digits(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _labels(value: Any, fields: Fields, path: Path) -> np.ndarray:
    """Return labels; those of PRTools are places in a list of names, from 1 on."""
    if value is not fields.get("nlab"):
        return _numbers(value, path, "labels")
    # A data set may have several lists of labels, of which the first is the classes.
    places = _numbers(value[:, :1] if isinstance(value, np.ndarray) and value.ndim == 2 else value, path, "labels")
    names = [name.lower() for name in _words(fields.get("lablist"))][:2]
    if sorted(names) == ["negative", "positive"] and np.isin(places, (1, 2)).all():
        return np.array([float(names[int(place) - 1] == "positive") for place in places])
    return places - 1


def _words(value: Any) -> Iterator[str]:
    """Give the rows of letters in an array or in cells of cells, in their order."""
    if _is_cells(value):
        for cell in value.reshape(-1):
            yield from _words(cell)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "U":
        yield from (str(word).strip() for word in value.reshape(-1))


def _scalar(value: Any, path: Path) -> float:
    numbers = _numbers(value, path, "a label")
    if len(numbers) != 1:
        raise MilbenchError(
            f"{path} holds {len(numbers)} numbers where one should be; {_ADVICE}.", code="file-wrong-content"
        )
    return float(numbers[0])


def _numbers(value: Any, path: Path, what: str) -> np.ndarray:
    """Return a vector of numbers, whichever way it lies."""
    value = dense(value, path)
    if _is_cells(value):
        return np.array([_scalar(cell, path) for cell in value.reshape(-1)])
    good = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size == max(value.shape, default=0)
    if not good or not np.isfinite(value).all():
        raise MilbenchError(
            f"{path} holds no vector of finite numbers where {what} should be; {_ADVICE}.", code="file-wrong-content"
        )
    return np.asarray(value.reshape(-1), dtype=np.float64)
