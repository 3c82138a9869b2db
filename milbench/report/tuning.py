"""The figures of tuning studies as files. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_io.publishing import child, write_figure
from ..runs.tuning.study import ended_ok, has_ended, import_optuna, open_storage
from .figures.tuning import Shown, history_figure, slice_figure

if TYPE_CHECKING:
    from ..runs.tuning.search import StudySpec


def write_study_figures(searches: Sequence[StudySpec], storage: str, folder: Path) -> list[Path]:
    """Write two figures of each study, its history and where its parameters lie, as PNG; return their paths."""
    optuna = import_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    opened, written = open_storage(storage), []
    for search in searches:
        trials = optuna.load_study(study_name=search.name, storage=opened).get_trials(deepcopy=False)
        ended = [t for t in trials if has_ended(t)][: search.trials]
        shown = [Shown(t.number, float(t.value), t.params) for t in ended if ended_ok(t)]
        outcomes = Counter(str(t.user_attrs.get("outcome", "failed")) for t in ended)
        counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()) or "none ended"
        monitor = search.task.target_task.monitor(search.task.spec.protocol.monitor)
        for kind, figure in (
            ("history", history_figure(shown, monitor, str(search), counts)),
            ("slice", slice_figure(shown, search.space, monitor, str(search))),
        ):
            path = child(folder, search.file_name, f"-{kind}.png", "study")
            write_figure(path, figure, dpi=120)
            written.append(path)
    return written
