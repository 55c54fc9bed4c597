"""Find, read and write folders of AllenNLP's ELMo files."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ctx_jax.checkpoints.run_files import VOCABULARY, existing
from ctx_jax.encoders.base import Family, Imported
from ctx_jax.encoders.elmo.allennlp import arrays_from_params, check_shapes, params_from_arrays
from ctx_jax.encoders.elmo.allennlp_options import SOFTMAX_OPTIONS, model_from_options, options_from_model
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.facts import Facts, tensor_facts
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import CtxJaxError, InputError, brief
from ctx_jax.io.files import atomic_folder, read_json
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.typing import Params

MOST_OBJECTS = 10_000
"""Groups and datasets of a file; the greatest published one has 24 datasets."""
_SUFFIXES = (".hdf5", ".h5", ".hdf")
_FLOATS = tuple(
    getattr(h5py.h5t, f"IEEE_F{bits}{order}") for bits in (16, 32, 64) for order in ("LE", "BE")
)  # fmt: skip
_MOST_COMPRESSED = 1100  # HDF5's gzip makes values at most about a thousand times smaller


@contextmanager
def _open(path: Path | str) -> Iterator[h5py.File]:
    """An HDF5 file to read, whatever h5py raises for a damaged one as an InputError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (CtxJaxError, FileNotFoundError):
        raise
    except Exception as error:  # OSError, RuntimeError, KeyError, TypeError, ValueError and others, by what is damaged
        raise InputError(f"{path} cannot be read as HDF5: {error}") from error


def find(folder: Path | str) -> tuple[Path, Path] | None:
    """Paths of the options and the weights of an AllenNLP folder; None where the folder lacks either.

    Options are `options.json` or `*_options.json`, weights the HDF5 file that holds `char_embed`; other files are
    ignored. Two candidates for either are an InputError that names both.
    """
    # Hidden files are skipped: macOS writes a "._x" beside a copied "x".
    names = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != ".")
    options = [path for path in names if path.name == "options.json" or path.name.endswith("_options.json")]
    weights, unreadable = [], []  # an unreadable file is no error beside a readable one: it may be another program's
    for path in names:
        if options and path.suffix in _SUFFIXES:
            try:
                with _open(path) as file:
                    weights += [path] if "char_embed" in file else []
            except InputError as error:
                unreadable.append(str(error))
    if options and not weights and unreadable:
        raise InputError(f"{folder} has {options[0].name}, but no weights can be read: {'; '.join(unreadable)}")
    for kind, paths in (("options", options), ("weights", weights)):
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            raise InputError(f"{folder} has more than one {kind} file: {listed}; name them: load(options=, weights=)")
    return (options[0], weights[0]) if options and weights else None


def read_files(*, options: Path | str, weights: Path | str) -> Imported:
    """Read an encoder from an options and a weights file, with its softmax as head "softmax" where the weights hold it.

    Published weights hold no softmax; options of a softmax are then ignored. Raises InputError for damaged files, files
    that do not fit each other, and models over words, whose files hold no vocabulary.
    """
    shapes = {name: shape for name, (_, shape) in _shapes(weights).items()}
    model = _model(Path(options), shapes)
    try:
        check_shapes(model, shapes)
    except ValueError as error:
        raise InputError(f"{weights} with {options}: {error}") from error
    with _open(weights) as file:
        arrays = {name: dataset[()] for name, dataset in _datasets(file, weights).items()}
    params = params_from_arrays(model, arrays)
    if model.token_input == "words":
        raise InputError(f"{options} describes a model of words, whose files hold no vocabulary: load the run instead")
    head = VocabularyHead(transform=False, tied=False)
    heads = {name: Head(head, own) for name, own in params.get("head", {}).items()}
    return Imported(model, params.get("encoder", params), model.inputs(), heads)


def _shapes(weights: Path | str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and the shape of every dataset."""
    with _open(weights) as file:
        return {name: (str(dataset.dtype), dataset.shape) for name, dataset in _datasets(file, weights).items()}


def _model(options: Path, names: Iterable[str]) -> BiLM:
    """The model of an options file. Without a softmax among the `names` of the weights its options are ignored."""
    entries = read_json(options)
    if "char_cnn" in entries and not any(name.startswith("softmax/") for name in names):
        entries = {key: value for key, value in entries.items() if key not in SOFTMAX_OPTIONS}
    try:
        return model_from_options(entries)
    except ValueError as error:
        raise InputError(f"{options}: {error}") from error


def read_folder(folder: Path) -> Imported | None:
    """Read the encoder of an AllenNLP folder; None for a path of another kind."""
    found = _found(folder)
    return None if found is None else read_files(options=found[0], weights=found[1])


def _found(folder: Path) -> tuple[Path, Path] | None:
    """`find`, None where the folder is of another kind."""
    if not folder.is_dir():
        return None
    try:
        return find(folder)
    except InputError:
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("model_type") not in (None, "elmo"):
            return None  # a Hugging Face folder whose options or weights belong to other programs
        raise


def facts(folder: Path) -> Facts | None:
    """What the files of an AllenNLP folder say, whatever of it can be read; None for a path of another kind."""
    try:
        found = _found(folder)
    except InputError:
        names = sorted(path for path in folder.iterdir() if path.name[0] != ".")
        options = [path for path in names if path.name == "options.json" or path.name.endswith("_options.json")]
        weights = [path for path in names if path.suffix in _SUFFIXES]
    else:
        if found is None:
            return None
        options, weights = [found[0]], [found[1]]

    def model() -> BiLM:
        try:
            names = _shapes(weights[0])
        except InputError:  # which is told where the tensors are
            names = {}
        return _model(options[0], names)

    of_both = {"model": model, "tensors": lambda: tensor_facts(_shapes(weights[0]))}
    return {
        "format": lambda: "allennlp",
        "files": lambda: [path.name for path in (*options, *weights)],
        **(of_both if len(options) == len(weights) == 1 else {}),
    }


def write(folder: Path | str, model: BiLM, params: Params, words: Sequence[str] = ()) -> None:
    """Write `options.json` and `weights.hdf5` as AllenNLP's ElmoEmbedder and bilm-tf read them.

    `params` is the encoder's tree, or {"encoder", "head"}, whose softmax is written to `softmax.hdf5`. `words`, the
    vocabulary, are written to `vocabulary.txt`, one a line. The folder appears atomically. Raises ExistingFileError
    for a folder that exists and is not empty.
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


def write_folder(folder: Path, encoder: Imported, run_dir: Path) -> None:
    """Export a run's encoder, softmax and vocabulary with `write`. A warning names heads that have no place there."""
    softmax = {name: head.params for name, head in encoder.heads.items() if name == "softmax"}
    if left := sorted(encoder.heads.keys() - softmax.keys()):
        warnings.warn(f"an AllenNLP folder has no place for the heads left out: {', '.join(left)}", stacklevel=2)
    words = Vocabulary.read(existing(run_dir, VOCABULARY)).words if softmax else ()
    write(folder, encoder.model, {"encoder": encoder.params, "head": softmax}, words)


def _datasets(file: h5py.File, path: Path | str) -> dict[str, h5py.Dataset]:
    """Every dataset by name, not read yet: a damaged header could claim a shape that fills memory, so shapes are
    checked first. Raises InputError naming `path` for a dataset that is not one of IEEE floats held in this file."""
    datasets: dict[str, h5py.Dataset] = {}
    visited = [0]

    def collect(name: str | bytes, node: h5py.Dataset | h5py.Group) -> str | bytes | None:
        visited[0] += 1
        if isinstance(name, bytes):  # what h5py gives of a name that is not UTF-8
            raise InputError(f"{path}: the name {brief(name)} is not UTF-8")
        if visited[0] > MOST_OBJECTS:
            return name
        if isinstance(node, h5py.Dataset):
            if (problem := _problem(node)) is not None:
                raise InputError(f"{path}: dataset {brief(name)} {problem}")
            datasets[name] = node
        return None

    if file.visititems(collect) is not None:
        raise InputError(f"{path}: holds over {MOST_OBJECTS} groups and datasets, a biLM's weights are some dozens")
    return datasets


def _problem(dataset: h5py.Dataset) -> str | None:
    """Why a dataset's values cannot be used; None where they can."""
    if dataset.is_virtual or dataset.external:
        return "takes its values from another file; they must be in this one"
    if not np.issubdtype(dataset.dtype, np.floating):
        return f"holds {dataset.dtype}, needed are floats"
    kind = dataset.id.get_type()
    if not any(kind.equal(standard) for standard in _FLOATS):
        return f"holds floats of {dataset.dtype.itemsize} bytes that are no IEEE ones, as in a damaged file"
    if dataset.shape is None:
        return "is empty"
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > 2**20 and dataset.nbytes > _MOST_COMPRESSED * stored:
        return f"claims {dataset.nbytes} bytes, the file holds {stored} of it"
    return None


def _write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


FAMILY = Family(
    BiLM,
    "options.json or *_options.json with an HDF5 file holding char_embed (AllenNLP)",
    read_folder,
    {"allennlp": write_folder},
    facts=facts,
)
