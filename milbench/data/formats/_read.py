"""Reading foreign files without running anything they contain and without believing what they say of their size."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import MilbenchError


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises:
        MilbenchError: h5py is not installed, or the file is damaged.
    """
    try:
        import h5py
    except ImportError:
        raise MilbenchError(f'{path} needs h5py; install it with pip install "milbench[formats]".') from None
    if not path.is_file():
        raise MilbenchError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; extract the slide again.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        MemoryError,
    ) as error:  # what h5py raises for damaged bytes, here and while reading
        reason = str(error).split("\n")[0]
        raise MilbenchError(f"{path} is damaged ({reason}); extract or copy the slide again.") from error


def h5_dataset(file: Any, key: str, path: Path, kinds: str) -> Any | None:
    """Return a dataset that can be read whole, or None where the file has no such key.

    Args:
        file: an open h5py file.
        key: name of the dataset.
        path: for messages.
        kinds: numpy kinds the dtype may have, ``"f"`` or ``"iuf"``.

    Raises:
        MilbenchError: a link or dataset that points out of the file, another dtype, or rows that were never written.
    """
    import h5py

    # Asked of the links themselves: `key in file` would follow an external link into the other file.
    if not file.id.links.exists(key.encode()):
        return None
    if file.id.links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise MilbenchError(f"{path}: {key!r} is a link, which milbench does not follow; store the array itself.")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise MilbenchError(f"{path}: {key!r} is no array; extract the slide again.")
    if dataset.is_virtual or dataset.external:
        raise MilbenchError(
            f"{path}: {key!r} lies in other files, which milbench does not open; store the array itself."
        )
    if dataset.dtype.kind not in kinds:
        wanted = "floating point" if kinds == "f" else "numbers"
        raise MilbenchError(f"{path}: {key!r} must be {wanted}, got dtype {dataset.dtype}; convert it first.")
    # A writer that was killed leaves rows that read as zeros. Without compression the space on disk tells.
    stored, packed = dataset.id.get_storage_size(), dataset.id.get_create_plist().get_nfilters() > 0
    if stored < dataset.nbytes and (not packed or stored == 0):
        raise MilbenchError(f"{path}: {key!r} was not written to its end; extract the slide again.")
    return dataset


def h5_array(file: Any, key: str, path: Path, kinds: str) -> np.ndarray | None:
    """Read a dataset that `h5_dataset` accepts, or return None where the file has no such key."""
    dataset = h5_dataset(file, key, path, kinds)
    return None if dataset is None else np.asarray(dataset[()])


def h5_attributes(file: Any, key: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those attributes of a dataset that are there and plain (text or numbers), as Python values."""
    found: dict[str, Any] = {}
    for name in names:
        value = file[key].attrs.get(name)
        if isinstance(value, bytes):
            found[name] = value.decode(errors="replace")
        elif isinstance(value, str | int | float):
            found[name] = value
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf" and value.size > 0:
            found[name] = value.reshape(-1)[0].item()  # CLAM keeps (x, y) pairs of equal numbers
    return found


def torch_tensor(path: Path) -> torch.Tensor:
    """Load a bare tensor from a .pt file; nothing else the file holds is ever run.

    Raises:
        MilbenchError: the file holds something other than one tensor, or is damaged.
    """
    try:
        with warnings.catch_warnings():  # about old pickle protocols; what cannot be read raises
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Of torch's long answer, which tells how to run the file all the same, one thing matters.
        named = re.search(r"Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL )?([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise MilbenchError(
            f"{path} does not load as a plain tensor: it holds other Python objects{what}, which milbench does not "
            f"run; write it again with torch.save(tensor, path)."
        ) from None
    except Exception as error:  # zip, EOF and runtime errors, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise MilbenchError(
            f"{path} does not load as a plain tensor ({reason}); write it again with torch.save(tensor, path)."
        ) from None
    if not isinstance(value, torch.Tensor):
        raise MilbenchError(
            f"{path} holds a {type(value).__name__}, not a tensor; write it with torch.save(tensor, path)."
        )
    if value.layout != torch.strided:
        raise MilbenchError(f"{path} holds a sparse tensor; write it with torch.save(tensor.to_dense(), path).")
    return value
