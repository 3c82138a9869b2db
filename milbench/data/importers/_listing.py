"""Which files of a folder hold features: by their endings in any case, in subfolders too, each slide once.

Hidden files, lock files and parts of files that are being copied are passed over, see
`milbench.data.input_files.regular`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..input_files.regular import passed_over

#: other endings of the same kinds of files
_SAME = {".hdf5": ".h5", ".hdf": ".h5", ".he5": ".h5", ".pth": ".pt", ".pq": ".parquet"}
#: endings that files of features have
FEATURE_ENDINGS = (".h5", ".pt", ".npy", ".npz", ".safetensors", ".parquet")
#: folders of CLAM's layout that hold slides
LAYOUT = ("h5_files", "pt_files")
#: folders next to features that hold something else than slides
_OTHER_FOLDERS = frozenset({
    "patches", "masks", "stitches", "coords", "labels", "patch_labels", "inst_labels", "graphs", "splits", "heatmaps",
    "visualization", "thumbnails", "contours", "contours_geojson",
})  # fmt: skip
#: how deep and how many folders are searched: a source is no whole disk
_DEEPEST, _MOST_FOLDERS = 4, 5000


def ending(path: Path) -> str:
    """Return the ending of a file's name in small letters, and the usual one of the endings that mean the same."""
    small = path.suffix.lower()
    return _SAME.get(small, small)


def by_number(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts names with their numbers as numbers: part-2 before part-10."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def files_in(folder: Path, *endings: str) -> list[Path]:
    """Return the entries of a folder with one of the endings, in the order of their names; none where it is no folder.

    What has such a name and is no file is refused when it is opened, not passed over.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    return [path for name in names if not passed_over(name) and ending(path := folder / name) in endings]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder that may hold slides, in the order of their names."""
    try:
        folders = sorted((entry.name for entry in os.scandir(folder) if _is_folder(entry)), key=by_number)
    except OSError:
        return []
    return [folder / name for name in folders if not passed_over(name) and name.lower() not in _OTHER_FOLDERS]


def gather(folder: Path, endings: Sequence[str], accept: Callable[[list[Path]], bool]) -> list[Path]:
    """Return the files of a folder and of those folders below it whose files are of the same kind.

    Args:
        folder: its own files are taken as they are.
        endings: as `ending` returns them.
        accept: whether the files of one folder below are slides of this source.

    Raises:
        MilbenchError: a folder is reached a second time, over a link that leads back.
    """
    gathered: list[Path] = []
    seen: dict[tuple[int, int], Path] = {}
    waiting = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        status = here.stat()
        if (first := seen.setdefault((status.st_dev, status.st_ino), here)) is not here:
            raise MilbenchError(f"{here} leads to the folder {first} again; remove that link.", code="path-loop")
        files = files_in(here, *endings)
        if files and (depth == 0 or accept(files)):
            gathered += files
        if depth < _DEEPEST and len(seen) < _MOST_FOLDERS:
            waiting += [(below, depth + 1) for below in reversed(folders_in(here)) if below.suffix.lower() != ".zarr"]
    return gathered


def several_folders(
    folder: Path, endings: Sequence[str], accept: Callable[[list[Path]], bool], within: Sequence[str] = ()
) -> bool:
    """Whether a folder without files of its own has two folders of slides or more, as the batches of a cohort.

    Args:
        folder: of the batches.
        endings: as `ending` returns them.
        accept: whether some files of one folder are slides of this source.
        within: names of folders in a batch that may hold its slides.
    """
    batches = 0
    for below in folders_in(folder):
        places = (below, *(below / name for name in within))
        batches += any(accept(files) for place in places if (files := files_in(place, *endings)))
        if batches == 2:
            return True
    return False


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by the names of their slides, which are their names without ending and folder.

    Where all files have one name, each in a folder of its own (``S000/features.h5``), the folders are the slides.

    Raises:
        MilbenchError: two files have one name.
    """
    by_name: dict[str, Path] = {}
    every = list(paths)
    if len(every) > 1 and len({path.stem for path in every}) == 1:
        homes = {path.parent.name: path for path in every}
        parents = {path.parent for path in every}
        if len(homes) == len(every) and not any(home in other.parents for home in parents for other in parents):
            return homes
    for path in every:
        if (first := by_name.setdefault(path.stem, path)) is not path:
            advice = "remove or rename one"
            if first.parent != path.parent:  # as the folders of two encoders
                advice = (
                    f"give one of the two folders {first.parent} and {path.parent}, or name each file after its slide"
                )
            raise MilbenchError(
                f"{first} and {path} are two files of one slide {path.stem!r}, as a slide is "
                f"named by its file; {advice}.",
                code="slide-twice",
            )
    return by_name


def not_read(folder: Path, used: Iterable[Path]) -> str:
    """Return a clause that names the files of features below a folder that a format does not read; "" for none."""
    taken = {os.path.abspath(path) for path in used}
    left: dict[tuple[str, str], list[str]] = {}
    below = folders_in(folder)
    for here in [folder, *below, *(home / name for home in below for name in LAYOUT)]:
        for path in files_in(here, *FEATURE_ENDINGS):
            if os.path.abspath(path) not in taken:
                where = path.parent.relative_to(folder).as_posix()
                left.setdefault((where, path.suffix), []).append(path.name)
    said = [
        f"{count(len(names), f'{suffix} file')}{'' if where == '.' else f' in {where}/'} ({some(names, 3)})"
        for (where, suffix), names in left.items()
    ]
    return f"; not read: {', '.join(said)}" if said else ""


def what_is_there(folder: Path) -> str:
    """Return what a folder of no known format holds, and how to convert files of kinds that are known and not read."""
    try:
        names = sorted(entry.name + ("/" if _is_folder(entry) else "") for entry in os.scandir(folder))
    except OSError as error:
        return f": it cannot be listed ({error.strerror})"
    names = [name for name in names if not passed_over(name.rstrip("/"))]
    if not names:
        return ": it is empty"
    listed = f": it holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
    kinds = Counter(Path(name.rstrip("/")).suffix.lower() for name in names)
    ends, number = kinds.most_common(1)[0]
    return f"{listed}. {_CONVERT[ends].format(n=count(number, f'{ends} file'))}" if ends in _CONVERT else listed


_H5 = "write each as NAME.h5 with a dataset 'features' (rows, width)"
_CONVERT = {
    ".zarr": "These are zarr stores, which milbench does not read; " + _H5 + ": h5['features'] = zarr.open(path)[KEY]",
    ".pkl": "These are pickles ({n}), which run code when they are loaded, so milbench does not read them; load each "
    "yourself and write its array with numpy.save('NAME.npy', array)",
    ".csv": "If each of the {n} is one slide: milbench reads text as one long table with a column slide_id, so give "
    "each that column, or write each as NAME.npy with numpy.save",
    ".h5": "An .h5 file of a slide is read by its dataset 'features', 'feats', 'embeddings' or the only array of "
    "floating point numbers (rows, width) in it; the files that were opened hold none",
    ".json": "JSON files of features are not read; " + _H5,
    ".tif": "These are images; extract features of their patches first",
    ".svs": "These are slides; extract features of their patches first",
}
_CONVERT |= {".pickle": _CONVERT[".pkl"], ".p": _CONVERT[".pkl"], ".joblib": _CONVERT[".pkl"],
             ".tsv": _CONVERT[".csv"], ".txt": _CONVERT[".csv"], ".tiff": _CONVERT[".tif"],
             ".ndpi": _CONVERT[".svs"], ".mrxs": _CONVERT[".svs"], ".hdf5": _CONVERT[".h5"]}  # fmt: skip


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
