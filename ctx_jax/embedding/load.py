"""Files to an encoder: our runs, AllenNLP folders, Hugging Face folders."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import CONFIG, VOCABULARY, existing
from ctx_jax.data.config import rule_of
from ctx_jax.embedding.encoder import Encoder, Reader
from ctx_jax.encoders.elmo import allennlp_files
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.inputs import CharacterReader, VocabularyReader
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer import model as transformer
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.encoders.transformer.huggingface_keys import ARCHITECTURES
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.io.configs import from_json
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers import subword_files
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule

CheckpointStep = Literal["best", "latest"] | int


def load(
    path: str | Path | None = None,
    *,
    step: CheckpointStep = "best",
    options: str | Path | None = None,
    weights: str | Path | None = None,
) -> Encoder:
    """An encoder from a run directory, an AllenNLP or a Hugging Face folder, or from AllenNLP's two files by name.

        load("runs/elmo")                                   # step="best", "latest" or a number
        load("elmo_2x4096_512_2048cnn_2xhighway")           # a folder with options and weights
        load("bert-base-uncased")                           # config.json, model.safetensors, tokenizer files
        load(options="options.json", weights="weights.hdf5")

    Args:
      path: a run directory (`config.json`, `checkpoints/`), a folder with one `options.json` or `*_options.json`
        and one HDF5 file that holds `char_embed`, or a Hugging Face folder of an encoder that
        `checkpoints.huggingface` reads, with its tokenizer.
      step: of a run: "best" is the lowest validation loss.
      options, weights: instead of `path`.

    Raises:
      FileNotFoundError: nothing there, a folder of neither kind (the error says what was looked for and what is
        there), a run without a complete checkpoint or without this step.
      ValueError: neither or both of `path` and the two files; a `step` where there is no run; a file that is damaged
        or does not fit the others; of parameters that are not those of the config, every one that is missing, extra
        or of another shape.
    """
    if options is not None or weights is not None:
        if path is not None or options is None or weights is None:
            given = {"path": path, "options": options, "weights": weights}
            got = ", ".join(f"{name}={str(value)!r}" for name, value in given.items() if value is not None)
            raise InputError(f"load needs a path, or both options= and weights= without one; got {got}")
        _no_step(step, options)
        return _allennlp(_file("options", options), _file("weights", weights))
    if path is None or path == "":
        got = "nothing" if path is None else "''"
        raise InputError(f"load needs a path, or both options= and weights=; got {got}")
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file; load needs its folder, or options= and weights=" if folder.exists() else "does not exist"
        raise MissingFileError(f"{folder} {what}")
    run = (folder / CONFIG).is_file() and (folder / "checkpoints").is_dir()
    found = None if run else _allennlp_files(folder)
    # Beside AllenNLP's files it may be anybody's, even AllenNLP's own, which has a model too.
    config = _config(folder) if found is None else {}
    if isinstance(config.get("model"), dict):
        return _run(folder, config, step)
    _no_step(step, folder)
    if "model_type" in config:
        return _huggingface(folder)
    if found:
        return _allennlp(*found)
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    raise MissingFileError(
        f"{folder} is no encoder: looked for config.json and checkpoints/ (a run), options.json or *_options.json "
        "with an HDF5 file holding char_embed (AllenNLP), or config.json with a model_type (Hugging Face); "
        f"found {listed}"
    )


def _file(name: str, path: str | Path) -> Path:
    """The path of an argument; FileNotFoundError where there is no file."""
    if not Path(path).is_file():
        what = "is a folder; it must be a file: load(folder) finds both" if Path(path).is_dir() else "does not exist"
        raise MissingFileError(f"load({name}=): {path} {what}")
    return Path(path)


def _no_step(step: CheckpointStep, path: str | Path) -> None:
    if step != "best":
        raise InputError(f"step is of a run, and {path} is none: leave step={step!r} out")


def _allennlp_files(folder: Path) -> tuple[Path, Path] | None:
    try:
        return allennlp_files.find(folder)
    except ValueError:
        if _config(folder).get("model_type") in ARCHITECTURES:
            return None  # a Hugging Face folder, with other programs' options or weights
        raise


def _allennlp(options: Path, weights: Path) -> Encoder:
    model, params = allennlp_files.read(options=options, weights=weights)
    if model.inputs == "words":
        raise InputError(f"{options} describes a model of words, whose files hold no vocabulary: load the run instead")
    return Encoder(model, params, CharacterReader(model.max_characters))


def _huggingface(folder: Path) -> Encoder:
    model, params, config = huggingface.read(folder)
    subwords = subword_files.read_folder(folder, config["model_type"], str(config.get("tokenizer_class") or ""))
    if model.vocabulary > (size := len(subwords)):
        # Vocabularies are rounded up for speed, or had words once; which of these it is, no file says.
        raise InputError(
            f"{folder} has a vocabulary of {model.vocabulary}, its tokenizer one of {size}: rows {size} to "
            f"{model.vocabulary - 1} of the model have no token. Where they are unused, give each a name that no text "
            f'has, in added_tokens.json ({{"<unused {size}>": {size}, ...}}), or where tokenizer_config.json has '
            "added_tokens_decoder, there; or drop the rows past the tokenizer's from the word embeddings, the decoder "
            f"and its bias, and set vocab_size to {size}. Else use the tokenizer the model was trained with"
        )
    return Encoder(model, params, _subword_reader(model, subwords, folder))


def _subword_reader(model: Transformer, subwords: Subwords, folder: Path, rule: Rule = "whitespace") -> SubwordReader:
    subwords.check_vocabulary(model.vocabulary, str(folder))
    if model.positions_after_padding and model.pad_id != subwords.pad_id:
        raise InputError(
            f"{folder}: the model counts positions around pad_id={model.pad_id}, its tokenizer pads with "
            f"{subwords.pad_id} ({subwords.special.pad}): they do not belong together"
        )
    return SubwordReader(subwords, model.longest, rule)


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _run(folder: Path, config: dict[str, Any], step: CheckpointStep) -> Encoder:
    from ctx_jax.checkpoints.runs import RunCheckpoints  # Orbax takes seconds to import, and only runs need it

    try:
        model: BiLM | Transformer = from_json(BiLM | Transformer, config["model"])
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
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
        params = checkpoints.restore_params(number, _shapes(model))
    return Encoder(model, params, _reader(model, folder, rule_of(config["data"]["train"], config["data"]["rule"])))


def _shapes(model: BiLM | Transformer) -> Any:
    key = jax.random.key(0)
    match model:
        case BiLM():
            return jax.eval_shape(partial(bilm.init, model), key)
        case Transformer():
            return jax.eval_shape(partial(transformer.init, model), key)
    raise InputTypeError(f"nothing loads the parameters of a {type(model).__name__}")


def _reader(model: BiLM | Transformer, folder: Path, rule: Rule) -> Reader:
    """What reads text for the model of a run."""
    match model:
        case BiLM(inputs="characters"):
            return CharacterReader(model.max_characters, rule)
        case BiLM():
            path = existing(folder, VOCABULARY)
            vocabulary = Vocabulary.read(path)
            if len(vocabulary) != model.vocabulary:
                raise InputError(f"{path} has {len(vocabulary)} words, the model {model.vocabulary}")
            return VocabularyReader(vocabulary, rule)
        case Transformer():
            return _subword_reader(model, subword_files.read_folder(folder), folder, rule)
    raise InputTypeError(f"nothing reads text for a {type(model).__name__}")
