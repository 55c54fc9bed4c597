"""The tensors of a Hugging Face file to our parameters, those of heads included, and back."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.transformer.huggingface.keys import MOST_LAYERS
from ctx_jax.encoders.transformer.huggingface.labels import modern_head
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS
from ctx_jax.encoders.transformer.huggingface.names import (
    DENSE,
    Architecture,
    Entry,
    LabelHead,
    Names,
    canonical,
    expand,
)
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import ClassificationHead, Head, Pooler, SequenceHead, VocabularyHead
from ctx_jax.heads.sequence import UNNAMED
from ctx_jax.io.errors import InputError, brief, listed
from ctx_jax.ops.dense import Activation
from ctx_jax.typing import Params

VOCABULARY_HEADS = ("masked_lm", "causal_lm")
_MOST_PROBLEMS = 50  # that one error lists
_MOST_LABELS = 1_000_000


def canonical_tensors(names: Names, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under names without prefix and old spellings, buffers left out."""
    result: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = canonical(names, name)
        if re.fullmatch(names.ignored, short):
            continue
        if short in result:
            raise InputError(f"two tensors are named {brief(short)}, one of them as {brief(name)}: remove one")
        result[short] = tensor
    return result


def layers_held(names: Names, tensors: Mapping[str, np.ndarray]) -> int:
    """How many layers canonical names number: 1 + the greatest; any number where all layers share their tensors."""
    if not any("{l}" in entry.name for entry in names.body):
        return MOST_LAYERS
    starts = {re.escape(entry.name.partition("{l}")[0]) for entry in names.body if "{l}" in entry.name}
    pattern = re.compile(rf"(?:{'|'.join(sorted(starts))})(\d{{1,9}})\.")
    numbers = {found[1] for name in tensors if (found := pattern.match(name))}
    return max((int(number) + 1 for number in numbers), default=0)


def head_modules(
    names: Names, vocabulary_head: VocabularyHead, tensors: Mapping[str, np.ndarray], activation: Activation
) -> tuple[dict[str, Any], list[str]]:
    """name -> module of the heads of a file, recognised by the names of its tensors; and the names of the tensors of
    other heads, which are not read: those that belong to no module of the body. `activation` is the encoder's."""
    labels = _label_modules(names, vocabulary_head, tensors, activation)
    read = {name for form, _ in labels for name in form.tensors}
    of_labels = {form.head: module for form, module in labels}
    found = [
        head for head, prefixes in names.head_prefixes.items() if any(name.startswith(prefixes) for name in tensors)
    ]
    if names.shared_by_labels and any(name.startswith(names.shared_by_labels) for name in tensors):
        found = [head for head in found if head != "masked_lm"]
    read |= {name for name in tensors for head in found if name.startswith(names.head_prefixes[head])}
    if not vocabulary_head.has_params:
        # GPT's tied head is the token embedding, which a file of the base model has too.
        found = [name for name in VOCABULARY_HEADS if name in names.head_prefixes]
    if {"next_sentence", "sentence_order"} & {*found} and "pooler" not in found:
        found.append("pooler")  # the error then lists its tensors as missing
    modules = {"pooler": Pooler(), "next_sentence": SequenceHead(), "sentence_order": SequenceHead()}
    body = {entry.name.partition(".")[0] for entry in names.body}
    others = sorted(name for name in tensors.keys() - read if name.partition(".")[0] not in body)
    return {name: modules.get(name, vocabulary_head) for name in found} | of_labels, others


def _label_modules(
    names: Names, vocabulary_head: VocabularyHead, tensors: Mapping[str, np.ndarray], activation: Activation
) -> list[tuple[LabelHead, Any]]:
    """The heads of labels of a file, each with its module, whose labels have no names yet."""
    result: list[tuple[LabelHead, Any]] = []
    for form in names.labels:
        roots = tuple({f"{module.partition('.')[0]}." for module in (form.out, form.dense) if module})
        if any(form.head == other.head for other, _ in result):
            continue
        if not form.tensors - form.optional <= {name for name in tensors if name.startswith(roots)} <= form.tensors:
            continue
        kernel = tensors[f"{form.out}.weight"]
        if kernel.ndim == 2 and kernel.shape[0] <= _MOST_LABELS:
            labels = tuple(UNNAMED.format(number) for number in range(kernel.shape[0]))
            result.append((form, _label_module(form, labels, vocabulary_head, activation)))
    return result


def _label_module(
    form: LabelHead, labels: tuple[str, ...], vocabulary_head: VocabularyHead, activation: Activation
) -> Any:
    if form.norm:
        return modern_head(labels, vocabulary_head)
    dense = ClassificationHead(labels, form.activation or activation)
    return dense if form.dense else SequenceHead(labels, form.bias)


def module_key(name: str, module: Any) -> str:
    """A head as `Names.classes` names it."""
    return name + DENSE if isinstance(module, ClassificationHead) else name


def params_from_tensors(
    model: Transformer, heads: Mapping[str, Any], tensors: Mapping[str, np.ndarray], names: Names
) -> dict[str, Any]:
    """The encoder's parameters, and under the name of each of `heads` (name -> module) that head's parameters.

    `tensors` have canonical names. Raises InputError listing every missing, unexpected and misshapen tensor, and for
    copies of tied tensors that differ from the original.
    """
    shapes = _shapes(model, heads)
    entries = {entry.name: entry for entry in expand(names.body + names.above, model.depth, {*shapes})}
    given = _without_copies(heads, tensors, names)
    problems = [f"missing {name}" for name in entries if name not in given]
    unexpected = sorted(given.keys() - entries.keys() - {*names.unused})
    problems += [f"unexpected {name[:200]} {list(given[name].shape)}" for name in unexpected]
    for name in entries.keys() & given.keys():
        needed = _file_shape(entries[name], shapes)
        if given[name].shape != needed:
            problems.append(f"misshapen {name}: the config needs {list(needed)}, it is {list(given[name].shape)}")
        elif given[name].dtype.kind not in "fV":
            problems.append(f"mistyped {name}: floating point is needed, it is {given[name].dtype}")
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise InputError("the tensors do not fit config.json:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS] + more))
    params: dict[str, Any] = {}
    for name, entry in entries.items():
        tensor = given[name].astype(np.float32) + np.float32(entry.less_one)
        parts = np.split(tensor.T if entry.transposed else tensor, len(entry.paths), axis=-1)
        for path, part in zip(entry.paths, parts, strict=True):
            *outer, last = path.split("/")
            node = params
            for step in outer:
                node = node.setdefault(step, {})
            node[last] = jnp.asarray(part)
    return params


def _without_copies(heads: Mapping[str, Any], tensors: Mapping[str, np.ndarray], names: Names) -> dict[str, np.ndarray]:
    """The tensors without the copies of tied tensors that some files hold; a copy must equal its original."""
    given = dict(tensors)
    tied = all(heads[name].tied for name in VOCABULARY_HEADS if name in heads)
    pairs = [(names.embedding, names.tied_copy)] if tied else []
    if names.bias_copy:
        first, second = names.bias_copy
        if tied:
            pairs.append((first, second))
        elif second in given:
            # For untied decoders transformers adds the second bias and never reads the first.
            given[first] = given.pop(second)
    for first, second in pairs:
        if second not in given:
            continue
        copy = given.pop(second)
        if first not in given:
            given[first] = copy
        elif not np.array_equal(given[first], copy):
            raise InputError(f"config.json ties {second} to {first}, but they differ; set tie_word_embeddings")
    return given


def _shapes(model: Transformer, heads: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """path -> shape of the encoder's parameters and of the heads', whose paths start with the head's name."""

    # All layers after the first have the same shapes: only one of them is traced.
    small = replace(model, depth=min(model.depth, 2), local_layers=())

    def init(key: jax.Array) -> dict[str, Any]:
        params = small.init(key)
        for name, head in heads.items():
            sizes = {"vocabulary": model.vocabulary, "decoder_width": model.embedding_dim}
            params[name] = head.init(key, width=model.width, **(sizes if name in VOCABULARY_HEADS else {}))
        return params

    shapes = {path: leaf.shape for path, leaf in _flat(jax.eval_shape(init, jax.random.key(0))).items()}
    second = {path.partition("/")[2]: shape for path, shape in shapes.items() if path.startswith("layer_1/")}
    return shapes | {
        f"layer_{layer}/{path}": shape for layer in range(2, model.depth) for path, shape in second.items()
    }


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _file_shape(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    *inputs, outputs = shapes[entry.paths[0]]
    joined = (*inputs, outputs * len(entry.paths))
    return joined[::-1] if entry.transposed else joined


def tensors_from_params(
    model: Transformer, params: Params, architecture: Architecture, heads: Mapping[str, Head]
) -> dict[str, np.ndarray]:
    """The tensors of a file under transformers' names, with the prefix if there is a head other than the pooler.

    Tied tensors are written once. Raises InputError for parameters that do not fit the model or its heads, and for
    parameters that the file format has no tensor for.
    """
    names = LAYOUTS[architecture].names
    flat = _flat({**params, **{name: head.params for name, head in heads.items()}})
    shapes = _shapes(model, {name: head.module for name, head in heads.items()})
    wrong = sorted(
        path for path in flat.keys() | shapes.keys() if path not in flat or np.shape(flat[path]) != shapes.get(path)
    )
    if wrong:
        raise InputError(f"the parameters do not fit the model at {listed(wrong)}")
    body, above = (expand(part, model.depth, {*flat}) for part in (names.body, names.above))
    unsupported = sorted(flat.keys() - {path for entry in body + above for path in entry.paths})
    if unsupported:
        raise InputError(f"a file of {architecture} has no place for {unsupported}")
    prefix = names.prefix if heads.keys() - {"pooler"} else ""
    tensors = {}
    for entry in body + above:
        tensor = np.concatenate([np.asarray(flat[path], np.float32) for path in entry.paths], axis=-1)
        name = entry.name if entry in above else prefix + entry.name
        tensors[name] = (tensor.T if entry.transposed else tensor) - np.float32(entry.less_one)
    tied = all(heads[name].module.tied for name in VOCABULARY_HEADS if name in heads)
    if names.bias_copy and not tied and names.bias_copy[0] in tensors:
        tensors[names.bias_copy[1]] = tensors[names.bias_copy[0]]
    return tensors
