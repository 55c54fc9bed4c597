"""GPT's way of fine-tuning: start, delimiter and extract tokens, both orders of a pair, the auxiliary loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import arrays, config, lines, make_place

import ctx_jax
from ctx_jax import tasks
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.run import run
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import TaskContext

GPT = {"encoder": "gpt", "layers": "last", "pooling": "last", "tuning": TuningOptions(gpt=True)}
CROSS = {**GPT, "style": "cross"}
SIMILAR = {**CROSS, "files": "similar", "target": "number"}
PAIRS = [("the film was good", "bad"), ("it", ""), ("the plot", "it was bad")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_place(tmp_path_factory.mktemp("labelled"))
    subwords = train((folder / "train.tsv").read_text().splitlines(), "bpe", 290, causal=True)
    size = len(subwords) + 2  # rows that no token has, as in files whose vocabulary is rounded up
    model = Transformer(size, dim=8, depth=1, heads=2, feed_forward=12, max_positions=24, causal=True, norm="pre",
                        embedding_norm=False, token_types=0, norm_epsilon=1e-5, activation="gelu_tanh")  # fmt: skip
    params = model.init(jax.random.key(0))
    huggingface.write(folder / "gpt", model, params, subwords=subwords)
    decoder = {"decoder": {"matrix": np.ones((size, 8), np.float32)}}
    own = {"causal_lm": Head(VocabularyHead(transform=False, decoder_bias=False, tied=False), decoder)}
    huggingface.write(folder / "untied", model, params, heads=own, subwords=subwords)
    return folder


def row(encoder: Any, *texts: str) -> list[int]:
    """<start> text <extract>, or <start> first <delimiter> second <extract>; the new tokens are the table's last."""
    start = encoder.model.vocabulary - 3
    first, *others = (encoder.processor.subwords.tokenize_text([text])[0].tolist() for text in texts)
    return [start, *first, *(id for other in others for id in (start + 1, *other)), start + 2]


def last_layer(encoder: Any, ids: list[int]) -> np.ndarray:
    """Of a row padded to 24 tokens, so that one shape is compiled."""
    inputs = {"token_ids": np.int32([ids + [0] * (24 - len(ids))]), "token_mask": np.arange(24)[None] < len(ids)}
    return np.asarray(ctx_jax.embed(encoder.model, encoder.params, inputs).values)[-1, 0, : len(ids)]


@pytest.mark.slow
def test_the_extract_tokens_vector_is_scored(place: Path, tmp_path: Path) -> None:
    runs: list[tuple[type, dict[str, Any]]] = [(ClassifyConfig, GPT), (PairsConfig, CROSS), (PairsConfig, SIMILAR)]
    for number, (kind, changes) in enumerate(runs):
        run_dir = tmp_path / str(number)
        assert run(replace(config(place, run_dir, kind, **changes), steps=1))
        predictor = tasks.load(run_dir)
        encoder = predictor.encoder
        assert encoder.model.vocabulary == ctx_jax.load(place / "gpt").model.vocabulary + 3
        head = encoder.heads["labels"].params["scores"]
        items: list[Any] = [first for first, _ in PAIRS] if kind is ClassifyConfig else PAIRS
        for item, answer in zip(items, predictor.predict(items), strict=True):
            texts = [item] if isinstance(item, str) else item
            vector = last_layer(encoder, row(encoder, *texts))[-1]
            if changes is SIMILAR:
                vector = vector + last_layer(encoder, row(encoder, *texts[::-1]))[-1]
            scores = vector @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
            if changes is SIMILAR:
                assert answer["number"] == pytest.approx(scores[0], abs=1e-5)
            else:
                odds = np.exp(scores) / np.exp(scores).sum()
                np.testing.assert_allclose([answer["probabilities"][label] for label in "01"], odds, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind, changes", [(ClassifyConfig, GPT), (PairsConfig, SIMILAR)])
def test_the_auxiliary_loss_by_hand(place: Path, tmp_path: Path, kind: type, changes: dict[str, Any]) -> None:
    settings = config(place, tmp_path, kind, **changes)
    task = settings.task.open(TaskContext(tmp_path, 0, 4, False, lambda line: None))
    training_step = TrainingStep(task, settings.optimizer, 4, 0)
    state, _ = training_step.initial()
    params = task.initial(state.params)
    pretrained = np.asarray(ctx_jax.load(place / "gpt").params["embeddings"]["tokens"])
    table = np.asarray(params["encoder"]["embeddings"]["tokens"])
    np.testing.assert_array_equal(table[:-3], pretrained)
    assert len(table) == len(pretrained) + 3 and np.abs(table[-3:]).max() > 0
    batch = next(task.batches(0, 8)).arrays
    terms, _ = task.loss(params, batch, (), None)
    encoder = replace(ctx_jax.load(place / "gpt"), model=task.model, params=params["encoder"])
    nats, count = 0.0, 0
    for side in batch.inputs.values() if kind is PairsConfig else [batch.inputs]:
        for ids, mask in zip(side["token_ids"], side["token_mask"], strict=True):
            real = ids[mask].tolist()
            assert real[0] == len(pretrained) and real[-1] == len(pretrained) + 2
            logits = (last_layer(encoder, real)[:-1] @ table.T).astype(np.float64)
            logits -= np.log(np.exp(logits).sum(1, keepdims=True))
            nats, count = nats - logits[np.arange(len(real) - 1), real[1:]].sum(), count + len(real) - 1
    total, weight = terms["next_token"]
    assert weight == count and total == pytest.approx(nats, rel=1e-4)
    assert task.coefficients["next_token"] == 0.5


@pytest.mark.slow
def test_new_tokens_are_trained_beside_frozen_parameters(place: Path, tmp_path: Path) -> None:
    tuning = TuningOptions(gpt=True, freeze=("embeddings/positions", "layer_0/"))
    settings = config(place, tmp_path, **{**CROSS, "tuning": tuning}, kind=PairsConfig)
    task = settings.task.open(TaskContext(tmp_path, 0, 1, False, lambda line: None))
    first = task.initial(TrainingStep(task, settings.optimizer, 1, 0).initial()[0].params)
    assert run(replace(settings, steps=1))
    found = ctx_jax.load(tmp_path).params
    pretrained = ctx_jax.load(place / "gpt").params
    moved = np.any(np.asarray(found["embeddings"]["tokens"]) != first["encoder"]["embeddings"]["tokens"], axis=1)
    assert moved[-3:].all()
    np.testing.assert_array_equal(found["embeddings"]["positions"], pretrained["embeddings"]["positions"])


@pytest.mark.slow
def test_resumed_and_on_eight_devices_as_whole_and_on_one(place: Path, tmp_path: Path) -> None:
    whole = config(place, tmp_path / "whole", PairsConfig, **SIMILAR)
    whole = replace(whole, optimizer=replace(whole.optimizer, epsilon=1e-3))
    parts, eight = (replace(whole, run_dir=str(tmp_path / name)) for name in ("parts", "eight"))
    assert run(whole) and run(replace(parts, steps=2)) and run(parts)
    assert run(replace(eight, devices=DevicesConfig("fsdp", 8)))
    expected, resumed, found = (arrays(tmp_path / name, 4) for name in ("whole", "parts", "eight"))
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array)
        np.testing.assert_allclose(found[name], array, atol=2e-4, err_msg=name)
    assert lines(tmp_path / "whole", "train")[0]["next_token"] > 0


@pytest.mark.parametrize(
    "field, kind, changes",
    [
        ("gpt", ClassifyConfig, {**GPT, "encoder": "bert"}),
        ("gpt", ClassifyConfig, {**GPT, "encoder": "table.vec"}),
        ("gpt", ClassifyConfig, {**GPT, "frozen": True}),
        ("unfreeze_every", ClassifyConfig, {**GPT, "tuning": TuningOptions(gpt=True, unfreeze_every=1)}),
        ("freeze", PairsConfig, {**CROSS, "tuning": TuningOptions(gpt=True, freeze=("layer_0/", "embeddings/"))}),
        ("freeze", ClassifyConfig, {**GPT, "tuning": TuningOptions(gpt=True, freeze=("tokens$",))}),
        ("gpt", TagConfig, {"encoder": "gpt", "layers": "last", "tuning": TuningOptions(gpt=True)}),
        ("layers", ClassifyConfig, {**GPT, "layers": "mix"}),
        ("pooling", ClassifyConfig, {**GPT, "pooling": "mean"}),
        ("style", PairsConfig, GPT),
        ("lm_weight", ClassifyConfig, {"tuning": TuningOptions(lm_weight=0.1)}),
        ("lm_weight", ClassifyConfig, {**GPT, "encoder": "untied"}),
        ("both_orders", PairsConfig, {"both_orders": True}),
    ],
)
def test_settings_that_are_not_gpts_are_named(
    place: Path, tmp_path: Path, field: str, kind: type, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path / "run", kind, **changes))
    assert caught.value.field == field
