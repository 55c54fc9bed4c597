"""Folders of AllenNLP's ELMo files: find, read and write them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from ctx_jax.checkpoints.run_files import VOCABULARY, existing
from ctx_jax.encoders.base import Family, Imported, InputProcessor
from ctx_jax.encoders.elmo.allennlp import (
    SOFTMAX_OPTIONS,
    arrays_from_params,
    model_from_options,
    options_from_model,
    params_from_arrays,
)
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_folder, read_json
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.typing import Params

_HDF5 = (".hdf5", ".h5", ".hdf")


def find(folder: Path | str) -> tuple[Path, Path] | None:
    """The options and weights of an AllenNLP folder, or None where the folder lacks either.

    Options are `options.json` or `*_options.json`, weights the HDF5 file that holds `char_embed`; other files are
    ignored. Two candidates for either are an InputError that names both.
    """
    # macOS puts a "._x" beside a copied "x".
    names = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != ".")
    options = [path for path in names if path.name == "options.json" or path.name.endswith("_options.json")]
    unreadable: list[str] = []
    weights = [path for path in names if options and path.suffix in _HDF5 and _holds_characters(path, unreadable)]
    if options and not weights and unreadable:
        raise InputError(f"{folder} has {options[0].name}, but no weights can be read: {'; '.join(unreadable)}")
    for kind, paths in (("options", options), ("weights", weights)):
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            raise InputError(f"{folder} has more than one {kind} file: {listed}; name them: load(options=, weights=)")
    return (options[0], weights[0]) if options and weights else None


def read_files(*, options: Path | str, weights: Path | str) -> Imported:
    """The encoder of an options and a weights file, and its softmax as head "softmax" where the weights hold one.

    Published weights hold no softmax; the options of one are ignored then. Raises InputError for files that are damaged
    or do not fit each other, and for a model of words, whose files hold no vocabulary.
    """
    entries = read_json(Path(options))
    try:
        with h5py.File(weights, "r") as file:
            arrays = _datasets(file)
            if "char_cnn" in entries and not any(name.startswith("softmax/") for name in arrays):
                entries = {key: value for key, value in entries.items() if key not in SOFTMAX_OPTIONS}
            model = model_from_options(entries)
            params = params_from_arrays(model, arrays)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{weights} cannot be read as HDF5: {error}") from error
    except ValueError as error:
        raise InputError(f"{weights} with {options}: {error}") from error
    if model.token_input == "words":
        raise InputError(f"{options} describes a model of words, whose files hold no vocabulary: load the run instead")
    head = VocabularyHead(transform=False, tied=False)
    heads = {name: Head(head, own) for name, own in params.get("head", {}).items()}
    return Imported(model, params.get("encoder", params), model.inputs(), heads)


def read_folder(folder: Path) -> Imported | None:
    """The encoder of an AllenNLP folder; None for a folder of another kind."""
    try:
        found = find(folder)
    except InputError:
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("model_type") not in (None, "elmo"):
            return None  # a Hugging Face folder, with other programs' options or weights
        raise
    return None if found is None else read_files(options=found[0], weights=found[1])


def write(folder: Path | str, model: BiLM, params: Params, words: Sequence[str] = ()) -> None:
    """Write `options.json` and `weights.hdf5` as AllenNLP's ElmoEmbedder and bilm-tf read them.

    `params` is the encoder's tree or {"encoder", "head"}: then the softmax goes to `softmax.hdf5`. `words`, its
    vocabulary, go to `vocabulary.txt`, one a line. The folder is written atomically. Raises ExistingFileError if it
    exists and is not empty.
    """
    options = options_from_model(model)
    arrays = arrays_from_params(model, params)
    softmax = {name: array for name, array in arrays.items() if name.startswith("softmax/")}
    encoder = {name: array for name, array in arrays.items() if name not in softmax}
    with atomic_folder(folder) as partial:
        (partial / "options.json").write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
        _write_hdf5(partial / "weights.hdf5", encoder)
        if softmax:
            _write_hdf5(partial / "softmax.hdf5", softmax)
        if words:
            Vocabulary(tuple(words)).write(partial / VOCABULARY)


def write_folder(
    folder: Path, model: BiLM, params: Params, heads: Mapping[str, Head], processor: InputProcessor, run_dir: Path
) -> None:
    """A run's encoder, its softmax and the words of its vocabulary, as `write` lays them."""
    words = Vocabulary.read(existing(run_dir, VOCABULARY)).words
    write(folder, model, {"encoder": params, "head": {name: head.params for name, head in heads.items()}}, words)


def _holds_characters(path: Path, unreadable: list[str]) -> bool:
    """Whether a file holds weights; an unreadable one is added to `unreadable`, since it may be another program's."""
    try:
        with h5py.File(path, "r") as file:
            return "char_embed" in file
    except OSError as error:
        unreadable.append(f"{path.name} cannot be read as HDF5 ({error})")
        return False


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every float dataset by name, not read yet: shapes are checked first, as a false header could fill memory."""
    datasets: dict[str, h5py.Dataset] = {}

    def collect(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            # Either would read another file that the header names.
            if node.is_virtual or node.external:
                raise InputError(f"dataset {name} takes its values from another file; they must be in this one")
            if not np.issubdtype(node.dtype, np.floating):
                raise InputError(f"dataset {name} holds {node.dtype}, needed are floats")
            datasets[name] = node

    file.visititems(collect)
    return datasets


def _write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


FAMILY = Family(
    BiLM,
    "options.json or *_options.json with an HDF5 file holding char_embed (AllenNLP)",
    read_folder,
    "allennlp",
    write_folder,
)
