"""Frozen values: pydantic models that identify what is run, and how they are hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """Return the JSON value that ids are hashed of: all fields but those added later that have their default.

        A field of `added` counts only where it is used, at any depth, so that what was stored before it existed keeps
        its id.
        """
        fields = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "since" in extra and value == info.get_default(call_default_factory=True):
                del fields[name]
            elif isinstance(value, Frozen):
                fields[name] = value.identity()
        return fields


def added(default: Any, since: str, **constraints: Any) -> Any:
    """Declare a field of a hashed value that earlier versions did not have.

    Args:
        default: what every value had before the field existed; with it, the field is not hashed (`Frozen.identity`).
        since: the version of milbench that first had the field.
        constraints: of pydantic's ``Field``.
    """
    return Field(default, json_schema_extra={"since": since}, **constraints)


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
