"""JSON Schemas that posts must follow.

The library is jsonschema-rs: all drafts, with regular expressions that take linear time. References to other documents
are not followed: a schema says everything itself.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from dvid_dask.errors import BadRequest

__all__ = ["check_schema", "conform"]

_SHOWN = 5  # failures that a message names
_REPAIRED = 10_000  # failures that are looked at for texts that should be integers


@lru_cache(maxsize=64)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        msgspec.json.decode(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions()
    )


def check_schema(schema: bytes) -> None:
    """Refuse what is no JSON Schema.

    Raises
    ------
    BadRequest

    Examples
    --------
    >>> check_schema(b'{"type": "nonsense"}')
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: this is no JSON Schema that can be used: "nonsense" is not valid under any of ...
    """
    try:
        _validator(schema)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the schema is no JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the schema is nested too deeply") from None
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise BadRequest(f"this is no JSON Schema that can be used: {str(error).splitlines()[0]}") from None


def conform(schema: bytes, posted: dict[str, Any]) -> dict[str, Any]:
    """What was posted, if it follows the schema; texts that should be integers, and can be, become integers.

    Raises
    ------
    BadRequest
        It doesn't follow the schema.

    Examples
    --------
    >>> conform(b'{"properties": {"group": {"type": "integer"}}}', {"group": "12"})
    {'group': 12}
    >>> conform(b'{"properties": {"group": {"type": "integer"}}}', {"group": "x"})
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: the annotation breaks the schema: 'group': "x" is not of type "integer"
    """
    validator = _validator(schema)
    if validator.is_valid(posted):
        return posted
    repaired = dict(posted)
    for error in islice(validator.iter_errors(posted), _REPAIRED):
        path = error.instance_path
        if len(path) == 1 and isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Type):
            name, value = path[0], error.instance
            if "integer" in error.kind.types and isinstance(value, str) and _is_int64(value):
                repaired[str(name)] = int(value)
    failures = list(islice(validator.iter_errors(repaired), _SHOWN))
    if not failures:
        return repaired
    told = "; ".join(f"{'.'.join(map(str, e.instance_path))!r}: {e.message[:200]}" for e in failures[:_SHOWN])
    raise BadRequest(f"the annotation breaks the schema: {told}")


def _is_int64(text: str) -> bool:
    digits = text[1:] if text[:1] in ("-", "+") else text
    return len(digits) < 40 and digits.isascii() and digits.isdigit() and -(2**63) <= int(text) < 2**63
