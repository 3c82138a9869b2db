"""A column of features that is the label: some copies of MUSK1 carry the instance label as a 167th feature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import MilbenchError


class LabelColumns:
    """Columns that are the label itself, as 0 and 1 or as -1 and 1, in all rows seen so far.

    Args:
        what: whose label it is, ``bag`` or ``instance``, for messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._width = 0
        self._left: list[np.ndarray | None] = [None, None]
        self._labels: set[float] = set()

    def see(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Check some rows.

        Args:
            features: (n, d).
            labels: (n,) numbers, one a row.
        """
        if len(features) == 0:
            return
        self._width = features.shape[1]
        self._labels.update(np.unique(labels).tolist())
        for i, code in enumerate((labels, 2 * labels - 1)):
            left = self._left[i]
            if left is None:  # few columns outlive the first row, and checking the others costs nothing then
                left = np.flatnonzero(features[0] == code[0])
            self._left[i] = left[(features[:, left] == code[:, None]).all(0)]

    def refuse(self, path: Path, names: list[str] | None = None) -> None:
        """Refuse the first of those columns, where more than one label has been seen.

        Args:
            path: of the features.
            names: of the columns, where they have names.

        Raises:
            MilbenchError: there is such a column; it says which.
        """
        rows = [int(left[0]) for left in self._left if left is not None and len(left)]
        if len(self._labels) > 1 and rows:
            column = min(rows)
            which = column if names is None else repr(names[column])
            raise MilbenchError(
                f"column {which} of the {self._width} features in {path} is the {self.what} label itself "
                f"(as in the 167-column copies of MUSK1); remove that column.",
                code="features-hold-label",
            )
