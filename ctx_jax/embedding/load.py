"""`load`: an encoder from one of our runs or from files of other programs that a family reads."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import CONFIG, ENCODER, read_encoder, refuse_several
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.hub import hub_name, local_path
from ctx_jax.embedding.stack_loading import read_stack
from ctx_jax.encoders import FAMILIES, elmo
from ctx_jax.encoders.base import Family, Source
from ctx_jax.encoders.stack.files import STACK
from ctx_jax.heads import HEADS, Head
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*|\w+-[\w.-]+")  # "owner/name", or one of the old ones, "bert-base-cased"
_FILES = (
    ".txt",
    ".vec",
    ".bin",
    ".gz",
    ".xz",
    ".zip",
    ".json",
    ".hdf5",
    ".h5",
    ".safetensors",
)  # no model's name ends so

CheckpointStep = Literal["best", "latest"] | int


def load(
    path: str | Path | None = None,
    *,
    step: CheckpointStep = "best",
    options: str | Path | None = None,
    weights: str | Path | None = None,
    families: Sequence[Family] = FAMILIES,
    heads: Sequence[type] = HEADS,
    **choices: Any,
) -> Encoder:
    """An encoder from a run directory, an AllenNLP or Hugging Face folder, AllenNLP's files, word vectors, or a stack.

        load("runs/elmo")                                   # step="best", "latest" or a number
        load("elmo_2x4096_512_2048cnn_2xhighway")           # a folder with options and weights
        load("bert-base-uncased")                           # config.json, model.safetensors, tokenizer files
        load("all-MiniLM-L6-v2")                            # the same with modules.json (sentence-transformers)
        load("hf://org/name@revision")                      # either, from the Hugging Face Hub (`ctx-jax[hub]`)
        load("glove.6B.300d.txt", lowercase=True)           # GloVe, word2vec, fastText's .vec; gzip, xz or zip too
        load("stacks/minilm_glove")                         # several of them as one (`save_stack`)
        load(options="options.json", weights="weights.hdf5")

    Args:
      path: a run directory (`encoder.json`, `checkpoints/`), a folder with one `options.json` or `*_options.json`
        and one HDF5 file that holds `char_embed`, a Hugging Face folder of an encoder that
        `encoders.transformer.huggingface` reads, with its tokenizer, a sentence-transformers folder, a file that
        `encoders.static.read` reads, or a folder of `save_stack`; or `hf://` and the name of a model on the Hub, with
        `@` and a revision (`embedding.hub`).
      step: for a run; "best" is so by the metric that the run chose, mostly its validation loss.
      options, weights: AllenNLP's two files, instead of `path`.
      choices: options of the family that reads the path: `lowercase` and `unknown` of a table of word vectors.
      families, heads: the types that may be read; add your own, `families=(*encoders.FAMILIES, mine)`.

    Raises:
      MissingFileError: nothing at the path, a folder that no family reads (the error lists what was looked for and what
        is there), a run without a complete checkpoint or without this step.
      MissingPackageError: a name of the Hub without `huggingface_hub`.
      InputError: neither or both of `path` and the two files; `step` without a run; a file that is damaged or does not
        fit the others; parameters that do not fit the config (the error lists all missing, extra and misshapen ones).
    """
    if options is not None or weights is not None:
        return _two_files(path, options, weights, step)
    if path is None or path == "":
        got = "nothing" if path is None else "''"
        raise InputError(f"load needs a path, or both options= and weights=; got {got}")
    folder = local_path(path)
    if is_run(folder):
        _refuse_choices(choices, (), folder)
        return _run(folder, step, families, heads)
    refuse_several(folder)
    if folder.exists():
        _refuse_step(step, folder)
    if (folder / STACK).is_file():
        _refuse_choices(choices, (), folder)
        return read_stack(folder, partial(load, families=families, heads=heads))
    return _of_family(folder, str(hub_name(path) or folder), step, families, choices)


def _of_family(
    folder: Path, path: str, step: CheckpointStep, families: Sequence[Family], choices: Mapping[str, Any]
) -> Encoder:
    """The encoder of other programs' files, which `load` was given as `path`."""
    for family in families:
        own = {name: value for name, value in choices.items() if name in family.options}
        if (imported := family.read(folder, **own)) is not None:
            _refuse_choices(choices, family.options, folder)
            _refuse_step(step, folder)  # a member of an archive is no path that exists
            return Encoder(*imported, source=Source({"path": path}, own))
    raise _nothing_found(folder, families)


def is_run(path: Path) -> bool:
    """Whether a path is a run directory, whole or not."""
    return (path / "checkpoints").is_dir() and ((path / ENCODER).is_file() or (path / CONFIG).is_file())


def _nothing_found(folder: Path, families: Sequence[Family]) -> MissingFileError:
    if not folder.exists():
        hint = ""
        if _HUB_NAME.fullmatch(str(folder)) and folder.suffix not in _FILES and not Path(folder.parts[0]).exists():
            hint = f". If it is the name of a model on the Hugging Face Hub, say hf://{folder}, which is fetched"
        return MissingFileError(f"{folder} does not exist{hint}")
    if not folder.is_dir():
        return MissingFileError(
            f"{folder} is a file, but holds no word vectors; load needs its folder, or options= and weights="
        )
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    looked_for = "; ".join(["encoder.json and checkpoints/ (a run)", *(family.looks_for for family in families)])
    return MissingFileError(f"{folder} is no encoder: looked for {looked_for}; found {listed}")


def _two_files(
    path: str | Path | None, options: str | Path | None, weights: str | Path | None, step: CheckpointStep
) -> Encoder:
    """The encoder of AllenNLP's two files."""
    if path is not None or options is None or weights is None:
        arguments = {"path": path, "options": options, "weights": weights}
        got = ", ".join(f"{name}={str(value)!r}" for name, value in arguments.items() if value is not None)
        raise InputError(f"load needs a path, or both options= and weights= without one; got {got}")
    _refuse_step(step, options)
    found = elmo.read_files(options=_file("options", options), weights=_file("weights", weights))
    return Encoder(*found, source=Source({"options": str(options), "weights": str(weights)}))


def _file(name: str, path: str | Path) -> Path:
    """The path of an argument; MissingFileError if it is no file."""
    if not Path(path).is_file():
        what = "is a folder; it must be a file: load(folder) finds both" if Path(path).is_dir() else "does not exist"
        raise MissingFileError(f"load({name}=): {path} {what}")
    return Path(path)


def _refuse_step(step: CheckpointStep, path: str | Path) -> None:
    if step != "best":
        raise InputError(f"step is for a run, and {path} is none: leave step={step!r} out")


def _refuse_choices(choices: Mapping[str, Any], known: Sequence[str], path: Path) -> None:
    if unknown := [name for name in choices if name not in known]:
        raise InputTypeError(f"load({path}) has no option {unknown[0]!r}: leave it out")


def _run(folder: Path, step: CheckpointStep, families: Sequence[Family], heads: Sequence[type]) -> Encoder:
    from ctx_jax.checkpoints.runs import RunCheckpoints  # Orbax takes seconds to import, and only runs need it

    stored = read_encoder(folder, [family.model for family in families], heads)
    model = stored.model
    with RunCheckpoints(folder / "checkpoints") as checkpoints:
        match step:
            case "best":
                number = checkpoints.best()
            case "latest":
                number = checkpoints.latest()
            case int() | np.integer() if not isinstance(step, bool):
                number = int(step)
            case _:
                raise InputError(f'step must be "best", "latest" or a number, got {step!r}')
        if number is None:
            raise MissingFileError(f"{folder} has no complete checkpoint yet: train it longer, then load it")
        checkpoints.check_files(number)  # before a model is built from them
        shapes: dict[str, Any] = {"encoder": jax.eval_shape(model.init, jax.random.key(0))}
        params = checkpoints.restore_params(number, shapes)
    own_heads = {name: Head(module, params.get("head", {}).get(name, {})) for name, module in stored.heads.items()}
    inputs = model.inputs(folder, rule=stored.rule).with_pieces(stored.pieces)
    source = Source({"path": str(folder)}, {"step": number})
    return Encoder(model, params["encoder"], inputs, own_heads, stored.sentence, stored.architecture, source=source)
