"""What the verbs about kept models and stored predictions do."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MilbenchError
from ..formatting.text import count
from ._terminal import check_folder, counted, echo, warn_if_changed

if TYPE_CHECKING:
    from ..data.cache.reader import FeatureCache
    from ..data.onboarding.label_guess import Tables
    from ..evaluation.runs_table import RunGroup
    from ..training.saved_model import SavedModel

_LOADER = """# Models of {title}

Trained by milbench on {data}; `card.json` describes the method, `suite.json` the protocol, and `audit.json` holds the
audit's findings on the cohort. Each file of `models/` is one fold and seed, as safetensors, which execute no code.

```python
import milbench.training.saved_model as saved

model = saved.load_model({first}{named})
predictions = model.predict(cache, slides)     # cache: milbench.FeatureCache of the same encoder
predictions.probabilities                      # (slides, {classes})
```

The columns are the classes in this order: {names}.
{threshold}
`milbench predict` does the same for all of them, and for their ensemble.
"""


_THRESHOLD = """
`model.threshold("val-youden").value` is the log-odds of the second class from which the model's own validation bags are
called positive best, by Youden's J; `val-f1` by F1; None: there was nothing to choose, and 0 stands.
"""


def suite_name(text: str, results: Path) -> str:
    """Return the name of a suite that is given by its name, ``name-v1`` or its file; warn of a file edited since."""
    if not text.endswith(".toml"):
        return text
    from ..config.suites import load_suite

    suite = load_suite(text)
    warn_if_changed(text, suite, results)
    return f"{suite.name}-v{suite.version}"


def predict_to(
    suite: str, method: str, features: Path, out: Path, results: Path, data: str | None, conditions: str | None,
    format: str, labels: Tables | None, attention: Path | None, force: bool,
    threshold: str | None = None, new_slides: bool = False,
) -> None:  # fmt: skip
    """Predict slides and write the table; see ``milbench predict``."""
    from ..atomic_io.publishing import write_atomic
    from ..data.onboarding.label_guess import check_columns
    from ..formatting.escaping import to_csv
    from ..inference.labelled import SEEN, read_slide_labels, score_lines, with_labels, with_seen
    from ..inference.prediction import kept_models_of_cohort, predict_slides
    from ..training.saved_model import check_features

    check_folder(out.parent, "--out")
    if out.suffix.lower() != ".csv":
        raise MilbenchError(f"--out {out}: the table is a .csv file.", code="option-bad-file")
    if labels is not None:
        check_columns(labels)
    models, cohort = kept_models_of_cohort(results, suite_name(suite, results), method, data, conditions)
    with tempfile.TemporaryDirectory(prefix="milbench-") as folder:
        cache = _opened(features, format, models[0], Path(folder))
        for sentence in check_features(models[0], cache, force):
            echo(f"warning: {sentence}")
        if attention is not None:
            _check_attention(models[0], cache)
        classes = models[0].classes
        known = None if labels is None else read_slide_labels(labels, cache.ids, classes)  # refused before the work
        for note in () if known is None else known.notes:
            echo(f"note: {note}")
        table = predict_slides(models, cache, cache.ids, threshold)
        scores = []
        seen = {} if new_slides else _seen(cache.ids, {} if known is None else known.patients, models, cohort)
        if known is None:
            table = with_seen(table, seen)
            if trained := len(frozenset().union(*seen.values())):
                echo(f"warning: {trained} of {count(len(cache.ids), 'slide')} took part in training or validation of a "
                     f"model, by name: their predictions flatter (column {SEEN}); --new-slides if they are other "
                     "slides of the same name.")  # fmt: skip
        else:
            table = with_labels(table, known, seen, classes)
            scores = score_lines(table, known, classes)
        write_atomic(out, to_csv(table))
        echo(f"{count(len(cache.ids), 'slide')} predicted by {count(len(models), 'model')} and their ensemble: {out}")
        for line in scores:
            echo(line)
        if attention is not None:
            _export_attention(models, cache, attention, {} if known is None else known.labels)


def _opened(features: Path, format: str, model: SavedModel, folder: Path) -> FeatureCache:
    """Open a cache, or import other features as those of the model's cohort were."""
    from ..data.cache.build import build_cache
    from ..data.cache.reader import FeatureCache
    from ..data.home import CACHE_FILE

    if (features / CACHE_FILE).exists():
        return FeatureCache.open(features)
    made = folder / "features.cache"
    order = "raster" if model.facts.get("order") == "raster" else "source"
    dtype = str(model.facts.get("dtype") or "float16")
    with counted("reading") as progress:
        build_cache(features, made, format, dtype, "raster" if order == "raster" else "source", progress=progress)
    return FeatureCache.open(made)


def _seen(
    slides: Sequence[str], owner: Mapping[str, str], models: list[SavedModel], cohort: RunGroup
) -> dict[str, frozenset[str]]:
    """Return member -> the slides that it was trained or selected on."""
    from ..inference.labelled import seen_slides
    from ..inference.prediction import trained_on

    trained = trained_on(models, cohort)
    if gone := [model.name for model, slides in zip(models, trained, strict=True) if slides is None]:
        echo(f"warning: {cohort.folder} does not hold the folds of {count(len(gone), 'model')}, the first {gone[0]}: "
             "whether slides took part in training is not known.")  # fmt: skip
    seen = seen_slides(
        slides, owner, trained, {str(slide): str(patient) for slide, patient in cohort.labels()["patient_id"].items()}
    )
    return {model.name: slides for model, slides in zip(models, seen, strict=True)}


def _check_attention(model: SavedModel, cache: FeatureCache) -> None:
    """Refuse a method without attention before anything is written."""
    import torch

    from ..training.loader import BagLoader

    bag = BagLoader(cache, cache.ids[:1], torch.device("cpu"), model.scaling).batch([0])
    with torch.no_grad():
        if model.model(bag, attention=True).attention is None:
            raise MilbenchError(
                f"{model.facts['method']} returns no attention; leave out --attention.", code="attention-missing"
            )


def _export_attention(models: list[SavedModel], cache: FeatureCache, folder: Path, labels: Mapping[str, int]) -> None:
    from ..atomic_io.publishing import child
    from ..interpret.relevance import export_attention

    files, slides = 0, list(cache.ids)
    with counted("attention of") as progress:
        for n, model in enumerate(models):
            part = child(folder, f"{model.facts['fold']}-seed{model.facts['seed']}", "", "fold")
            for i, slide in enumerate(slides):
                files += len(export_attention(model.model, cache, [slide], part, "attention", classes=model.classes,
                                              labels=labels, scaling=model.scaling))  # fmt: skip
                progress(n * len(slides) + i + 1, len(models) * len(slides), f"{slide}, {model.name}")
    echo(f"Attention: {count(files, 'file')} in {folder}")


def write_predictions(suite: str | None, out: Path, results: Path, data: str | None, part: str) -> None:
    """Write the stored predictions; see ``milbench predictions``."""
    from ..atomic_io.publishing import write_atomic
    from ..formatting.escaping import to_csv
    from ..inference.prediction import stored_predictions

    check_folder(out.parent, "--out")
    if part not in ("test", "val", "all"):
        raise MilbenchError(f"--part {part}: give test, val or all.", code="option-bad-value")
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise MilbenchError(f"--out {out}: the table is a .csv or .parquet file.", code="option-bad-file")
    name = None if suite is None else suite_name(suite, results)
    table = stored_predictions(results, name, data, None if part == "all" else part)
    content = to_csv(table) if out.suffix.lower() == ".csv" else table.to_parquet(index=False)
    write_atomic(out, content)
    runs = table.groupby(["suite", "version", "data", "conditions", "method", "fold", "seed"]).ngroups
    echo(f"{count(len(table), 'row')} of {count(runs, 'run')}: {out}")


def export_to(suite: str, method: str, out: Path, results: Path, data: str | None, conditions: str | None) -> None:
    """Write one folder to hand over; see ``milbench export``."""
    from ..atomic_io.folders import staged
    from ..atomic_io.publishing import child
    from ..formatting.escaping import code, markdown
    from ..inference.prediction import kept_models
    from ..registry import resolve

    models = kept_models(results, suite_name(suite, results), method, data, conditions)
    resolved, first = resolve(method), models[0]
    names = [f"{m.facts['fold']}-seed{m.facts['seed']}.safetensors" for m in models]
    home = first.path.parent.parent.parent
    with staged(out) as folder:
        (folder / "models").mkdir()
        for model, name in zip(models, names, strict=True):
            shutil.copyfile(model.path, child(folder / "models", name, "", "model"))
        card = resolved.card.model_dump(mode="json") | {"method": resolved.canonical, "options": resolved.options}
        (folder / "card.json").write_text(json.dumps(card, indent=2, default=str) + "\n", encoding="utf-8")
        shutil.copyfile(home / "suite.json", folder / "suite.json")
        for audit in sorted(home.glob(f"cohorts/{first.facts['data']}-*/audit.json"))[:1]:
            shutil.copyfile(audit, folder / "audit.json")
        two = len(first.classes) == 2 and "thresholds" in first.facts
        named = f", method={_literal(resolved.canonical)}" if ":" in resolved.canonical.partition("[")[0] else ""
        text = _LOADER.format(
            title=markdown(resolved.canonical), data=markdown(first.facts["data"]),
            first=_literal(f"models/{names[0]}"), named=named, classes=len(first.classes),
            names=", ".join(map(code, first.classes)), threshold=_THRESHOLD if two else "",
        )  # fmt: skip
        (folder / "README.md").write_text(text, encoding="utf-8")
    echo(f"{count(len(models), 'model')} of {resolved.canonical}: {out}")


def _literal(text: str) -> str:
    """Return a text as a Python literal of ASCII without a backtick, which might end a block of code in Markdown."""
    return ascii(text).replace("`", "\\x60")
