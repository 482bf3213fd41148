"""Read the JSON that a result's `to_json` wrote."""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str, format: str, version: int) -> dict[str, Any]:
    """Return the dict that JSON text holds, without its entries "format" and "version".

    Raises:
        ValueError: if the text is not JSON, or if these entries differ from `format` and `version`.
    """
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON ({error}); give the text that to_json wrote") from error
    if not isinstance(content, dict) or content.pop("format", None) != format:
        raise ValueError(f"this JSON has no format {format!r}; give the text that to_json wrote")
    stored = content.pop("version", None)
    if stored != version:
        raise ValueError(f"this is version {stored!r} of the format; this package reads version {version}")
    return content
