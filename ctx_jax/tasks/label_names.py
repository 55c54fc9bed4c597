"""The names of the labels that training files have."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.io.errors import ConfigError, listed
from ctx_jax.tasks.label_values import NUMBER, Target
from ctx_jax.typing import Log


def label_names(target: Target, files: Mapping[str, Sequence[Example]], log: Log) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the scores, K of them, and how often each occurs in the training file, float32 [K].

    `files` are the examples of "train" and, if there is a file, "valid". Of labels they are the training file's,
    sorted; ConfigError where it has too few, or where the validation file has none of them. `log` gets those that only
    the validation file has.
    """
    valid = f"; {len(files['valid']):,} examples for validation" if "valid" in files else ""
    if target == "ranking":
        log(f"{len(files['train']):,} examples{valid}")
        return (), np.zeros(0, np.float32)
    counts = {name: Counter(label for each in examples for label in each.labels) for name, examples in files.items()}
    if len(counts["train"]) < (1 if target == "several" else 2):
        only = f"the label {next(iter(counts['train']))!r} alone; two are needed" if counts["train"] else "no label"
        raise ConfigError("data.train", f"has {only}. Is data.columns the file's order?")
    if target == "number":
        log(f"{len(files['train']):,} examples with a number{valid}")
        return NUMBER, np.ones(1, np.float32)
    labels = tuple(sorted(counts["train"]))
    if unseen := sorted(counts.get("valid", {}).keys() - {*labels}):
        if len(unseen) == len(counts["valid"]):
            raise ConfigError("data.valid", f"has none of the training file's labels, but {listed(unseen)}")
        log(f"labels of data.valid that training has not seen, and which count as wrong: {listed(unseen)}")
    log(f"{len(files['train']):,} examples, {counts['train'].total():,} labels of {len(labels)} kinds{valid}")
    return labels, np.array([counts["train"][label] for label in labels], np.float32)
