"""The wording of errors, in one place: one message for each code that a plain call or a small file produces.

Other tests hold the code and the names in a message. Where a sentence is worded anew on purpose, write the new one to
``error_wording.json``: ``python tests/test_error_wording.py`` does.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from milbench.data.cache import build_cache
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.error_codes import CODES
from milbench.errors import MilbenchError

GOLDEN = Path(__file__).with_name("error_wording.json")
X = torch.ones(3, 2)


def text(tmp: Path, name: str, content: str | bytes) -> Path:
    (tmp / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp / name


def table(tmp: Path, content: str | bytes) -> object:
    from milbench.data.text_tables import load_table

    return load_table(text(tmp, "t.csv", content))


def suite(tmp: Path, content: str) -> object:
    from milbench.config.suites import load_suite

    return load_suite(text(tmp, "s.toml", content))


def written(tmp: Path, *slides: tuple[object, object], **more: object) -> object:
    with CacheWriter(tmp / "c", **more) as writer:
        for slide, features in slides:
            writer.add(slide, features)
    return FeatureCache.open(tmp / "c")


def damaged_cache(tmp: Path) -> object:
    written(tmp, ("a", X))
    text(tmp, "c/cache.toml", "dim = ")
    return FeatureCache.open(tmp / "c")


def made_by_another_version(tmp: Path) -> object:
    from milbench.data.cache.layout import read_toml

    (tmp / "c").mkdir()
    text(tmp, "c/cache.toml", "schema = 99\n")
    return read_toml(tmp / "c")


def saved(tmp: Path, name: str, value: object) -> object:
    torch.save(value, tmp / name)
    return importing("data.importers._read", "torch_tensor")(tmp / name)


def pickled(tmp: Path) -> object:
    np.save(tmp / "a.npy", np.array([object()]), allow_pickle=True)
    from milbench.data.importers._read import npy_array

    return npy_array(tmp / "a.npy")


def loop(tmp: Path) -> object:
    from milbench.data.importers._read import files_below

    (tmp / "a").mkdir()
    (tmp / "a" / "back").symlink_to(tmp)
    return list(files_below(tmp, ".pt"))


def h5(tmp: Path) -> object:
    from milbench.data.importers._read import open_h5

    with open_h5(text(tmp, "a.h5", b"")) as file:
        return file


def outside(tmp: Path) -> object:
    from milbench.atomic_io.publishing import inside

    return inside(tmp, tmp / ".." / "x")


def taken(tmp: Path) -> object:
    from milbench.atomic_io.folders import staged

    with staged(tmp) as folder:
        return folder


def aggregator(text: str, dim: int = 4) -> object:
    from milbench import create

    return create(text, in_dim=dim)


def bags(*sizes: int) -> object:
    from milbench import Bags

    return Bags.pack([torch.ones(n, 2) for n in sizes])


def wide(tmp: Path) -> object:
    from milbench import Bags, create

    return create("mean", in_dim=4)(Bags.pack([torch.ones(3, 2)]))


def auc(labels: object, probabilities: object) -> float:
    """A metric with the name of another."""
    return 0.0


def classes(values: dict[str, str], names: list[str] | None = None) -> object:
    from milbench.tasks.classification import index_classes

    return index_classes(values, names, "labels.csv")


def importing(module: str, name: str) -> Callable[..., object]:
    from importlib import import_module

    return getattr(import_module(f"milbench.{module}"), name)


MAKE: dict[str, Callable[[Path], object]] = {
    "already-exists": taken,
    "bag-shape": lambda tmp: bags(),
    "budget-bad-value": lambda tmp: importing("config.units", "parse_budget")(["10"]),
    "cache-bad-request": lambda tmp: build_cache(tmp, tmp / "c", workers=0),
    "cache-damaged": damaged_cache,
    "cache-missing": lambda tmp: FeatureCache.open(tmp / "nowhere"),
    "cache-no-slides": lambda tmp: written(tmp),
    "classes-bad": lambda tmp: classes({"a": "x", "b": "x"}),
    "cohort-unknown-name": lambda tmp: written(tmp, ("a", X)).bags(["b"]),
    "config-invalid": lambda tmp: suite(tmp, "methods = ["),
    "coords-bad": lambda tmp: importing("data.cache.encode", "prepare")("a", X, torch.ones(2, 2), "float16", None),
    "dataset-bad-option": lambda tmp: importing("data.datasets", "prepare")("digits-bags", {"target": 10}),
    "dataset-unknown": lambda tmp: importing("data.datasets", "load_dataset")("digit-bags"),
    "features-bad-array": lambda tmp: written(tmp, ("a", torch.ones(3))),
    "features-disagree": lambda tmp: written(tmp, ("a", X), ("b", torch.ones(3, 5))),
    "features-not-finite": lambda tmp: written(tmp, ("a", torch.full((1, 2), torch.nan))),
    "features-wrong-width": wide,
    "file-damaged": h5,
    "file-missing": lambda tmp: importing("data.input_files.regular", "regular_size")(tmp / "a.h5"),
    "file-too-large": lambda tmp: importing("data.importers._read", "refuse_bomb")(tmp / "a.pt", 1 << 40, 10),
    "file-unsafe": pickled,
    "file-unreadable": lambda tmp: importing("data.text_tables", "read_text")(tmp),
    "file-unsupported": lambda tmp: importing("data.text_tables", "load_table")(text(tmp, "t.ods", "")),
    "file-wrong-content": lambda tmp: saved(tmp, "a.pt", ["x"]),
    "format-mismatch": lambda tmp: importing("data.importers", "detect_format")(tmp, "clam"),
    "format-unknown": lambda tmp: importing("data.importers", "detect_format")(tmp, "clamm"),
    "interpret-bad-input": lambda tmp: importing("interpret.relevance", "instance_auc")([0.5], [1, 0], [1]),
    "labels-unknown-class": lambda tmp: classes({"a": "z"}, ["x", "y"]),
    "method-bad-option": lambda tmp: aggregator("transmil[heads=7]"),
    "method-malformed": lambda tmp: importing("registry", "resolve")("milbench.errors:MilbenchError"),
    "method-unknown": lambda tmp: aggregator("transmill"),
    "method-unknown-option": lambda tmp: aggregator("abmil[depth=2]"),
    "name-bad": lambda tmp: written(tmp, (7, X)),
    "metric-malformed": lambda tmp: importing("metrics", "register_metric")(7),
    "name-taken": lambda tmp: importing("metrics", "register_metric")(auc),
    "option-bad-value": lambda tmp: importing("stats.checks", "one_of")("x", ("percentile", "delong"), "method"),
    "path-loop": loop,
    "path-outside": outside,
    "path-wrong-kind": lambda tmp: importing("data.input_files.regular", "regular_size")(tmp),
    "patient-rule-bad": lambda tmp: importing("data.audit.patients", "check_rule")("("),
    "results-missing": lambda tmp: importing("runs.records", "suite_folders")(tmp / "none"),
    "schema-unknown": made_by_another_version,
    "scores-not-finite": lambda tmp: importing("stats.checks", "finite_scores")([np.nan]),
    "slide-twice": lambda tmp: written(tmp, ("a", X), ("a", X)),
    "split-empty-part": lambda tmp: importing("data.splits.files", "read_folds")(
        str(text(tmp, "splits.json", '{"splits": []}')), tmp
    ),
    "split-files-missing": lambda tmp: importing("data.splits.files", "split_sources")("no/fold{k}.csv", tmp),
    "split-unknown-part": lambda tmp: importing("data.splits.files", "read_folds")(
        str(text(tmp, "s.csv", "slide_id,split\na,2\nb,test\n")), tmp
    ),
    "stats-bad-input": lambda tmp: importing("stats.checks", "numbers")([[1.0]], "scores", ndim=1),
    "stats-bad-labels": lambda tmp: importing("stats.checks", "class_indices")([-1]),
    "stats-out-of-range": lambda tmp: importing("stats.checks", "share_of")(2.0),
    "stats-too-few": lambda tmp: importing("stats", "friedman")([[0.5, 0.6]]),
    "suite-bad-value": lambda tmp: suite(tmp, 'methods = []\n[[data]]\nname = "d"\ndataset = "digits-bags"\n'),
    "suite-missing-field": lambda tmp: suite(tmp, 'methods = ["mean"]\n'),
    "suite-unknown": lambda tmp: importing("config.suites", "load_suite")("quickstrat"),
    "suite-unknown-field": lambda tmp: suite(
        tmp, 'method = 1\nmethods = ["mean"]\n[[data]]\nname = "d"\ndataset = "digits-bags"\n'
    ),
    "table-bad-line": lambda tmp: table(tmp, "a,b\n1,2,3\n"),
    "table-damaged": lambda tmp: importing("data.text_tables", "load_table")(text(tmp, "t.xlsx", "x")),
    "table-empty": lambda tmp: table(tmp, ""),
    "table-not-utf8": lambda tmp: table(tmp, b"a,b\n\xe4,1\n"),
    "targets-bad": lambda tmp: importing("aggregator", "check_targets")(torch.tensor([0, 2]), 2, 2),
}


def refusal(code: str, folder: Path) -> tuple[str, str]:
    """Return the code and the message of the error that a call of ``MAKE`` raises, without the folder."""
    place = folder / "in"
    place.mkdir()
    with pytest.raises(MilbenchError) as caught:
        MAKE[code](place)
    return caught.value.code, str(caught.value).replace(str(place), "TMP")


@pytest.mark.parametrize("code", MAKE)
def test_the_wording_of_an_error(code, tmp_path):
    assert refusal(code, tmp_path) == (code, json.loads(GOLDEN.read_text())[code])


def test_the_golden_messages_are_of_codes_that_are_produced():
    assert list(json.loads(GOLDEN.read_text())) == sorted(MAKE)
    assert set(MAKE) <= set(CODES)


if __name__ == "__main__":
    messages = {}
    for name in sorted(MAKE):
        with tempfile.TemporaryDirectory() as folder:
            code, messages[name] = refusal(name, Path(folder))
            if code != name:
                sys.exit(f"{name}: the error has the code {code}: {messages[name]}")
    GOLDEN.write_text(json.dumps(messages, indent=1) + "\n")
