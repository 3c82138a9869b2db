"""RunSpec: everything that decides the predictions of one run, and the id it is stored under."""

from __future__ import annotations

from typing import Any, Literal

from .budget import Budget
from .frozen import Frozen, added, digest
from .protocol import PROTOCOL_VERSION, Protocol
from .recipe import Recipe
from .tuning import Tuned


class RunSpec(Frozen):
    """One run: everything that decides its predictions, and nothing else. Hardware is recorded, not hashed.

    ``params`` holds every parameter of the method, defaults included, and ``code`` identifies the source of a method
    that is not milbench's own, and the revision of one that is; ``task`` says what the labels
    are. The one trace of the machine is ``device_type``: the sums of a CPU and of a CUDA device differ.
    """

    suite: str
    suite_version: int
    data: str
    fingerprint: str
    method: str
    params: dict[str, Any]
    code: str = ""
    recipe: Recipe
    protocol: Protocol
    budget: Budget
    tuning: Tuned | None = None
    fold: str
    seed: int
    threads: int
    stacked: bool = added(False, since="0.1.0")
    device_type: Literal["cpu", "cuda"]
    protocol_version: int = PROTOCOL_VERSION
    task: str = added("classification", since="0.2.0")

    @property
    def run_id(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the canonical JSON of this spec, its timeout left out.

        A timeout is a safety net: a run that ended ``ok`` has the same predictions under any.
        """
        return self._id(None)

    @property
    def stored_ids(self) -> tuple[str, ...]:
        """Return the ids that a run of this spec may be stored under: `run_id` first.

        Earlier versions hashed the timeout: a run that had one may be stored under either id.
        """
        return tuple(dict.fromkeys((self._id(None), self._id(self.budget.timeout_s))))

    def _id(self, timeout_s: float | None) -> str:
        fields = self.identity()
        return digest(fields | {"budget": fields["budget"] | {"timeout_s": timeout_s}})
