"""Time limit in a recipe: hours, minutes and seconds, as job schedulers write them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

PATTERN = r"^(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)$"


def time_limit_seconds(text: str) -> int:
    """The seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``."""
    found = re.match(PATTERN, text)
    if found is None:
        raise ValueError(f"{text!r} is not a time limit")
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _check(value: Any) -> Any:
    if not isinstance(value, str) or not re.match(PATTERN, value) or not time_limit_seconds(value):
        rule = 'a time above 0 in hours, minutes and seconds, such as "02:30:00", or with days "1-12:00:00"'
        raise PydanticCustomError("time_limit", rule)
    return value


TimeLimit = Annotated[str, BeforeValidator(_check), Field(json_schema_extra={"pattern": PATTERN})]
