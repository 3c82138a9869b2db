"""Reading foreign files without running anything they contain and without believing what they say of their size."""

from __future__ import annotations

import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from math import isfinite, prod
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch

from ...errors import MilbenchError

Array: TypeAlias = np.ndarray | torch.Tensor

#: bytes a file may always unfold to, and the factor beyond which no real features pack: more of both is a bomb
_SMALL, _PACKED = 64 << 20, 100
#: HDF5 filters that are part of h5py: deflate, shuffle, fletcher32, szip, lzf; any other is a plug-in to be loaded
_FILTERS = (1, 2, 3, 4, 32000)
_AGAIN = "extract or copy the slide again"


def need_file(path: Path, mend: str = _AGAIN) -> int:
    """Return the size of a file in bytes.

    Raises:
        MilbenchError: nothing is there, or something that opening might hang on or fail at: a folder, a pipe, a link
            that leads nowhere or back to itself.
    """
    try:
        found = path.stat()
    except OSError as error:
        what = "a link that leads nowhere" if path.is_symlink() else "not there"
        raise MilbenchError(f"{path} is {what} ({error.strerror}); {mend}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise MilbenchError(f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'not a file'}; {mend}.")
    return found.st_size


def files_below(folder: Path, suffix: str, strict: bool = True) -> Iterator[Path]:
    """Give the files of a suffix in a folder, then those of the folders below it, each in the order of their names.

    Links to folders are followed: features often lie on another disk than the folder that gathers them.

    Args:
        folder: where to start.
        suffix: end of the names.
        strict: False: what cannot be read is passed over, for looking around in folders that may be any tool's.

    Raises:
        MilbenchError: a folder is reached a second time, as over a link that leads back, or cannot be read.
    """
    seen: dict[tuple[int, int], Path] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        folders = []
        try:
            found = here.stat()
            first = seen.setdefault((found.st_dev, found.st_ino), here)
            if first is not here:
                if not strict:
                    continue
                raise MilbenchError(f"{here} leads to the folder {first} again; remove that link.")
            for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
                if entry.name.endswith(suffix):  # whatever it is: what is no file is told when it is opened
                    yield here / entry.name
                elif entry.is_dir():
                    folders.append(here / entry.name)
        except OSError as error:  # a folder that may not be read, a link to itself
            if not strict:
                continue
            raise MilbenchError(f"{error.filename} cannot be read ({error.strerror}); mend or remove it.") from None
        waiting.extend(reversed(folders))


def same_rows(path: Path, features: Array, coords: Array | None, where: Path | None = None) -> None:
    """Refuse coordinates that are not one for each row of the features.

    Args:
        path: of the features.
        features: of any shape; whether it is the right one is not asked here.
        coords: of any shape; None passes.
        where: the file of the coordinates, if another.

    Raises:
        MilbenchError: names both numbers and the files.
    """
    if coords is not None and features.ndim == 2 and features.shape[:1] != coords.shape[:1]:
        rows, places = (len(array) if array.ndim else "no" for array in (features, coords))
        there = "" if where is None else f"{where} has "
        raise MilbenchError(f"{path} has {rows} rows but {there}{places} coordinates; extract the slide again.")


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
    need_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except MilbenchError:
        raise
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        MemoryError,
    ) as error:  # what h5py raises for damaged bytes, here and while reading
        reason = str(error).split("\n")[0]
        raise MilbenchError(f"{path} is damaged ({reason}); {_AGAIN}.") from error


def h5_dataset(file: Any, key: str, path: Path, kinds: str) -> Any | None:
    """Return a dataset that can be read whole, or None where the file has no such key.

    Args:
        file: an open h5py file.
        key: name of the dataset.
        path: for messages.
        kinds: numpy kinds the dtype may have, ``"f"`` or ``"iuf"``.

    Raises:
        MilbenchError: a link or dataset that points out of the file, another dtype, a filter that would be loaded as a
            plug-in, rows that were never written, or far more bytes than are stored.
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
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
    for code, _, _, name in filters:
        if code not in _FILTERS:
            raise MilbenchError(
                f"{path}: {key!r} is packed by the HDF5 filter {code} ({name.decode(errors='replace') or 'unnamed'}), "
                f"for which milbench loads no plug-in; store it with gzip, lzf or szip, or unpacked."
            )
    stored = dataset.id.get_storage_size()
    if _unwritten(dataset, stored):
        raise MilbenchError(f"{path}: {key!r} was not written to its end; extract the slide again.")
    if filters:
        refuse_bomb(path, dataset.nbytes, stored)
    return dataset


def _unwritten(dataset: Any, stored: int) -> bool:
    """Tell whether rows are missing, which would read as zeros: a writer that was killed leaves them."""
    if dataset.chunks is None:
        return bool(stored < dataset.nbytes)
    wanted = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() < wanted)


def h5_array(file: Any, key: str, path: Path, kinds: str) -> np.ndarray | None:
    """Read a dataset that `h5_dataset` accepts, or return None where the file has no such key."""
    dataset = h5_dataset(file, key, path, kinds)
    return None if dataset is None else np.asarray(dataset[()])


def h5_attributes(file: Any, key: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those attributes of a dataset, or of the file (``"/"``), that are text or numbers, as Python values."""
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


def finite(said: dict[str, Any], *names: str) -> float | None:
    """Return the first of some attributes that is a finite number; None where none is."""
    values = (said[name] for name in names if isinstance(said.get(name), int | float) and isfinite(said[name]))
    return next((float(value) for value in values), None)


def torch_tensor(path: Path) -> torch.Tensor:
    """Load a bare tensor from a .pt file; nothing else the file holds is ever run.

    Raises:
        MilbenchError: the file holds something other than one tensor, or is damaged.
    """
    value = _torch_load(path, "torch.save(tensor, path)")
    if not isinstance(value, torch.Tensor):
        raise MilbenchError(
            f"{path} holds a {type(value).__name__}, not a tensor; write it with torch.save(tensor, path)."
        )
    return _dense(value, path)


def torch_tensors(path: Path) -> list[torch.Tensor]:
    """Load a .pt file that holds a list of tensors, or one tensor, which is returned as a list of one.

    Raises:
        MilbenchError: the file holds anything else, or is damaged.
    """
    value = _torch_load(path, "torch.save([tensor, ...], path)")
    tensors: list[torch.Tensor] = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, torch.Tensor):
            raise MilbenchError(
                f"{path} holds a {type(one).__name__} where a tensor should be; write it with "
                f"torch.save([tensor, ...], path)."
            )
        tensors.append(_dense(one, path))
    refuse_bomb(path, sum(one.nbytes for one in tensors), path.stat().st_size)  # one tensor may be listed many times
    return tensors


def torch_named(path: Path) -> dict[str, torch.Tensor]:
    """Load the tensors that a .pt file holds under names; one bare tensor is returned as ``features``.

    Raises:
        MilbenchError: the file holds anything else, or is damaged.
    """
    value = _torch_load(path, "torch.save({'features': tensor}, path)")
    named = value if isinstance(value, dict) else {"features": value}
    found = {str(name): _dense(one, path) for name, one in named.items() if isinstance(one, torch.Tensor)}
    if not found:
        raise MilbenchError(
            f"{path} holds a {type(value).__name__} without tensors; write it with "
            f"torch.save({{'features': tensor}}, path)."
        )
    refuse_bomb(path, sum(one.nbytes for one in found.values()), path.stat().st_size)  # as in torch_tensors
    return found


def holds_names(path: Path) -> bool:
    """Whether a .pt file holds things under names, not a tensor; of a damaged one, False. Values are not read."""
    with suppress(Exception), warnings.catch_warnings():  # whatever torch raises for damaged, old and other files
        warnings.simplefilter("ignore")
        return isinstance(torch.load(path, map_location="cpu", weights_only=True, mmap=True), dict)
    return False


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a .safetensors file: ``keys()``, ``get_tensor(key)``, ``get_slice(key).get_shape()``.

    Raises:
        MilbenchError: the file is damaged, here and while reading.
    """
    from safetensors import safe_open

    need_file(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except MilbenchError:
        raise
    except Exception as error:  # of its header, of the system, of names that are no text
        reason = str(error).split("\n")[0][:120]
        raise MilbenchError(f"{path} is no readable .safetensors file ({reason}); write it again.") from None


def _torch_load(path: Path, mend: str) -> object:
    size = need_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_bomb(path, sum(entry.file_size for entry in archive.infolist()), size)
        with warnings.catch_warnings():  # about old pickle protocols; what cannot be read raises
            warnings.simplefilter("ignore")
            value: object = torch.load(path, map_location="cpu", weights_only=True)
            return value
    except MilbenchError:
        raise
    except pickle.UnpicklingError as error:
        # Of torch's long answer, which tells how to run the file all the same, one thing matters.
        named = re.search(r"Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL )?([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise MilbenchError(
            f"{path} does not load as a plain tensor: it holds other Python objects{what}, which milbench does not "
            f"run; write it again with {mend}."
        ) from None
    except Exception as error:  # zip, EOF and runtime errors, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise MilbenchError(f"{path} does not load as a plain tensor ({reason}); write it again with {mend}.") from None


def _dense(value: torch.Tensor, path: Path) -> torch.Tensor:
    if value.layout != torch.strided or value.is_nested:
        raise MilbenchError(f"{path} holds a sparse tensor; write it with torch.save(tensor.to_dense(), path).")
    if value.is_quantized or value.device.type != "cpu":
        raise MilbenchError(f"{path} holds a tensor without plain values; write it with torch.save(tensor, path).")
    # A view may repeat one stored row a billion times: small to load, and no memory holds its copy.
    if value.nbytes > value.untyped_storage().nbytes():
        raise MilbenchError(
            f"{path} declares a tensor of shape {tuple(value.shape)} but stores less; write it with "
            f"torch.save(tensor.contiguous(), path)."
        )
    return value


def npy_array(path: Path, kinds: str = "biuf") -> np.ndarray:
    """Read a .npy file of plain values.

    Args:
        path: the file.
        kinds: numpy kinds the dtype may have.

    Raises:
        MilbenchError: the file is damaged, truncated, holds Python objects or another kind of values.
    """
    size = need_file(path)
    try:
        with path.open("rb") as file:
            _npy_header(file, size, path, kinds)
            file.seek(0)
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except MilbenchError:
        raise
    except Exception as error:  # a header is Python text, and parsing it fails in as many ways
        reason = str(error).split("\n")[0][:120]
        raise MilbenchError(f"{path} is no readable .npy file ({reason}); write it again with numpy.save.") from None


def npz_arrays(path: Path, keys: Collection[str] | None = None, kinds: str = "biufSU") -> dict[str, np.ndarray]:
    """Read arrays of a .npz file of plain values.

    Args:
        path: the file.
        keys: the arrays to read, as far as they are there; None: all.
        kinds: numpy kinds the dtypes may have.

    Raises:
        MilbenchError: the file is damaged, would unfold to far more than it holds, or an array holds Python objects or
            another kind of values.
    """
    size = need_file(path)
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            wanted = [key for key in entries if keys is None or key in keys]
            refuse_bomb(path, sum(entries[key].file_size for key in wanted), size)
            for key in wanted:
                with archive.open(entries[key]) as file:
                    _npy_header(file, entries[key].file_size, path, kinds, f"{key!r} of ")
                with archive.open(entries[key]) as file:
                    found[key] = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
                    file.read(1)  # the checksum is compared at the end
    except MilbenchError:
        raise
    except Exception as error:  # of the archive, of its compression, of the arrays in it
        reason = str(error).split("\n")[0][:120]
        raise MilbenchError(
            f"{path} is no readable .npz of plain arrays ({reason}); write it again with numpy.savez."
        ) from None
    return found


def npy_mapped(path: Path, kinds: str = "biuf") -> np.ndarray:
    """Map a .npy file of plain values: as `npy_array`, but values are read when they are used, and copied nowhere.

    Writing to the array does not change the file.
    """
    size = need_file(path)
    with suppress(Exception):  # what cannot be mapped, an array of no values for one, is read, or told of there
        with path.open("rb") as file:
            _npy_header(file, size, path, kinds)
        return np.asarray(np.lib.format.open_memmap(path, mode="c"))
    return npy_array(path, kinds)


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz file.

    Raises:
        MilbenchError: the file is damaged.
    """
    need_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:
        reason = str(error).split("\n")[0][:120]
        raise MilbenchError(
            f"{path} is no readable .npz of plain arrays ({reason}); write it again with numpy.savez."
        ) from None


def _npy_header(file: IO[bytes], size: int, path: Path, kinds: str, which: str = "") -> None:
    """Refuse an array whose header promises what the file does not hold, before anything is made room for."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise MilbenchError(
            f"{which}{path} holds Python objects, which milbench does not load; convert the array to numbers."
        )
    if dtype.kind not in kinds:
        wanted = "floating point" if kinds == "f" else "numbers" if set(kinds) <= set("biuf") else "numbers or text"
        raise MilbenchError(f"{which}{path} must be {wanted}, got dtype {dtype}; convert it first.")
    held = size - file.tell()
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > held:
        raise MilbenchError(
            f"{which}{path} declares shape {shape} of {dtype} but holds {held:,} bytes of values; copy it again."
        )


def refuse_bomb(path: Path, declared: int, stored: int) -> None:
    """Refuse a file that unfolds to far more than it stores.

    Args:
        path: the file.
        declared: bytes that its arrays would take in memory.
        stored: bytes that are there.

    Raises:
        MilbenchError: the factor is one that no real features pack by, and the size more than a trifle.
    """
    if declared > max(_SMALL, _PACKED * stored):
        raise MilbenchError(
            f"{path} would unfold from {stored:,} to {declared:,} bytes, as features do not; write it again unpacked."
        )
