"""Text of TensorFlow Datasets, read from ArrayRecord files without TensorFlow."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctx_jax.data.config import Split
from ctx_jax.data.text_files import Reading, decode
from ctx_jax.io.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

# A set without validation text has none: its test split, taken silently, would choose the best checkpoint.
_CANDIDATES = {"train": ("train",), "valid": ("validation", "valid", "dev")}


@dataclass(frozen=True)
class TfdsText:
    """One split of a set prepared as ArrayRecord, a `corpora.Source`; every record is a document."""

    builder: "DatasetBuilder" = field(repr=False)
    set_name: str
    split: str
    feature: str  # of a record, which holds its text
    reading: Reading

    @property
    def name(self) -> str:
        return f"tfds-{self.set_name.replace('/', '-')}-{self.split}"

    @property
    def size(self) -> int:
        """Bytes of the records, which are a little more than their text."""
        return int(self.builder.info.splits[self.split].num_bytes)

    def identity(self) -> dict[str, Any]:
        split = self.builder.info.splits[self.split]
        found = {
            "name": self.builder.info.full_name,
            "split": self.split,
            "feature": self.feature,
            "folder": str(self.builder.data_path),
            "examples": split.num_examples,
            "bytes": split.num_bytes,
        }
        return {"tfds": found, **vars(self.reading)}

    def documents(self) -> Iterator[list[str]]:
        """See `corpora.Source`. InputError as `text_files.decode`, with the record's number."""
        for number, record in enumerate(self.builder.as_data_source(split=self.split)):
            yield []
            where = f"{self.set_name}, {self.split}, record {number}"
            for line in decode(record[self.feature], self.reading.errors, where).split("\n"):
                yield from self.reading.read(line)


def open_set(spec: str, split: Split, reading: Reading) -> TfdsText:
    """Opens `NAME[/CONFIG][:SPLIT]`; NAME may also be the folder of a prepared version (`.../lm1b/1.1.0`).

    Sets are looked for in `TFDS_DATA_DIR`, or `~/tensorflow_datasets` without it. Nothing is downloaded.

    Raises:
        MissingFileError: the set is not prepared there.
        InputError: no such split, or no feature called `text` and not exactly one of text.
    """
    import tensorflow_datasets as tfds

    name, _, wanted = spec.partition(":")
    how = (
        "prepare it once: pip install 'ctx-jax[tfds]', then python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
    )
    if Path(name).is_dir():
        builder = tfds.builder_from_directory(name)
    else:
        try:
            builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"), file_format="array_record")
        except tfds.core.DatasetNotFoundError as error:
            raise MissingFileError(f"no data set {name!r} of tfds is known or prepared: {how}") from error
    splits = list(builder.info.splits)
    if not splits:
        raise MissingFileError(f"{name} is not prepared in {builder.data_path}: {how}, or set TFDS_DATA_DIR")
    chosen = [each for each in ((wanted,) if wanted else _CANDIDATES[split]) if each in splits]
    if not chosen:
        advice = f"name one (tfds:{name}:{splits[-1]})"
        if split == "valid" and not wanted:
            advice += (
                " in data.valid, which takes text files too; with "
                f"data.train=tfds:{name}:train and no data.valid nothing is validated"
            )
        said = repr(wanted) if wanted else _CANDIDATES[split][0]
        raise InputError(f"{name} has no {said} split, only {', '.join(splits)}: {advice}")
    features = builder.info.features
    texts = [key for key, feature in features.items() if type(feature).__name__ == "Text"]
    if "text" not in features and len(texts) != 1:
        raise InputError(
            f"{name} has no feature `text`, and {len(texts)} others of text, among {', '.join(features)}: "
            "give another set, or its text as files"
        )
    return TfdsText(builder, name, chosen[0], "text" if "text" in features else texts[0], reading)
