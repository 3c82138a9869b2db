"""Which tool wrote a folder of .h5 files: several of them are opened, so that no damaged or empty one decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...errors import MilbenchError
from ._read import h5_dataset, h5_features_key, h5_names, open_h5

#: files that are opened to tell the tool, and those that are opened where all of these are empty or damaged
_PROBED, _AT_MOST = 5, 40


def h5_kind(path: Path) -> str | None:
    """Tell the tool by the names and attributes of a file's arrays: clam, trident, stamp, or another's features.

    Returns:
        ``named``: features under another name; None: no features, as in an empty slide.

    Raises:
        MilbenchError: the file cannot be read.
    """
    with open_h5(path) as file:
        links = file.id.links
        if links.exists(b"features"):
            features, coords = h5_dataset(file, "features", path, "f"), None
            if features is None or (len(features.shape) == 1 and features.shape != (0,)):
                return None  # one vector of a slide
            if "coords" in h5_names(file):
                coords = file["coords"]
            described = "encoder" in features.attrs or (coords is not None and "patch_size_level0" in coords.attrs)
            return "trident" if described else "clam"
        if links.exists(b"feats"):
            return None if h5_dataset(file, "feats", path, "f") is None else "stamp"
        try:
            return None if h5_features_key(file, path) is None else "named"
        except MilbenchError:
            return None


def folder_kind(files: Sequence[Path]) -> str | None:
    """Tell the tool of most of the files that were opened; None where none of them holds features.

    Raises:
        MilbenchError: none of them can be read; of the first one.
    """
    votes: Counter[str] = Counter()
    trouble: MilbenchError | None = None
    empty = False
    for opened, path in enumerate(_order(files)):
        if opened >= _PROBED and votes:
            break
        try:
            kind = h5_kind(path)
        except MilbenchError as error:
            trouble = trouble or error
            continue
        if kind is None:
            empty = True
        else:
            votes[kind] += 1
            if votes[kind] >= 2 and len(votes) == 1:
                break
    if votes:
        return votes.most_common(1)[0][0]
    if trouble is not None and not empty:
        raise trouble
    return None


def _order(files: Sequence[Path]) -> list[Path]:
    """Return files in an order in which the first few are spread over all of them."""
    files = sorted(files)
    step = max(1, len(files) // _AT_MOST)
    left = files[::step][:_AT_MOST]
    spread = [left[i * (len(left) - 1) // 4] for i in (0, 2, 4, 1, 3)] if left else []
    return list(dict.fromkeys([*spread, *left]))
