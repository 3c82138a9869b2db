"""The interface to Optuna: storages, samplers, pruners and distributions, from milbench's own terms."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...atomic_io.checksums import KEY as CHECKSUM
from ...atomic_io.checksums import record_checksum, with_checksum
from ...atomic_io.publishing import appending
from ...config import Choice, Dimension, Float, Int, Tuning
from ...config.method_key import plain, quoted
from ...errors import MilbenchError

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
        return optuna.storages.JournalStorage(_journal(Path(storage)))
    except MilbenchError:
        raise
    except Exception as error:  # whatever the database's driver raises
        lines = str(error).strip().splitlines()
        raise MilbenchError(
            f"the tuning storage {storage} cannot be opened ({lines[0] if lines else type(error).__name__}); "
            "give a path "
            "or a storage URL of Optuna.",
            code="tuning-storage",
        ) from error


def _journal(path: Path) -> optuna.storages.journal.JournalFileBackend:
    """Return Optuna's journal file, with a checksum in every line and no half line that stays.

    A line is whole once its newline is there. A disk that was full or a process that died may leave half a line at the
    end: it is skipped when read, and removed before the next line is written. Lines that were written before there
    were checksums have none.

    Raises:
        MilbenchError: the path is a link or no file.
    """
    import_optuna()
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import get_lock_file

    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise MilbenchError(
            f"the tuning journal {path} is a link or no file; remove it, or give another --storage.",
            code="tuning-storage",
        )

    class Backend(JournalFileBackend):
        def __init__(self) -> None:
            super().__init__(str(path))
            self._starts = [0]  # byte at which every line begins, of those that were read

        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
            first = min(log_number_from, len(self._starts) - 1)
            with path.open("rb") as file:
                file.seek(self._starts[first])
                for number, line in enumerate(file, start=first):
                    log = read_line(line, path, number)
                    if log is None:
                        return
                    if number + 1 == len(self._starts):
                        self._starts.append(self._starts[number] + len(line))
                    if number >= log_number_from:
                        yield log

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            text = "".join(json.dumps(with_checksum(log), separators=(",", ":")) + "\n" for log in logs)
            with get_lock_file(self._lock), appending(path) as file:
                append_whole(file.fileno(), text.encode())

    return Backend()


def append_whole(handle: int, content: bytes) -> None:
    """Append whole lines to a file after its last whole line: all of them, or, where the disk refuses, nothing.

    Args:
        handle: of the file, open to read and append.
        content: lines with their newlines.

    Raises:
        OSError: the disk refused.
    """
    end = _last_newline(handle)
    os.ftruncate(handle, end)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(handle, end)
        raise


def _last_newline(handle: int) -> int:
    """Return the number of bytes of a file's whole lines."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - (1 << 16))
        os.lseek(handle, start, os.SEEK_SET)
        position = os.read(handle, end - start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0


def read_line(line: bytes, path: Path, number: int) -> dict[str, Any] | None:
    """Return the entry of a line of a tuning journal, without its checksum; None for half a line at the end.

    Args:
        line: with its newline, where it has one.
        path: the journal, for the message.
        number: of the line, from 0.

    Raises:
        MilbenchError: the line was damaged after it was written.
    """
    problem = MilbenchError(
        f"{path} was damaged after it was written, in line {number + 1}; put back a copy of it, or delete it and "
        "all of its trials are made again.",
        code="tuning-storage",
    )
    text = line.decode("utf-8", errors="replace")
    if not line.endswith(b"\n"):
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if end < len(text):  # nothing follows a truncated record
            raise problem
        return None
    try:
        log = json.loads(text)
    except (ValueError, RecursionError):
        # A process before this version may have written a line right behind half of another, which counts for nothing.
        head, mark, tail = text.rpartition(_BEGIN)
        if not mark or not head or _is_json(head):
            raise problem from None
        return read_line((mark + tail).encode(), path, number)
    if not isinstance(log, dict) or "op_code" not in log:
        raise problem
    sealed = log.pop(CHECKSUM, None)
    if sealed is None:
        # One that lost its key by a flipped bit still ends like one.
        if re.search(r'"[0-9a-f]{32}"\}\s*$', text):
            raise problem
    elif sealed != record_checksum(log):
        raise problem
    return log


#: How Optuna begins a line.
_BEGIN = '{"op_code":'


def _is_json(text: str) -> bool:
    try:
        json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True


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


def option_texts(choice: Choice) -> list[str]:
    """Return a text for every option of a choice: plain, or as a Python literal where plain texts would be equal."""
    texts = [plain(option) if not isinstance(option, tuple | list | dict) else quoted(option)
             for option in choice.options]  # fmt: skip
    repeated = {text for text, n in Counter(texts).items() if n > 1}
    return [quoted(o) if text in repeated else text for o, text in zip(choice.options, texts, strict=True)]


def import_optuna() -> Any:
    """Return Optuna, set to log no trial.

    Raises:
        MilbenchError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MilbenchError("tuning needs Optuna: pip install 'milbench[tune]'.", code="package-missing") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def has_ended(trial: Any) -> bool:
    """Return whether a trial is one of those requested: it has ended, and not before it had its parameters."""
    return bool(trial.state.is_finished() and "outcome" in trial.user_attrs)


def ended_ok(trial: Any) -> bool:
    """Return whether a trial ended with a value that counts."""
    return trial.value is not None and trial.user_attrs.get("outcome") == "ok"
