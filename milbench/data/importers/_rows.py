"""The number of patches of a file, from its header, so that a cohort can be surveyed before any of it is read.

None wherever the header does not tell or is not understood: what is wrong with a file is said when it is loaded.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ...errors import MilbenchError
from ._arrays import FEATURES
from ._read import h5_features_key, need_file, open_h5


def h5_rows(path: Path, key: str | None) -> int | None:
    """Return the rows of a dataset; of (1, N, D), a batch of one, N. None: of the features, under whatever name."""
    import h5py

    with suppress(MilbenchError), open_h5(path) as file:
        if key is None or (key in FEATURES[:2] and not file.id.links.exists(key.encode())):
            key = h5_features_key(file, path)
            if key is None:
                return 0
        # The link is checked first: opening it would follow an external one into another file.
        if isinstance(file.get(key, getlink=True), h5py.HardLink) and isinstance(file[key], h5py.Dataset):
            return _rows(file[key].shape)
    return None


def npy_rows(path: Path) -> int | None:
    """Return the rows of the array of a .npy file."""
    # A header is Python text, and parsing a damaged one fails in many ways, tokenize.TokenError among them.
    with suppress(Exception), _regular(path) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        return None if read is None else _rows(read(file)[0])
    return None


def torch_rows(path: Path) -> int | None:
    """Return the rows of a bare tensor in a .pt file, whose values are mapped and not read."""
    with suppress(Exception), warnings.catch_warnings():  # whatever torch raises for damaged, old and other files
        warnings.simplefilter("ignore")
        need_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return _rows(value.shape) if isinstance(value, torch.Tensor) else None
    return None


def _regular(path: Path) -> IO[bytes]:
    need_file(path)
    return path.open("rb")


def _rows(shape: tuple[int, ...] | None) -> int | None:
    if shape is None or len(shape) == 0:
        return None
    return int(shape[1]) if len(shape) == 3 and shape[0] == 1 else int(shape[0])
