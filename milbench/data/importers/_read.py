"""Reading foreign files without running anything they contain and without believing what they say of their size."""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite, prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ...errors import MilbenchError
from ..input_files.intact import refuse_damaged_members, refuse_h5_length
from ..input_files.regular import passed_over, regular_size, unread
from ._arrays import COORDS, Array, bag, coords_key, coords_wanted, features_key
from ._listing import ending

__all__ = [
    "Array",
    "bag",
    "files_below",
    "finite",
    "h5_array",
    "h5_attributes",
    "h5_coords",
    "h5_dataset",
    "h5_features_key",
    "h5_names",
    "need_file",
    "npy_array",
    "npy_mapped",
    "npz_arrays",
    "npz_keys",
    "open_h5",
    "open_safetensors",
    "pt_kind",
    "refuse_bomb",
    "torch_few_rows",
    "torch_named",
    "torch_tensor",
    "torch_tensors",
]  # fmt: skip

#: bytes a file may always unfold to, and the factor beyond which no real features pack: more of both is a bomb
_SMALL, _PACKED = 64 << 20, 100
#: HDF5 filters that are part of h5py: deflate, shuffle, fletcher32, szip, lzf; any other is a plug-in to be loaded
_FILTERS = (1, 2, 3, 4, 32000)
_AGAIN = "extract or copy the slide again"


def need_file(path: Path, advice: str = _AGAIN) -> int:
    """Return the size of a file in bytes; see `milbench.data.input_files.regular.regular_size` for what is refused."""
    return regular_size(path, advice)


def files_below(folder: Path, suffix: str, strict: bool = True) -> Iterator[Path]:
    """Give the files of an ending in a folder, then those of the folders below it, each in the order of their names.

    Links to folders are followed: features often lie on another disk than the folder that gathers them.

    Args:
        folder: where to start.
        suffix: ending of the names, as `milbench.data.importers._listing.ending` returns it.
        strict: False: what cannot be read is passed over, for searching folders that may be any tool's.

    Raises:
        MilbenchError: a folder is reached a second time, as over a link that leads back, or cannot be read.
    """
    seen: dict[tuple[int, int], Path] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        folders = []
        try:
            status = here.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), here)
            if first is not here:
                if not strict:
                    continue
                raise MilbenchError(f"{here} leads to the folder {first} again; remove that link.", code="path-loop")
            for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
                if passed_over(entry.name):
                    continue
                if ending(here / entry.name) == suffix:  # whatever it is: what is no file is refused when it is opened
                    yield here / entry.name
                elif entry.is_dir():
                    folders.append(here / entry.name)
        except OSError as error:  # a folder that may not be read, a link to itself
            if not strict:
                continue
            raise MilbenchError(
                f"{error.filename} cannot be read ({error.strerror}); correct its permissions or remove it.",
                code="file-unreadable",
            ) from None
        waiting.extend(reversed(folders))


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises:
        MilbenchError: h5py is not installed; the file is missing, forbidden, locked by a process that writes it, or
            damaged.
    """
    size = need_file(path)
    if size == 0:
        raise MilbenchError(f"{path} is empty, it has no bytes; {_AGAIN}.", code="file-damaged")
    try:
        refuse_h5_length(path, size)
        with _opened_h5(path) as file:
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
        raise unread(path, f"{path} is damaged ({_first_line(error)}); {_AGAIN}.") from error


def _opened_h5(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise MilbenchError(
            f'{path} needs h5py; install it with pip install "milbench[formats]".', code="package-missing"
        ) from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = str(error)
        if "unable to lock file" not in text:
            raise
        busy = re.search(r"errno = (\d+)", text)
        if busy is not None and int(busy[1]) not in (errno.EAGAIN, errno.EACCES):  # a drive that knows no locks
            return h5py.File(path, "r", locking=False)
        raise MilbenchError(
            f"{path} is locked, so another process has it open, most likely to write it; wait until that ends, or, "
            f"where nothing writes it, set HDF5_USE_FILE_LOCKING=FALSE in the environment.",
            code="file-locked",
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__


def h5_names(file: Any) -> list[str]:
    """Return the names of the arrays that lie in the file itself, not behind links, at its top."""
    import h5py

    own = [key for key in file if isinstance(file.get(key, getlink=True), h5py.HardLink)]
    return [key for key in own if isinstance(file[key], h5py.Dataset)]


def h5_features_key(file: Any, path: Path) -> str | None:
    """Return the name of the features; None where the file holds positions alone, of no patches: an empty slide.

    Raises:
        MilbenchError: nothing may be features, or several arrays may.
    """
    names = h5_names(file)
    coords = coords_key(names)
    if names == [coords] and 0 in (file[coords].shape or ()):
        return None
    arrays = [name for name in names if file[name].dtype.kind == "f" and len(file[name].shape or ()) in (2, 3)]
    return features_key(list(file), arrays, path)


def h5_coords(file: Any, path: Path) -> np.ndarray | None:
    """Read the positions under any of their usual names; None where there are none, or none are wanted."""
    if not coords_wanted():
        return None
    key = next((name for name in COORDS if file.id.links.exists(name.encode())), None)
    return None if key is None else h5_array(file, key, path, "iufV")


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

    # The links themselves are checked: `key in file` would follow an external link into the other file.
    if not file.id.links.exists(key.encode()):
        return None
    if file.id.links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise MilbenchError(
            f"{path}: {key!r} is a link, which milbench does not follow; store the array itself.",
            code="file-unsupported",
        )
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise MilbenchError(f"{path}: {key!r} is no array; extract the slide again.", code="file-wrong-content")
    if dataset.is_virtual or dataset.external:
        raise MilbenchError(
            f"{path}: {key!r} lies in other files, which milbench does not open; store the array itself.",
            code="file-unsupported",
        )
    if dataset.dtype.kind not in kinds:
        wanted = "floating point" if kinds == "f" else "numbers"
        raise MilbenchError(
            f"{path}: {key!r} must be {wanted}, got dtype {dataset.dtype}; convert it first.", code="features-bad-array"
        )
    if dataset.dtype.kind == "f" and dataset.dtype.itemsize not in (2, 4, 8):
        raise MilbenchError(
            f"{path}: {key!r} is of dtype {dataset.dtype}, which no cache holds; convert it to float32.",
            code="features-bad-array",
        )
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
    for code, _, _, name in filters:
        if code not in _FILTERS:
            raise MilbenchError(
                f"{path}: {key!r} is packed by the HDF5 filter {code} ({name.decode(errors='replace') or 'unnamed'}), "
                f"for which milbench loads no plug-in; store it with gzip, lzf or szip, or unpacked.",
                code="file-unsupported",
            )
    stored = dataset.id.get_storage_size()
    if _unwritten(dataset, stored):
        raise MilbenchError(
            f"{path}: {key!r} was not written to its end; extract the slide again.", code="file-damaged"
        )
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
    attributes: dict[str, Any] = {}
    for name in names:
        value = file[key].attrs.get(name)
        if isinstance(value, bytes):
            attributes[name] = value.decode(errors="replace")
        elif isinstance(value, str | int | float):
            attributes[name] = value
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf" and value.size > 0:
            attributes[name] = value.reshape(-1)[0].item()  # CLAM keeps (x, y) pairs of equal numbers
    return attributes


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
            f"{path} holds a {type(value).__name__}, not a tensor; write it with torch.save(tensor, path).",
            code="file-wrong-content",
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
                f"torch.save([tensor, ...], path).",
                code="file-wrong-content",
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
    tensors = {str(name): _dense(one, path) for name, one in named.items() if isinstance(one, torch.Tensor)}
    if not tensors:
        raise MilbenchError(
            f"{path} holds a {type(value).__name__} without tensors; write it with "
            f"torch.save({{'features': tensor}}, path).",
            code="file-wrong-content",
        )
    refuse_bomb(path, sum(one.nbytes for one in tensors.values()), path.stat().st_size)  # as in torch_tensors
    return tensors


def pt_kind(paths: Sequence[Path]) -> str | None:
    """Tell what most of the .pt files hold that load, of a few: a tensor, things under names, or something else.

    Returns:
        ``Tensor``, ``dict``, ``list`` ...; None: none of them loads. Values are not read.
    """
    votes: Counter[str] = Counter()
    for path in [paths[i * (len(paths) - 1) // 4] for i in (0, 2, 4, 1, 3)] if paths else []:
        with suppress(Exception), warnings.catch_warnings():  # whatever torch raises for damaged, old and other files
            warnings.simplefilter("ignore")
            need_file(path)
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            kinds = {dict: "dict", torch.Tensor: "Tensor"}  # their subclasses, such as parameters, among them
            votes[next((name for kind, name in kinds.items() if isinstance(value, kind)), type(value).__name__)] += 1
            if votes.total() == 2 and len(votes) == 1:
                break
    return votes.most_common(1)[0][0] if votes else None


def torch_few_rows(path: Path, most: int) -> tuple[tuple[int, ...], torch.Tensor | None]:
    """Return the shape of a bare tensor as a bag (N, D), and some of its rows, evenly spaced; None: it is none."""
    value: object = None
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        need_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if value is None:
        value = torch_tensor(path)  # of the old form, or damaged
    if not isinstance(value, torch.Tensor):
        return (), None
    value, _ = bag(path, value, None)
    shape = tuple(value.shape)
    if len(shape) != 2 or 0 in shape:
        return shape, None
    rows = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], most)).round().astype(int))
    return shape, torch.as_tensor(value)[torch.from_numpy(rows)].detach().clone()


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
        raise unread(path, f"{path} is no readable .safetensors file ({reason}); write it again.") from None


def _torch_load(path: Path, advice: str) -> object:
    size = need_file(path)
    try:
        archived = zipfile.is_zipfile(path)
        if archived:
            with zipfile.ZipFile(path) as archive:
                refuse_bomb(path, sum(entry.file_size for entry in archive.infolist()), size)
                refuse_damaged_members(path, archive)
        value: object
        with warnings.catch_warnings():  # about old pickle protocols; what cannot be read raises
            warnings.simplefilter("ignore")
            if archived:
                value = torch.load(path, map_location="cpu", weights_only=True)
            else:  # the form of before torch 1.6: pickles, and the values behind them
                with path.open("rb") as file:
                    value = torch.load(file, map_location="cpu", weights_only=True)
                    if file.read(1):
                        raise ValueError("it holds more bytes than its tensors")
        return value
    except MilbenchError:
        raise
    except pickle.UnpicklingError as error:
        # Of torch's long answer, which tells how to run the file all the same, one thing matters.
        named = re.search(r"Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL )?([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise MilbenchError(
            f"{path} does not load as a plain tensor: it holds other Python objects{what}, which milbench does not "
            f"run; write it again with {advice}.",
            code="file-unsafe",
        ) from None
    except Exception as error:  # zip, EOF and runtime errors, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise unread(
            path, f"{path} does not load as a plain tensor ({reason}); write it again with {advice}."
        ) from None


def _dense(value: torch.Tensor, path: Path) -> torch.Tensor:
    if value.layout != torch.strided or value.is_nested:
        raise MilbenchError(
            f"{path} holds a sparse tensor; write it with torch.save(tensor.to_dense(), path).",
            code="file-wrong-content",
        )
    if value.is_quantized or value.device.type != "cpu":
        raise MilbenchError(
            f"{path} holds a tensor without plain values; write it with torch.save(tensor, path).",
            code="file-wrong-content",
        )
    # A view may repeat one stored row a billion times: small to load, and no memory holds its copy.
    if value.nbytes > value.untyped_storage().nbytes():
        raise MilbenchError(
            f"{path} declares a tensor of shape {tuple(value.shape)} but stores less; write it with "
            f"torch.save(tensor.contiguous(), path).",
            code="file-damaged",
        )
    return value.detach().resolve_neg()  # parameters and tensors saved with their gradient's need are values, too


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
        raise unread(path, f"{path} is no readable .npy file ({reason}); write it again with numpy.save.") from None


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
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            wanted = [key for key in entries if keys is None or key in keys]
            refuse_bomb(path, sum(entries[key].file_size for key in wanted), size)
            for key in wanted:
                with archive.open(entries[key]) as file:
                    _npy_header(file, entries[key].file_size, path, kinds, f"{key!r} of ")
                with archive.open(entries[key]) as file:
                    arrays[key] = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
                    file.read(1)  # at the end of a member, where its checksum is compared
            for key in set(entries) - set(wanted):  # a damaged name may hide an array that would be wanted
                with archive.open(entries[key]):
                    pass
    except MilbenchError:
        raise
    except Exception as error:  # of the archive, of its compression, of the arrays in it
        reason = str(error).split("\n")[0][:120]
        raise unread(
            path, f"{path} is no readable .npz of plain arrays ({reason}); write it again with numpy.savez."
        ) from None
    return arrays


def npy_mapped(path: Path, kinds: str = "biuf") -> np.ndarray:
    """Map a .npy file of plain values: as `npy_array`, but values are read when they are used, and copied nowhere.

    Writing to the array does not change the file.
    """
    size = need_file(path)
    with suppress(Exception):  # what cannot be mapped, an array of no values for one, is read or reported by npy_array
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
        raise unread(
            path, f"{path} is no readable .npz of plain arrays ({reason}); write it again with numpy.savez."
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
            f"{which}{path} holds Python objects, which milbench does not load; convert the array to numbers.",
            code="file-unsafe",
        )
    if dtype.kind not in kinds:
        wanted = "floating point" if kinds == "f" else "numbers" if set(kinds) <= set("biufV") else "numbers or text"
        raise MilbenchError(
            f"{which}{path} must be {wanted}, got dtype {dtype}; convert it first.", code="features-bad-array"
        )
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise MilbenchError(
            f"{which}{path} is of dtype {dtype}, which no cache holds; convert it to float32.",
            code="features-bad-array",
        )
    held = size - file.tell()
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != held:
        raise MilbenchError(
            f"{which}{path} declares shape {shape} of {dtype} but holds {held:,} bytes of values; copy it again.",
            code="file-damaged",
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
            f"{path} would unfold from {stored:,} to {declared:,} bytes, as features do not; write it again unpacked.",
            code="file-too-large",
        )
