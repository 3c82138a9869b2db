"""What Optuna is asked for: storages, samplers, pruners and distributions, from milbench's own words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MilbenchError
from .spec import Choice, Dimension, Float, Int, Tuning

if TYPE_CHECKING:
    import optuna


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Open an Optuna storage: a journal file by its path, or any storage by its URL.

    Raises:
        MilbenchError: it cannot be opened.
    """
    optuna = import_optuna()
    try:
        if "://" in storage:
            return optuna.storages.get_storage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(storage)
        return optuna.storages.JournalStorage(backend)
    except Exception as error:  # whatever the database's driver raises
        told = str(error).strip().splitlines()
        raise MilbenchError(
            f"the tuning storage {storage} cannot be opened ({told[0] if told else type(error).__name__}); give a path "
            "or a storage URL of Optuna."
        ) from error


def sampler(tuning: Tuning, seed: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's sampler of a search, seeded."""
    samplers = import_optuna().samplers
    if tuning.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, n_startup_trials=tuning.startup_trials)


def pruner(tuning: Tuning) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of a search."""
    pruners = import_optuna().pruners
    if tuning.pruner == "none":
        return pruners.NopPruner()
    return pruners.MedianPruner(n_startup_trials=tuning.startup_trials)


def distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """Return Optuna's distribution of a dimension."""
    distributions = import_optuna().distributions
    match dimension:
        case Float():
            return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        case Int():
            return distributions.IntDistribution(dimension.low, dimension.high, log=dimension.log)
        case Choice():
            # By position: Optuna keeps plain values alone, and an option may be anything a suite can say.
            return distributions.CategoricalDistribution(list(range(len(dimension.options))))


def import_optuna() -> Any:
    """Return Optuna, told to log no trial.

    Raises:
        MilbenchError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MilbenchError("tuning needs Optuna: pip install 'milbench[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
