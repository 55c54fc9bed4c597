"""`encoder.json` of a run: the encoder's config, its heads' and how it splits strings into words.

```
{"format": 1, "rule": "prose", "model": {"type": "BiLM", ...}, "heads": {"softmax": {"type": "VocabularyHead", ...}}}
```
So that an encoder can be loaded without knowing the task it was trained by.
"""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ctx_jax.checkpoints.run_files import ENCODER, existing
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.words import Rule

FORMAT = 1


class EncoderFile(NamedTuple):
    """What the file says."""

    model: Any
    heads: Mapping[str, Any]
    rule: Rule


def encoder_text(model: Any, heads: Mapping[str, Any], rule: Rule) -> str:
    """The file's text."""
    stored = {
        "format": FORMAT,
        "rule": rule,
        "model": configs.to_json(model),
        "heads": {name: configs.to_json(head) for name, head in heads.items()},
    }
    return json.dumps(stored, indent=2) + "\n"


def read_encoder(run_dir: Path, models: Sequence[type], heads: Sequence[type]) -> EncoderFile:
    """Read a run's `encoder.json`; `models` and `heads` are the types it may name.

    Raises MissingFileError; InputError, naming the file, for another format, type, field or value.
    """
    path = existing(run_dir, ENCODER)
    stored = read_json(path)
    try:
        if stored.get("format") != FORMAT:
            raise InputError(f"format must be {FORMAT}, got {stored.get('format')!r}")
        if stored.get("rule") not in get_args(Rule):
            raise InputError(f"rule must be one of {get_args(Rule)}, got {stored.get('rule')!r}")
        if not isinstance(stored.get("heads"), dict):
            raise InputError(f"heads must be an object, got {stored.get('heads')!r}")
        return EncoderFile(
            configs.from_json(reduce(or_, models), stored.get("model")),
            {name: configs.from_json(reduce(or_, heads), head) for name, head in stored["heads"].items()},
            stored["rule"],
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
