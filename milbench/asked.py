"""Which runs tables show: those that a suite asked for last, not those that were finished last.

Labels, a recipe or the code of a method may be changed, run, and changed back: then runs that are long done are asked
for again. Every run carries when its suite was asked for; a run that is there already is marked anew only where
another has come since that would be shown in its stead.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .spec import digest

if TYPE_CHECKING:
    from .spec import RunSpec
    from .store import RunRecord, Store

#: Fields of a run that must agree between all runs of one table: those that differ stand in tables of their own.
CONDITIONS = ("budget", "tuning", "protocol", "threads", "device_type")
#: Fields in which older runs are superseded by those asked for last.
SUPERSEDED = ("fingerprint", "protocol_version")


def age(record: RunRecord) -> tuple[datetime, str]:
    """Return by what runs are ordered: when a suite last asked for it; among equals, by name."""
    try:
        when = datetime.fromisoformat(str(record.record.get("asked") or record.record.get("finished")))
    except ValueError:  # it does not say
        when = datetime.min
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC), record.path.name


def stamp(store: Store) -> str:
    """Return the time to mark runs with that are asked for now: later than all marks there are, by whatever clock."""
    marks = (age(record)[0] + timedelta(milliseconds=1) for record in store.records())
    return max((datetime.now(UTC), *marks)).astimezone(UTC).isoformat(timespec="milliseconds")


def renew(store: Store, run_ids: Collection[str], when: str) -> None:
    """Mark runs that a suite asks for, and that are there already, where tables would show others in their stead.

    Args:
        store: of the suite.
        run_ids: what is asked for; what is not there yet is passed over.
        when: from `stamp`.

    Raises:
        MilbenchError: a run's file cannot be written, or is damaged.
    """
    records = sorted(store.records(), key=age)
    bags = {record.spec.data: _same(record.spec, SUPERSEDED) for record in records}  # the latest one's stays
    code = {_method(record): record.spec.code for record in records}
    place = {_place(record): record.spec.run_id for record in records}
    for record in records:
        shown = (
            bags[record.spec.data] == _same(record.spec, SUPERSEDED)
            and code[_method(record)] == record.spec.code
            and place[_place(record)] == record.spec.run_id
        )
        if record.spec.run_id in run_ids and not shown:
            store.mark(record.spec.run_id, when)


def _method(record: RunRecord) -> str:
    """Of all runs of a method in a table, only those of one form of its code are shown."""
    return digest([record.spec.data, record.method, _same(record.spec, CONDITIONS), _same(record.spec, SUPERSEDED)])


def _place(record: RunRecord) -> str:
    """Of runs that differ in nothing of this, one is shown."""
    return digest([_method(record), record.spec.fold, record.spec.seed])


def _same(spec: RunSpec, fields: Collection[str]) -> str:
    return json.dumps(spec.model_dump(mode="json", include=set(fields)), sort_keys=True)
