"""JSON files as other programs and people leave them."""

import json
from pathlib import Path
from typing import Any

from ctx_jax.io.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds; ValueError naming the file where it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}): copy the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content
