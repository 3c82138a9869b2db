"""What results are stored under stays: ids of runs and costs, names of studies, fingerprints, folds; and predictions.

A stored run that gets another id is lost to its suite. The golden values in ``stability.json`` were made once, on the
tree of 30 November 2026, by ``python tests/test_stability.py``; a change that moves one of them orphans results.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from milbench.config import RunSpec, SplitSpec
from milbench.config.suites import list_suites, load_suite
from milbench.data.fold import Fold
from milbench.data.labels.table import Labels
from milbench.data.splits.schemes import make_folds
from milbench.runs import plan
from milbench.runs.costs import schedule as cost_pass

GOLDEN = Path(__file__).with_name("stability.json")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def shortened(values) -> str:
    return hashlib.sha256("\n".join(sorted(values)).encode()).hexdigest()[:16]


def cohort_of(data):
    """Stand in for a cohort: two folds, 100 features, two classes and a fixed fingerprint."""
    folds = tuple(Fold(f"fold{k}", ("a", "b"), ("c",), ("d",)) for k in range(2))
    return SimpleNamespace(
        name=data.name,
        fingerprint="0123456789abcdef",
        classes=("no", "yes"),
        task="classification",
        folds=folds[: data.split.use],
        labels=dict.fromkeys("abcd", 0),
        cache_path=Path("cache"),
        cache=lambda: SimpleNamespace(dim=100),
    )


def identities(name: str, folder: Path) -> dict[str, object]:
    """Return what a suite's results are stored under, with cohorts that `cohort_of` stands in for."""
    with (
        patch.object(plan, "load_cohort", lambda data, *_: cohort_of(data)),
        patch.object(plan, "_device", lambda _: "cpu"),
    ):
        made = plan.make_plan(name, folder)
        with patch.object(cost_pass, "fingerprint", lambda _: "e0"):
            costs = [cost.cost_id for cost in cost_pass.pending_costs(made, "missing")]
    runs = [planned.spec.run_id for planned in made.runs]
    return {
        "runs": [len(runs), shortened(runs)],
        "costs": [len(costs), shortened(costs)],
        "studies": [len(made.searches), shortened(search.name for search in made.searches)],
    }


def toy_labels(classes: int) -> Labels:
    slides = tuple(f"s{i:02d}" for i in range(60))
    patients = {slide: f"p{i // 2:02d}" for i, slide in enumerate(slides)}
    labels = {slide: (i // 2) % classes for i, slide in enumerate(slides)}
    return Labels(slides, patients, labels, tuple(f"c{k}" for k in range(classes)))


def folds(classes: int, **split) -> str:
    return shortened(json.dumps([f.name, f.parts]) for f in make_folds(toy_labels(classes), SplitSpec(**split)))


SCHEMES = {
    "k-fold": {"folds": 5, "val_fraction": 0.2},
    "repeated": {"folds": 3, "repeats": 2, "seed": 7},
    "monte-carlo": {"scheme": "monte-carlo", "repeats": 4, "test_fraction": 0.3},
    "held-out": {"scheme": "held-out", "test_fraction": 0.25},
}


def suites() -> list[str]:
    return sorted(list_suites())


def golden() -> dict[str, dict]:
    return json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", suites())
def test_results_of_a_shipped_suite_keep_their_names(name, tmp_path):
    if name not in golden()["suites"]:
        pytest.fail(f"{name} is a new suite: add it with python tests/test_stability.py")
    assert identities(name, tmp_path) == golden()["suites"][name]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_folds_of_a_cohort_stay(scheme, classes):
    assert folds(classes, **SCHEMES[scheme]) == golden()["folds"][f"{scheme}/{classes}"]


@pytest.mark.parametrize("packed", sorted(RESULTS.glob("*/runs.tar.xz")), ids=lambda file: file.parent.name)
def test_committed_runs_are_named_by_their_specs(packed):
    checked = 0
    with tarfile.open(packed) as tar:
        for member in tar:
            if member.name.endswith("/run.json") and (stream := tar.extractfile(member)) is not None:
                spec = RunSpec.model_validate(json.loads(stream.read())["spec"])
                assert spec.run_id == Path(member.name).parent.name
                checked += 1
    assert checked > 30


def test_built_in_cohorts_keep_their_fingerprints():
    from milbench.data.cohort import load_cohort

    suite = load_suite("quickstart")
    fingerprints = {data.name: load_cohort(data, suite.base).fingerprint for data in suite.data}
    assert fingerprints == golden()["fingerprints"]


TINY = """
name = "tiny"
methods = [
    "mean", "max", "max_instance", "abmil", "abmil[gated=true]", "dsmil", "clam_sb", "clam_mb",
    "transmil[dim=32,heads=4,landmarks=16]",
]
cost = false
[recipe]
epochs = 2
lr = 1e-3
batch_size = 4
[[data]]
name = "arrangement"
dataset = "arrangement"
params = { grid = 4, train = 24, val = 8, test = 8 }
"""


def predictions(folder: Path) -> dict[str, list[float]]:
    """Return the log-odds of the test bags of a tiny suite, by the name its run is stored under and the method."""
    import milbench

    (folder / "tiny.toml").write_text(TINY)
    by_run = {}
    for record in milbench.run(folder / "tiny.toml", results=folder / "runs"):
        test = record.predictions().query("split == 'test'").sort_values("slide_id")
        by_run[f"{record.path.name} {record.method}"] = [round(value, 5) for value in test["s1"]]
    return by_run


def test_predictions_of_a_tiny_suite_stay(tmp_path):
    """Processors round sums in other ways, and AdamW makes more of it; another start or order moves far more."""
    expected, made = golden()["predictions"], predictions(tmp_path)
    assert made.keys() == expected.keys()
    for run, log_odds in made.items():
        assert log_odds == pytest.approx(expected[run], abs=5e-3), run


def test_public_names_stay():
    import milbench

    assert set(golden()["public"]) <= set(dir(milbench))
    assert all(getattr(milbench, name) is not None for name in golden()["public"])


if __name__ == "__main__":
    import tempfile

    import milbench
    from milbench.data.cohort import load_cohort

    quickstart = load_suite("quickstart")
    with tempfile.TemporaryDirectory() as home:
        content = {
            "suites": {name: identities(name, Path(home)) for name in suites()},
            "folds": {f"{s}/{c}": folds(c, **SCHEMES[s]) for s in SCHEMES for c in (2, 3)},
            "fingerprints": {d.name: load_cohort(d, quickstart.base).fingerprint for d in quickstart.data},
            "predictions": predictions(Path(home)),
            "public": sorted(name for name in milbench.__all__),
        }
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
