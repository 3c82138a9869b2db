"""long_table: one row a patch, slides in a column, in a .parquet, .csv or .csv.gz file or a folder of parts.

Columns are recognised by their names: slides (slide_id, slide, bag_id ...), positions (x and y, coord_x and coord_y
..., or a list ``coords``), patients and labels of slides. Features are a column of lists (features, embedding ...), or
else all other columns of numbers in their order. Ids are text. Rows of a slide may lie anywhere in Parquet, and
together in CSV; they keep their order. The file is never in memory as a whole: one slide is, and a window of 192 MiB.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count
from ..home import CACHE_FILE
from . import Slides, SourceSlide, SourceTable
from ._arrow import refuse_unfinite
from ._columns import Columns, recognise
from ._csv_table import CsvTable, dialect_of
from ._label_columns import LabelColumns
from ._listing import by_number, ending, files_in
from ._marks import claimed, columns, eva_manifest, label_text, split_files
from ._parquet import ParquetTable, columns_of, schema_of
from ._patch_index import index_patches

NAME = "long_table"

Table: TypeAlias = ParquetTable | CsvTable

_TEXTS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
#: names of columns that a cache keeps, at most
_MOST_NAMES = 4096
#: files of other kinds next to which Parquet is an index or a table of labels
_OTHERS = (".pt", ".h5", ".npy", ".npz", ".safetensors")


def detect(source: Path) -> str | None:
    """Recognise a table by a column of slides and columns of features; a folder, by the first of its files."""
    columns, kind = _columns_and_kind(source)
    if columns is None or columns.slide is None:
        return None
    parts = f", {count(len(_parts(source)), 'part')}" if source.is_dir() else ""
    return f"long table {source}{parts}{kind}: {columns}"


def _columns_and_kind(source: Path) -> tuple[Columns | None, str]:
    """Return the columns of a source, and how its text is one where that is not the usual way."""
    parts = _parts(source)
    if parts and parts[0].name.lower().endswith(_TEXTS):
        dialect = dialect_of(parts[0])
        return recognise(dialect.kinds), f" ({dialect})" if str(dialect) else ""
    if parts and parts[0].is_file():
        return columns_of(schema_of(parts[0]), parts[0]), ""
    if not source.name.lower().endswith(_TEXTS) or not source.is_file():
        return None, ""
    if eva_manifest(source) is not None or next(split_files(source), None) is not None:
        return None, ""
    dialect = dialect_of(source)
    return recognise(dialect.kinds), f" ({dialect})" if str(dialect) else ""


def open_source(source: Path) -> Slides:
    """Open the slides, in the order in which they first appear; parts are read in the order of their names, numbers
    in them as numbers: part-2 before part-10.

    Raises:
        MilbenchError: the table is damaged or holds no rows, parts have other columns than the first one, a row has no
            slide, or rows of a slide disagree about its patient or label.
    """
    return LongTable(_parts(source) or [source])


class LongTable(Slides):
    """The slides of tables of patches.

    Args:
        paths: the tables; all have the columns of the first.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._table: Table | None = None
        self._texts: dict[int, CsvTable] = {}  # they know their rows once they have been read through
        self._first = self._open(0)
        if self._first.columns.slide is None:
            raise MilbenchError(f"{paths[0]} has no column of slides; name one slide_id.", code="table-missing-column")
        names = self._first.columns.features
        self.feature_names = names if 1 < len(names) == self._first.width <= _MOST_NAMES else ()
        self._index = index_patches(self._open(t) for t in range(len(paths)))
        if any(text.coord_dtype == np.float64 for text in self._texts.values()):
            for text in self._texts.values():
                text.coord_dtype = np.dtype(np.float64)
        if not self._index.slides:
            raise MilbenchError(f"{paths[0]} holds no rows; give one row a patch.", code="table-empty")
        super().__init__(self._index.slides)
        self._window: tuple[int, int, np.ndarray, np.ndarray | None] | None = None
        self._labels = _as_numbers(self._index.labels)
        self._watch, self._seen = LabelColumns("bag"), set[int]()

    def load(self, i: int) -> SourceSlide:
        """Gather the rows of one slide.

        Raises:
            MilbenchError: something that is no number, or, at the last slide, a column that is the label.
        """
        rows = self._index.rows(i)
        x = np.empty((rows, self._first.width), self._first.dtype)
        xy, done = None, 0
        for table, start, stop in self._index.of(i).tolist():
            path = self._paths[table]
            while start < stop:
                first, features, places = self._window_at(table, start)
                end = min(stop, first + len(features))
                part = features[start - first : end - first]
                refuse_unfinite(part, self._first.columns, path, start)
                x[done : done + len(part)] = part
                if places is not None:
                    xy = np.empty((rows, 2), places.dtype) if xy is None else xy
                    xy[done : done + len(part)] = places[start - first : end - first]
                done, start = done + len(part), end
        self._collect_labels(i, x)
        return SourceSlide(self.ids[i], x, xy, {}, path)

    def files(self, i: int) -> tuple[Path, ...]:
        """Return the tables that hold rows of the slide."""
        return tuple(self._paths[table] for table in np.unique(self._index.of(i)[:, 0]))

    def rows(self, i: int) -> int:
        """Return what the column of slides says."""
        return self._index.rows(i)

    def table(self) -> SourceTable | None:
        """Return labels and patients, where there are columns of them."""
        labels = {slide: label_text(label) for slide, label in self._index.labels.items()}
        if not labels and not self._index.patients:
            return None
        return SourceTable(labels or None, self._index.patients or None)

    def _open(self, t: int) -> Table:
        """Open a table, one at a time."""
        path = self._paths[t]
        if self._table is None or self._table.path != path:
            self._table = None
            opened: Table
            if t in self._texts:
                self._table = self._texts[t]
                return self._table
            if path.name.lower().endswith(_TEXTS):
                opened = self._texts[t] = CsvTable(path)
            else:
                opened = ParquetTable(path)
            if t and not _same_columns(opened, self._first):
                raise MilbenchError(
                    f"{path} has other columns than {self._paths[0]} ({opened.columns}; not {self._first.columns}); "
                    f"give all parts the same columns.",
                    code="features-disagree",
                )
            self._table = opened
        return self._table

    def _window_at(self, t: int, row: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Return the window that holds a row, the last one where it does."""
        if self._window is not None:
            table, first, features, places = self._window
            if table == t and first <= row < first + len(features):
                return first, features, places
        self._window = None  # before the next one takes its room
        first, features, places = self._open(t).window(row)
        self._window = t, first, features, places
        return first, features, places

    def _collect_labels(self, i: int, x: np.ndarray) -> None:
        """Refuse a column that is the label, once all slides have been read."""
        if self._labels is None or i in self._seen:
            return
        if self.ids[i] in self._labels:
            self._watch.see(x, np.full(len(x), self._labels[self.ids[i]]))
        self._seen.add(i)
        if len(self._seen) == len(self):
            names = self._first.columns.features
            self._watch.refuse(self._paths[0], list(names) if len(names) == self._first.width else None)


def _same_columns(table: Table, first: Table) -> bool:
    """Whether a part has the columns of the first one; what is left out may differ."""
    # Whether the positions in a text are whole numbers is known once it has been read through.
    places = [None if isinstance(one, CsvTable) else one.coord_dtype for one in (table, first)]
    a, b = (
        (replace(one.columns, left_out=()), one.width, one.dtype, place)
        for one, place in zip((table, first), places, strict=True)
    )
    return a == b


def _as_numbers(labels: dict[str, str]) -> dict[str, float] | None:
    try:
        return {slide: float(label) for slide, label in labels.items()} or None
    except ValueError:
        return None


def _parts(source: Path) -> list[Path]:
    """Return the Parquet files that a source is or holds, or the text tables that it holds.

    There are none where other files say that they are no features.
    """
    if not source.is_dir():
        return [source] if ending(source) == ".parquet" else []
    if (source / CACHE_FILE).exists() or claimed(source) is not None:
        return []
    if files_in(source, *_OTHERS):
        return []
    parts = files_in(source, ".parquet") or _text_parts(source)
    return sorted(parts, key=lambda path: by_number(path.name))


def _text_parts(folder: Path) -> list[Path]:
    """Return the text tables of a folder that has the same header in all of them, of slides and several features."""
    parts = [path for path in files_in(folder, ".csv", ".tsv", ".gz") if path.name.lower().endswith(_TEXTS)]
    headers = {tuple(columns(path)) for path in parts}
    if len(headers) != 1:
        return []
    columns_there = recognise(dialect_of(parts[0]).kinds)
    wanted = columns_there is not None and columns_there.slide is not None and len(columns_there.features) > 1
    return parts if wanted else []
