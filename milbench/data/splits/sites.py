"""Sites: where slides were made, and folds that keep the patients of a site together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..labels.table import Labels

#: Starts of the search for a balanced division, one by size and the others at random. Many sites are divided evenly
#: from any start and take longer, so they get fewer: in all as many as this many sites' worth.
_STARTS, _SITES_IN_ALL = 10, 1000


def tcga_site(name: str) -> str | None:
    """Return the tissue source site of a TCGA barcode (``A2`` of TCGA-A2-A0T2-01Z-00-DX1), or None of another name."""
    match = re.match(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}(?![A-Z0-9])", name, re.IGNORECASE)
    return match[1].upper() if match else None


def sites_of(labels: Labels) -> dict[str, str]:
    """Return slide -> site: what the label table says, else what barcodes of slides or patients say.

    Raises:
        MilbenchError: some slides have no site.
    """
    if labels.sites:
        return labels.sites
    site_of = {slide: tcga_site(slide) or tcga_site(labels.patients[slide]) for slide in labels.slides}
    lost = sorted(slide for slide, site in site_of.items() if site is None)
    if lost:
        raise MilbenchError(
            f"{count(len(lost), 'slide')} without a site, as their names are no TCGA barcodes: {some(lost)}; "
            "set split.site_column to the column of the label table that names it.",
            code="sites-missing",
        )
    return {slide: site for slide, site in site_of.items() if site is not None}


def site_groups(slides: Mapping[str, Sequence[str]], sites: Mapping[str, str]) -> dict[str, list[str]]:
    """Return site -> patients; sites that share a patient are one, under the name that sorts first.

    Args:
        slides: patient -> slides.
        sites: slide -> site.
    """
    from scipy.sparse import coo_array, csgraph  # 0.1 s, which other schemes need not spend

    names = sorted(set(sites.values()))
    number = {name: i for i, name in enumerate(names)}
    shared = np.array([(number[sites[ids[0]]], number[sites[slide]]) for ids in slides.values() for slide in ids])
    graph = coo_array((np.ones(len(shared)), shared.reshape(-1, 2).T), shape=(len(names), len(names)))
    _, component = csgraph.connected_components(graph, directed=False)
    first = np.unique(component, return_index=True)[1][component]
    groups: dict[str, list[str]] = {}
    for patient in sorted(slides):
        groups.setdefault(names[first[number[sites[slides[patient][0]]]]], []).append(patient)
    return groups


def assign_sites(
    groups: Mapping[str, Sequence[str]], strata: Mapping[tuple[int, ...], Sequence[str]], folds: int, seed: int
) -> list[set[str]]:
    """Divide sites into folds that are as even as a local search gets them, in all and in every stratum.

    The aim is that every fold tests two classes or more and trains on all, then the fewest (fold, class) pairs without
    a patient, and then the least of

        sum over strata s, and all patients as one more, of sum over folds k of n_sk^2 / n_s,

    n_sk being the patients of stratum s in fold k: even folds have least, and rare strata count as much as common ones.
    Howard et al. 2021 find it by quadratic programming; here sites are dealt out, the largest first, each to where it
    costs least, and then moved and swapped between folds while that helps, from several starts of which the best is
    kept. What is returned can not be improved by moving one site or swapping two; it need not be the best there is.
    All numbers are integers, so that every machine finds the same.

    Args:
        groups: site -> patients.
        strata: set of class indices -> patients, each patient in one.
        folds: number of folds.
        seed: orders sites of equal size, and the other starts.

    Returns:
        The patients of every fold.
    """
    names, keys = sorted(groups), sorted(strata)
    stratum_of = {patient: i for i, key in enumerate(keys) for patient in strata[key]}
    table = np.zeros((len(names), len(keys) + 1), dtype=np.int64)
    for row, name in zip(table, names, strict=True):
        for patient in groups[name]:
            row[[stratum_of[patient], -1]] += 1
    rng = np.random.default_rng([seed, len(names), folds])
    cost = _Cost(table, keys)
    best: tuple[int, np.ndarray] | None = None
    for start in range(max(1, min(_STARTS, _SITES_IN_ALL // len(names)))):
        order = rng.permutation(len(names))
        if start == 0:
            where = _dealt(table, order[np.argsort(-table[order, -1], kind="stable")], folds, cost)
        else:
            where = rng.integers(folds, size=len(names))
        total = _improved(table, order, where, folds, cost)
        if best is None or total < best[0]:
            best = total, where
    assert best is not None
    return [{p for i in np.flatnonzero(best[1] == k) for p in groups[names[i]]} for k in range(folds)]


class _Cost:
    """Return the cost of a division, as one integer: each criterion outweighs all that follow it.

    Args:
        table: (S, J + 1) patients of each site by stratum, and in all.
        keys: the classes of the J strata.
    """

    def __init__(self, table: np.ndarray, keys: Sequence[tuple[int, ...]]) -> None:
        sums = table.sum(0)
        everyone = int(sums[-1])
        classes = sorted({label for key in keys for label in key})
        self._holds = np.array([[label in key for label in classes] for key in keys], dtype=np.int64)
        self._weights = 1000 * everyone // sums
        self._above = 2000 * everyone**2 + 1  # the strata's patients are everyone, and everyone is counted once more

    def __call__(self, held: np.ndarray) -> np.ndarray:
        """Return (...) int64 costs of divisions of which fold k holds (..., K, J + 1) patients."""
        present = (held[..., :-1] @ self._holds) > 0
        absent = (~present).sum(-2)
        folds, classes = present.shape[-2:]
        impossible = (present.sum(-1) < 2).sum(-1) + (absent >= folds - 1).sum(-1)
        uneven = (held**2 * self._weights).sum((-2, -1))
        return (impossible * (folds * classes + 1) + absent.sum(-1)) * self._above + uneven


def _dealt(table: np.ndarray, order: np.ndarray, folds: int, cost: _Cost) -> np.ndarray:
    where, held = np.zeros(len(table), dtype=np.int64), np.zeros((folds, table.shape[1]), dtype=np.int64)
    here = np.eye(folds, dtype=np.int64)[..., None]  # (K, K, 1): what is dealt to fold k is added to it alone
    for i in order:
        where[i] = np.argmin(cost(held + here * table[i]))
        held[where[i]] += table[i]
    return where


def _improved(table: np.ndarray, order: np.ndarray, where: np.ndarray, folds: int, cost: _Cost) -> int:
    """Move and swap sites, changing ``where`` (S,), until nothing gets better; return the cost."""
    held = np.stack([table[where == k].sum(0) for k in range(folds)])
    # To move a site is to swap it for the empty site that every fold has.
    partners = np.concatenate([table, np.zeros((folds, table.shape[1]), dtype=np.int64)])
    total, better = int(cost(held)), True
    while better:
        better = False
        for i in order:
            homes, given = np.concatenate([where, np.arange(folds)]), partners - table[i]
            tried = np.repeat(held[None], len(partners), 0)
            tried[:, where[i]] += given
            tried[np.arange(len(partners)), homes] -= given
            costs = cost(tried)
            j = int(np.argmin(costs))
            if costs[j] < total:
                total, better, held = int(costs[j]), True, tried[j].copy()
                if j < len(table):
                    where[j] = where[i]
                where[i] = homes[j]
    return total
