"""Every packing and every import, from training to transformers' files, in the smallest shapes."""

import contextlib
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.data.tokens import tokens_of
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import head_from_config, model_from_config
from ctx_jax.evaluation.masked_lm_eval import evaluation_sequences
from ctx_jax.heads import Head
from ctx_jax.io import configs
from ctx_jax.tasks import TrainConfig
from ctx_jax.tokenizers.subword_training import Kind, train
from ctx_jax.tokenizers.subwords import Subwords

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "quietly", "ran", "saw", "under", "over", "table", "house", "tree"]
CONFIG = '''"""Tiny."""
from dataclasses import replace

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.{task} import {config}
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.optimizer import AdamW


def config():
    task = {config}(
        model=Transformer(
            0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=32, embedding_dropout=0.0,
            attention_dropout=0.0, attention_output_dropout=0.1, feed_forward_dropout=0.0, causal={causal},
        ),
        data=TextConfig(train="train.txt", valid="valid.txt"),
        sequences=SequenceConfig(packing="{packing}", length=32, batch_size=4),
        tokenizer=TokenizerConfig(kind="bpe", size=300),
    )
    return TrainConfig(
        task=replace(task, evaluate=replace(task.evaluate, every=2)),
        optimizer=AdamW(learning_rate=0.0, warmup=1),
        devices=DevicesConfig(count=1),
        steps=2,
    )
'''
GPT2 = (
    "tiny_causal.py --model.norm pre --model.no-embedding-norm --model.token-types 0 --model.activation gelu_tanh "
    "--model.depth-scaled"
)
ROTARY = (
    "tiny_masked.py --model.positions rotary --model.norm pre --model.gated --model.no-first-attention-norm "
    "--model.token-types 0 --model.depth-scaled --sequences.packing packed"
)
PACKINGS = {
    "causal": (GPT2, "GPT2LMHeadModel"),
    "pairs": ("tiny_masked.py --sequences.packing pairs", "BertForPreTraining"),
    "packed": (ROTARY, "ModernBertForMaskedLM"),
}


class Run(NamedTuple):
    packing: str
    path: Path
    exported: Path
    kind: str  # transformers' class of the export


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), 8)] for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two documents each, and two configurations."""
    folder = tmp_path_factory.mktemp("packings")
    for seed, (name, count) in enumerate((("train", 40), ("valid", 12))):
        lines = [" ".join(words) for words in sentences(seed, count)]
        half = count // 2
        (folder / f"{name}.txt").write_text("\n".join([*lines[:half], "", *lines[half:]]) + "\n")
    masked = {"task": "masked_lm", "config": "MaskedLMConfig", "causal": False, "packing": "full_sentences"}
    causal = {"task": "causal_lm", "config": "CausalLMConfig", "causal": True, "packing": "causal_blocks"}
    for name, values in (("masked", masked), ("causal", causal)):
        (folder / f"tiny_{name}.py").write_text(CONFIG.format(**values))
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module", params=PACKINGS)
def run(request: pytest.FixtureRequest, folder: Path) -> Run:
    packing: str = request.param
    arguments, kind = PACKINGS[packing]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *arguments.split(), "--run-dir", f"runs/{packing}"]) == 0
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            assert main(["export", f"runs/{packing}", f"exported/{packing}"]) == 0
    assert re.fullmatch(r"warning: config\.json .* no place for all dropout rates.*\n", errors.getvalue())
    return Run(packing, folder / "runs" / packing, folder / "exported" / packing, kind)


@pytest.mark.slow
def test_evaluate_prints_what_the_run_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss of labelled pairs is the masked tokens' and the label's together, in both."""
    assert main(["evaluate", str(run.path), "valid.txt"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    printed = {name.strip().replace(" ", "_"): float(value) for name, value in (line.rsplit(None, 1) for line in lines)}
    measured = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert measured["split"] == "valid" and printed.keys() <= measured.keys()
    for name, value in printed.items():
        assert value == pytest.approx(measured[name], abs=1e-3, rel=1e-4), name
    if run.packing == "pairs":
        assert printed["loss"] == pytest.approx(printed["masked_loss"] + printed["next_sentence_loss"], abs=2e-4)


@pytest.mark.slow
def test_text_is_tokenized_as_in_training(run: Run) -> None:
    """The encoder's tokens of the first sentence are the first of the first row of the text, but for the end token that
    separates a causal model's texts."""
    encoder = ctx_jax.load(run.path)
    subwords, text = encoder.processor.subwords, sentences(0, 40)
    config = configs.read(run.path / "config.json", TrainConfig)
    given = encoder.tokenize([text[0]], level="tokens")["token_ids"][0]
    if run.packing == "packed":  # sorted by length: another row holds it
        with pytest.raises(ValueError, match="positions hold 32"):
            encoder.tokenize([["cat"] * 40])
        return
    tokens = tokens_of(text, np.array([0, 20]), subwords)
    batch = next(evaluation_sequences(tokens, subwords, encoder.model, config.task.sequences)).arrays
    ids = batch.tokens.token_ids.copy()
    if run.packing == "causal":
        assert subwords.add_special_tokens(given).tolist() == given.tolist()
        assert ids[0, : len(given) + 1].tolist() == [subwords.end_id, *given]
        return
    weights = batch.predicted_weights > 0
    rows = np.broadcast_to(np.arange(len(ids))[:, None], weights.shape)
    ids[rows[weights], batch.predicted_positions[weights]] = batch.predicted_ids[weights]
    for row, types, mask in zip(ids, batch.tokens.token_types, batch.tokens.mask, strict=True):
        ordinary = ~np.isin(row, list(subwords.special_ids))
        both = [subwords.decode(row[ordinary & mask & (types == side)]) for side in (0, 1)]
        if not all(both):
            continue  # padding of the last batch
        encoded = subwords.tokenizer.encode(*(text.strip() for text in both))
        assert (encoded.ids, encoded.type_ids) == (row[mask].tolist(), types[mask].tolist())


@pytest.mark.slow
def test_transformers_reads_the_export_and_its_tokenizer(run: Run) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, info = getattr(transformers, run.kind).from_pretrained(run.exported, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.exported)
    encoder = ctx_jax.load(run.path)
    assert tokenizer.model_max_length == encoder.model.longest == 32
    text = "the cat sat under a table"
    theirs, ours = tokenizer(text, return_tensors="pt"), encoder.tokenize([text], level="tokens")
    np.testing.assert_array_equal(ours["token_ids"], theirs["input_ids"].numpy())
    with torch.no_grad():
        hidden = model.eval()(**theirs, output_hidden_states=True).hidden_states
    for mine, other in zip(ctx_jax.embed(encoder.model, encoder.params, ours).values, hidden, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=2e-5)
    two = tokenizer("the cat", "a dog")
    pair = encoder.processor.subwords.tokenizer.encode("the cat", "a dog")
    assert two["input_ids"] == pair.ids
    assert two.get("token_type_ids") == (pair.type_ids if run.packing == "pairs" else None)
    assert run.packing != "pairs" or pair.type_ids[-1] == 1


SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
BERT = {
    **SIZES, "max_position_embeddings": 34, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "pad_token_id": 1,
    "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
}  # fmt: skip
# config.json of an import, its tokenizer's kind, arguments; ModernBERT and GPT-2 are the models of `PACKINGS`, so
# that they compile to the same programs.
IMPORTS: dict[str, tuple[dict[str, Any], Kind, str]] = {
    "distilbert": (
        {"n_layers": 1, "dim": 8, "n_heads": 2, "hidden_dim": 8, "dropout": 0.1, "attention_dropout": 0.1,
         "activation": "gelu", "max_position_embeddings": 32, "pad_token_id": 0},
        "wordpiece", "tiny_masked.py"),
    "roberta": (BERT, "bpe", "tiny_masked.py"),
    "xlm-roberta": (BERT, "bpe", "tiny_masked.py"),  # so that both compile to the same programs
    "modernbert": (
        {**SIZES, "norm_eps": 1e-12, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "pad_token_id": 1,
         "embedding_dropout": 0.0, "attention_dropout": 0.0, "mlp_dropout": 0.0, "hidden_activation": "gelu",
         "max_position_embeddings": 32, "local_attention": 128, "global_attn_every_n_layers": 1,
         "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "classifier_bias": True},
        "bpe", "tiny_masked.py --sequences.packing packed"),
    "albert": ({**BERT, "pad_token_id": 0, "embedding_size": 4}, "wordpiece", "tiny_masked.py"),
    "qwen3": (
        {**SIZES, "num_key_value_heads": 1, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
         "rope_theta": 10000.0, "max_position_embeddings": 32},
        "bpe", "tiny_causal.py"),
    "gpt2": (
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8, "n_positions": 32, "layer_norm_epsilon": 1e-12,
         "embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "activation_function": "gelu_new",
         "pad_token_id": None},
        "bpe", "tiny_causal.py"),
}  # fmt: skip


def imported(name: str, folder: Path) -> Subwords:
    """A tiny folder of this architecture, with random weights and a tokenizer of its family."""
    config, kind, arguments = IMPORTS[name]
    subwords = train(sentences(0, 40), kind, 300 if kind == "bpe" else 60, causal="causal" in arguments)
    config = {**config, "model_type": name, "vocab_size": len(subwords)}
    model = model_from_config(config)
    head = head_from_config(config, model)
    random = np.random.default_rng(0)

    def draw(init: Callable[[jax.Array], Any]) -> Any:
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)

    params = draw(model.init)
    sizes = {"vocabulary": model.vocabulary, "decoder_width": model.embedding_dim}
    own = draw(partial(head.init, width=model.width, **sizes))
    heads = {"causal_lm" if model.causal else "masked_lm": Head(head, own)}
    huggingface.write(folder, model, params, heads=heads, architecture=name)  # type: ignore[arg-type]
    subwords.save(folder)
    return subwords


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTS)
def test_a_run_started_from_an_import_is_exported_as_the_same_architecture(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever dropout the run had: its rate has no place in any of these files, and one warning says so."""
    subwords = imported(name, tmp_path / "import")
    command = ["train", *IMPORTS[name][2].split(), "--init", str(tmp_path / "import")]
    assert main([*command, "--run-dir", str(tmp_path / "run"), "--data.valid", ""]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "dropout" in line]
    assert len(warnings) == 1 and warnings[0].startswith("warning: "), warnings
    before, after = huggingface.read(tmp_path / "import"), huggingface.read(tmp_path / "out")
    assert after.config["model_type"] == name == ctx_jax.load(tmp_path / "run").architecture
    assert (after.model.norm, after.model.longest) == (before.model.norm, before.model.longest)
    (head,) = before.heads
    assert after.heads.keys() == {head} and after.heads[head].module == before.heads[head].module
    trees = [(found.params, found.heads[head].params) for found in (before, after)]
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-7), *trees)
    again = ctx_jax.load(tmp_path / "out").processor.subwords
    assert again.digest == subwords.digest and len(again) == len(subwords)
