"""The body of a process: execute one task, and turn every error into an outcome."""

from __future__ import annotations

import os
import traceback
from typing import Any, Protocol

import torch

from ..config.units import show_quantity
from ..errors import Diverged, MilbenchError, OutOfMemory, Unsupported
from ..measure.memory import is_out_of_memory
from .launchers.base import Outcome


class Task(Protocol):
    """Whatever a process of its own can do; one whose memory is limited has ``memory_bytes`` as well."""

    def execute(self) -> Any:
        """Set this process up (`milbench.runs.process`), do the work and return its value; errors may pass."""


def work(task: Task) -> Outcome:
    """Execute one task in this process; exceptions become outcomes with a reason."""
    try:
        return Outcome("ok", "", task.execute())
    except Unsupported as error:
        return Outcome("unsupported", str(error))
    except Diverged as error:
        return Outcome("diverged", str(error))
    except OutOfMemory as error:
        record = {"bag_length": error.bag_length, "during": error.during, "asked_bytes": error.requested_bytes}
        cause = "" if error.__cause__ is None else f": {_first_line(error.__cause__)}"
        return Outcome("oom", f"{error}{_cap(task)}{cause}", {"record": {"oom": record}})
    except MilbenchError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # any method may raise anything: the suite goes on and the table names it
        if is_out_of_memory(error):
            return Outcome("oom", _first_line(error))
        reason = f"{type(error).__name__}: {_first_line(error)} ({_where(error)})"
        return Outcome("failed", reason, {"record": {"traceback": traceback.format_exc()}})


def _cap(task: Task) -> str:
    cap = getattr(task, "memory_bytes", None)
    return "" if cap is None else f" ({show_quantity('memory_bytes', cap)})"


def _where(error: Exception) -> str:
    """Return file:line of the innermost frame that is not torch's own: the line of the method, for most errors."""
    frames = traceback.extract_tb(error.__traceback__)
    home = os.path.dirname(torch.__file__)
    last = next((frame for frame in reversed(frames) if not frame.filename.startswith(home)), frames[-1])
    return f"{os.path.basename(last.filename)}:{last.lineno}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
