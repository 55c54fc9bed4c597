"""Every form of sequences and every import, from training to transformers' files: shapes as small as they come."""

import contextlib
import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.data.tokens import tokens_of
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer.huggingface_config import model_from_config
from ctx_jax.encoders.transformer.model import init
from ctx_jax.evaluation.masked_lm_eval import held_out
from ctx_jax.io import configs
from ctx_jax.tokenizers.subword_training import Kind, train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import TrainConfig

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "quietly", "ran", "saw", "under", "over", "table", "house", "tree"]
CONFIG = '''"""Tiny."""
from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import DevicesConfig, EvaluateConfig, TrainConfig
from ctx_jax.training.optimizer import AdamW


def config():
    return TrainConfig(
        model=Transformer(
            0, dim=8, layers=1, heads=2, feed_forward=8, max_positions=32, embedding_dropout=0.0,
            attention_dropout=0.0, attention_output_dropout=0.1, feed_forward_dropout=0.0,
        ),
        data=DataConfig(train="train.txt", valid="valid.txt"),
        sequences=SequenceConfig(length=32, rows=4),
        tokenizer=TokenizerConfig(kind="bpe", size=300),
        optimizer=AdamW(learning_rate=0.0, warmup=1),
        devices=DevicesConfig(count=1),
        evaluate=EvaluateConfig(every=2),
        steps=2,
    )
'''
GPT2 = (
    "--model.causal --model.norm pre --model.no-embedding-norm --model.token-types 0 --model.activation gelu_tanh "
    "--model.head direct --model.no-decoder-bias --model.depth-scaled --sequences.form causal"
)
ROTARY = (
    "--model.positions rotary --model.norm pre --model.gated --model.no-first-attention-norm --model.token-types 0 "
    "--model.depth-scaled --sequences.form packed"
)
FORMS = {
    "causal": (GPT2, "GPT2LMHeadModel"),
    "pairs": ("--sequences.form pairs --model.pooler --model.next-sentence", "BertForPreTraining"),
    "packed": (ROTARY, "ModernBertForMaskedLM"),
}


class Run(NamedTuple):
    form: str
    path: Path
    exported: Path
    kind: str  # transformers' class of the export


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), 8)] for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two documents each, and a configuration."""
    folder = tmp_path_factory.mktemp("forms")
    for seed, (name, count) in enumerate((("train", 40), ("valid", 12))):
        lines = [" ".join(words) for words in sentences(seed, count)]
        half = count // 2
        (folder / f"{name}.txt").write_text("\n".join([*lines[:half], "", *lines[half:]]) + "\n")
    (folder / "tiny.py").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module", params=FORMS)
def run(request: pytest.FixtureRequest, folder: Path) -> Run:
    form: str = request.param
    flags, kind = FORMS[form]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "tiny.py", "--run-dir", f"runs/{form}", *flags.split()]) == 0
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert main(["export", f"runs/{form}", f"exported/{form}"]) == 0
    assert re.fullmatch(r"warning: config\.json .* no place for all dropout rates.*\n", said.getvalue())
    return Run(form, folder / "runs" / form, folder / "exported" / form, kind)


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
    if run.form == "pairs":
        assert printed["loss"] == pytest.approx(printed["masked_loss"] + printed["next_sentence_loss"], abs=2e-4)


@pytest.mark.slow
def test_text_reads_as_the_run_was_trained_on_it(run: Run) -> None:
    """What the encoder makes of the first sentence stands at the front of the first row of the text, but for the end
    token that tells a causal model's texts apart."""
    encoder = ctx_jax.load(run.path)
    subwords, text = encoder.reader.subwords, sentences(0, 40)
    config = configs.read(run.path / "config.json", TrainConfig)
    given = encoder.tokenize([text[0]], level="tokens")["token_ids"][0]
    if run.form == "packed":  # sorted by length: the row that holds it
        with pytest.raises(ValueError, match="positions hold 32"):
            encoder.tokenize([["cat"] * 40])
        return
    batch = next(held_out(tokens_of(text, np.array([0, 20]), subwords), subwords, encoder.model, config.sequences))
    ids = batch.arrays["token_ids"].copy()
    if run.form == "causal":
        assert subwords.add_special_tokens(given).tolist() == given.tolist()
        assert ids[0, : len(given) + 1].tolist() == [subwords.end_id, *given]
        return
    places, weights = batch.arrays["predicted_positions"], batch.arrays["predicted_weights"] > 0
    rows = np.broadcast_to(np.arange(len(ids))[:, None], places.shape)
    ids[rows[weights], places[weights]] = batch.arrays["predicted_ids"][weights]
    for row, types, mask in zip(ids, batch.arrays["token_types"], batch.arrays["mask"], strict=True):
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
    pair = encoder.reader.subwords.tokenizer.encode("the cat", "a dog")
    assert two["input_ids"] == pair.ids
    assert two.get("token_type_ids") == (pair.type_ids if run.form == "pairs" else None)
    assert run.form != "pairs" or pair.type_ids[-1] == 1


SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
BERT = {
    **SIZES, "max_position_embeddings": 34, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "pad_token_id": 1,
    "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
}  # fmt: skip
# config.json of an import, its tokenizer's kind, flags; ModernBERT and GPT-2 are the models of `FORMS` once more, so
# that they compile to the same programs.
IMPORTS: dict[str, tuple[dict[str, Any], Kind, str]] = {
    "distilbert": (
        {"n_layers": 1, "dim": 8, "n_heads": 2, "hidden_dim": 8, "dropout": 0.1, "attention_dropout": 0.1,
         "activation": "gelu", "max_position_embeddings": 32, "pad_token_id": 0},
        "wordpiece", ""),
    "roberta": (BERT, "bpe", ""),
    "xlm-roberta": (BERT, "bpe", ""),  # so that both compile to the same programs
    "modernbert": (
        {**SIZES, "norm_eps": 1e-12, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "pad_token_id": 1,
         "embedding_dropout": 0.0, "attention_dropout": 0.0, "mlp_dropout": 0.0, "hidden_activation": "gelu",
         "max_position_embeddings": 32, "local_attention": 128, "global_attn_every_n_layers": 1,
         "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "classifier_bias": True},
        "bpe", "--sequences.form packed"),
    "gpt2": (
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8, "n_positions": 32, "layer_norm_epsilon": 1e-12,
         "embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "activation_function": "gelu_new",
         "pad_token_id": None},
        "bpe", "--sequences.form causal"),
}  # fmt: skip


def imported(name: str, folder: Path) -> Subwords:
    """A tiny folder of this architecture, with random weights and a tokenizer of its family."""
    config, kind, flags = IMPORTS[name]
    subwords = train(sentences(0, 40), kind, 300 if kind == "bpe" else 60, causal="causal" in flags)
    model = model_from_config({**config, "model_type": name, "vocab_size": len(subwords)})
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init, model), jax.random.key(0))
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    huggingface.write(folder, model, params, architecture=name)  # type: ignore[arg-type]
    subwords.save(folder)
    return subwords


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTS)
def test_a_run_begun_from_an_import_is_exported_as_what_it_was(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever dropout the run had: the rate of `tiny.py` has no place in any of these files, which is said once."""
    subwords = imported(name, tmp_path / "import")
    command = ["train", "tiny.py", "--init", str(tmp_path / "import"), "--run-dir", str(tmp_path / "run")]
    command += ["--data.valid", "", *IMPORTS[name][2].split()]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "dropout" in line]
    assert len(said) == 1 and said[0].startswith("warning: "), said
    before, params, _ = huggingface.read(tmp_path / "import")
    model, same, config = huggingface.read(tmp_path / "out")
    assert config["model_type"] == name == huggingface.kept_architecture(tmp_path / "run")
    assert (model.norm, model.longest, model.head) == (before.norm, before.longest, before.head)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-7), params, same)
    again = ctx_jax.load(tmp_path / "out").reader.subwords
    assert again.digest == subwords.digest and len(again) == len(subwords)
