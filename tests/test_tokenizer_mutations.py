"""Tokenizer files with something wrong in them: an error that names the file, or what transformers gives.

Seeded: bits, truncations, entries left out, of another type, huge.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import BYTES, PIECES, WORDS, put

from ctx_jax.io.errors import InputError, SentenceError
from ctx_jax.tokenizers.subword_files import read_folder

TEXTS = ["the cats", "The  cat é", "the東京", " a b", "ab<mask>a", "[MASK] the[CLS]", "<s> the</s>", "the [E1] cat"]
CONFIG = {
    "do_lower_case": True,
    "strip_accents": None,
    "cls_token": "[CLS]",
    "bos_token": "the",
    "extra_special_tokens": ["cat"],
    "split_special_tokens": False,
    "added_tokens_decoder": {"0": {"content": "[PAD]", "lstrip": False, "special": True}},
}
ODD = [None, True, 0, 1, -1, 10**20, 10**30, 1.5, float("nan"), float("inf"), "", [], {}, "x" * 500, "\ud800", ["a"],
       {"a": 1}, "[CLS]", 17, [[["a"]]]]  # fmt: skip
LEFT_OUT = object()


def folders() -> list[tuple[str, dict[str, Any]]]:
    """(model_type, files) of whole folders."""
    transformers = pytest.importorskip("transformers")
    words = "\n".join(WORDS) + "\n"
    older = {"cls_token": "[CLS]", "additional_special_tokens": ["cat"]}
    ids = {token: number for number, token in enumerate(BYTES)}
    bpe = {"vocab.json": ids, "merges.txt": "#version: 0.2\nĠ a\nĠ b\n"}
    found: list[tuple[str, dict[str, Any]]] = [
        ("bert", {"vocab.txt": words, "tokenizer_config.json": CONFIG}),
        ("bert", {"vocab.txt": words, "special_tokens_map.json": older, "added_tokens.json": {"[E1]": 17}}),
        ("roberta", {**bpe, "tokenizer_config.json": {"add_prefix_space": True}}),
    ]
    made = {
        "bert": transformers.BertTokenizer(vocab={token: number for number, token in enumerate(WORDS)}),
        "gpt2": transformers.GPT2Tokenizer(vocab=ids, merges=[("Ġ", "a"), ("Ġ", "b")]),
        "xlm-roberta": transformers.XLMRobertaTokenizer(vocab=PIECES),
    }
    for model_type, tokenizer in made.items():
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        found.append((model_type, {"tokenizer.json": state}))
        generic = {"tokenizer_class": "PreTrainedTokenizerFast"}
        found.append((model_type, {"tokenizer.json": state, "tokenizer_config.json": generic}))
    return found


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def mutated(content: Any, draw: random.Random) -> bytes:
    if not isinstance(content, str) and draw.random() < 0.75:
        whole = {"": copy.deepcopy(content)}
        for _ in range(draw.choice([1, 1, 2])):
            *way, last = draw.choice(list(places(whole))[1:])
            part: Any = whole
            for key in way:
                part = part[key]
            odd = draw.choice([*ODD, LEFT_OUT, LEFT_OUT])
            if odd is LEFT_OUT and way:
                del part[last]
            else:
                part[last] = {} if odd is LEFT_OUT else copy.deepcopy(odd)
        return json.dumps(whole[""]).encode()
    raw = bytearray((content if isinstance(content, str) else json.dumps(content)).encode())
    if draw.random() < 0.3:
        return bytes(raw[: draw.randrange(len(raw))])
    for _ in range(draw.choice([1, 1, 3])):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(raw)


def ids_of(folder: Path, model_type: str) -> list[list[int]] | str:
    """The ids of every text, or the error."""
    try:
        subwords = read_folder(folder, model_type)
        return [subwords.add_special_tokens(ids).tolist() for ids in subwords.tokenize_text(TEXTS)]
    except SentenceError:  # of one text: an unknown piece in a vocabulary without an unknown token
        return str(folder)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_tokenizer_files_are_named_or_read_as_transformers_reads_them(count: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    given, draw = folders(), random.Random(count)
    for number in range(count):
        model_type, files = draw.choice(given)
        folder = put(tmp_path / str(number), {"config.json": {"model_type": model_type}, **files})
        changed = draw.choice(list(files))
        (folder / changed).write_bytes(mutated(files[changed], draw))
        ours = ids_of(folder, model_type)
        if isinstance(ours, str):
            assert str(folder) in ours
            continue
        try:
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception:
            continue  # we ignore what is wrong there: truncation, padding, a decoder
        assert ours == [theirs(text)["input_ids"] for text in TEXTS], (number, changed)
