"""Probes: what predicts the label without the tissue.

A model may learn a shortcut, and the table then says how well the shortcut does. Each probe is a logistic regression on
one fact of a slide, cross-validated by patient; it warns when the interval of its AUC exceeds 0.5 by a margin.
What is one for the whole cache (encoder, magnification, patch size) can tell nothing; the distance of neighbouring
patches differs from slide to slide, and with it the scanner and the level-0 magnification.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...config import SplitSpec
from ...errors import MilbenchError
from ...stats import auc_interval
from ..labels.table import match_labels, read_label_table
from ..names.columns import column_key
from ..splits.sites import tcga_site
from ..text_tables import read_table
from .findings import Finding
from .loaded_cohort import Subject

#: Coverage of the intervals: of five probes one then lies above 0.5 in one clean cohort of forty, before the margin.
LEVEL = 0.99
#: What lies below adds little to any model's AUC, however certain it is.
MARGIN = 0.05
#: Fewer patients of a class are often in order at random, and the regression has little to learn from.
MIN_PATIENTS = 10
_FOLDS = 5
#: of a fact that has values without order; what has more of them names slides
_MOST_VALUES = 100
_SITE_COLUMNS = ("site", "center", "centre", "hospital", "institution", "tissue_source_site", "scanner")
_ADVICE = {
    "shortcut-length": "compare with a method that sees the number alone, or match slides by it",
    "shortcut-name": "check whether the classes were collected or prepared apart",
    "shortcut-number": "check whether the classes were collected one after the other",
    "shortcut-site": "use split.scheme = 'site-preserved', or balance the sites",
    "shortcut-scan": "make sure that classes were not scanned apart",
}

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """Facts of n slides, for the probes.

    Attributes:
        rows: (n,) numbers of patches.
        steps: (n,) distances of neighbouring patches; NaN where unknown.
        sites: slide -> site, of slides whose site is known.
    """

    rows: NDArray[np.int64]
    steps: Array
    sites: Mapping[str, str]


def facts_of(subject: Subject) -> Facts:
    """Collect what the cache and the label table tell."""
    index = subject.cache.slides.set_index("slide_id").loc[list(subject.slides)]
    return Facts(index["rows"].to_numpy(), index["coord_step"].to_numpy(dtype=np.float64), _sites(subject))


def probe_findings(subject: Subject, facts: Facts) -> list[Finding]:
    """Run every probe; none where a class has fewer than ten patients."""
    slides = subject.slides
    y = np.array([subject.labels.strata[slide] for slide in slides])
    patients = np.array([subject.owner(slide) for slide in slides])
    present = np.unique(y)
    if len(present) < 2 or min(len(np.unique(patients[y == c])) for c in present) < MIN_PATIENTS:
        return []
    y = np.searchsorted(present, y)
    probes = [
        ("shortcut-length", "the number of patches", _ranked(np.asarray(facts.rows, dtype=np.float64))),
        ("shortcut-name", "the beginning of the name", _one_hot([_prefix(slide) for slide in slides], patients)),
        ("shortcut-number", "the number in the name", _ranked(np.array([_number(slide) for slide in slides]))),
        ("shortcut-site", "the site", _one_hot([facts.sites.get(slide, "") for slide in slides], patients)),
        ("shortcut-scan", "the distance of patches", _one_hot([f"{step:g}" for step in facts.steps], patients)),
    ]
    parts = _parts(y, patients)
    method: Literal["logit", "bootstrap-logit"] = "logit" if len(present) == 2 else "bootstrap-logit"
    findings = []
    for code, what, columns in probes:
        if columns is None:
            continue
        probabilities = _cross_validated(columns, y, parts)
        auc = auc_interval(y, probabilities, patients, method, LEVEL)
        if auc.low > 0.5 + MARGIN:
            message = f"{what} alone predicts the label, AUC {auc.estimate:.2f} [{auc.low:.2f}, {auc.high:.2f}]"
            findings.append(Finding.of(code, subject.name, f"{message}; {_ADVICE[code]}"))
    return findings


def _parts(y: NDArray[np.int64], patients: NDArray[np.str_]) -> list[tuple[Rows, Rows]]:
    """Return (train, test) rows of every fold, which share no patient."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a while, and findings are remembered

    return list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(y, y, patients))


def _cross_validated(columns: Array, y: NDArray[np.int64], parts: Sequence[tuple[Rows, Rows]]) -> Array:
    """Return (n, C) probabilities of slides (n, p) whose patients the regression has not seen."""
    from sklearn.linear_model import LogisticRegression

    probabilities = np.zeros((len(y), y.max() + 1))
    for train, test in parts:
        model = LogisticRegression(max_iter=200).fit(columns[train], y[train])
        probabilities[np.ix_(test, model.classes_)] = model.predict_proba(columns[test])
    return probabilities


def _ranked(values: Array) -> Array | None:
    """Return (n, 2): the rank, from -1 to 1, and its square, so that both ends may mean the same; None: one value."""
    if not np.isfinite(values).all() or (values == values[0]).all():
        return None
    from scipy.stats import rankdata  # imported at the top it would cost every start of the command line 0.3 s

    rank = 2 * (rankdata(values) - 0.5) / len(values) - 1
    return 2 * np.stack([rank, rank**2], axis=1)


def _one_hot(values: Sequence[str], patients: NDArray[np.str_]) -> Array | None:
    """Return (n, values) of the commonest that two patients or more have; None where they do not divide the slides."""
    owners: Counter[str] = Counter(value for value, _ in {*zip(values, patients.tolist(), strict=True)})
    kept = [value for value, n in sorted(owners.items(), key=lambda item: (-item[1], item[0])) if n > 1][:_MOST_VALUES]
    columns = np.array([[value == name for name in kept] for value in values], dtype=np.float64)
    return columns if kept and not (columns == columns[0]).all() else None


def _prefix(slide: str) -> str:
    """Return what stands before the first separator of a name."""
    return re.split(r"[-_. ]", slide, maxsplit=1)[0] if re.search(r"[-_. ]", slide) else ""


def _number(slide: str) -> float:
    """Return the longest number in a name, NaN where there is none: accession numbers rise with time."""
    if tcga_site(slide):  # its parts have a meaning, and the digits of its UUID none
        return float("nan")
    return float(max(re.findall(r"\d+", slide), key=len, default="nan"))


def _sites(subject: Subject) -> dict[str, str]:
    """Return slide -> site, of what says so the first: the suite, a column of a usual name, barcodes."""
    labels = subject.labels
    if sites := labels.sites or _site_column(subject):
        return sites
    barcodes = {slide: tcga_site(slide) or tcga_site(labels.patients[slide]) for slide in labels.slides}
    return {slide: site for slide, site in barcodes.items() if site is not None}


def _site_column(subject: Subject) -> dict[str, str]:
    """Read the column of the label table that is named as sites are, where there is one."""
    spec, base = subject.spec, subject.base
    if spec.labels is None:
        return {}
    path = base / Path(spec.labels).expanduser()
    column = next((name for name in read_table(path)[0] if column_key(name) in _SITE_COLUMNS), None)
    if column is None:
        return {}
    split = SplitSpec(scheme="site-preserved", site_column=column)
    slides = None if spec.slide_table is None else base / Path(spec.slide_table).expanduser()
    try:
        labels = read_label_table(path, spec.model_copy(update={"split": split}), slides)
        return match_labels(labels, subject.cache.ids, str(path), str(subject.cache.path)).sites
    except MilbenchError:  # a column with empty cells, which the suite does not require to be filled
        return {}
