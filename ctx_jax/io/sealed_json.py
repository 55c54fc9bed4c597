"""JSON files that end with the SHA-256 of their own content: any change to such a file is found, and blamed on it.

```
{"processes": 1, "files": {...}, "sha256": "5f9c..."}
```
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import read_json, read_text

_OWN = "sha256"


def sealed_text(content: Mapping[str, Any]) -> str:
    """The text of a file that `read_sealed` reads as `content`."""
    own = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, _OWN: own}, indent=1) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file of `sealed_text`. MissingFileError; InputError unless the file is as it was written."""
    try:
        content = read_json(path)
        content.pop(_OWN, None)
        if read_text(path) == sealed_text(content):
            return content
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: missing") from error
    except InputError as error:
        raise InputError(f"{path}: damaged; {error}") from error
    raise InputError(f"{path}: changed; it does not end with the digest of its own content")
