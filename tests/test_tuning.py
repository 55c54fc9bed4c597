"""Ways of training an encoder and a mix: parts that stay frozen, fresh layers, a normalised mix and its penalty."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import arrays, config, lines, make_place, with_task

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.parameter_groups import ParameterGroup, named
from ctx_jax.training.run import run
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import Selection, TaskContext


def test_a_loss_of_any_size_decides_among_equal_metrics_alone() -> None:
    by = Selection("pearson", larger_is_better=True)
    assert by.value({"pearson": 0.8001, "loss": 1e12}) < by.value({"pearson": 0.8, "loss": 1e3})
    assert by.value({"pearson": 0.8, "loss": 1e3}) < by.value({"pearson": 0.8, "loss": 2e3})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


def encoder_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The encoder's parameters by the names of `arrays`."""
    leaves = jax.tree.leaves_with_path(ctx_jax.load(folder).params)
    return {f"['encoder']{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_frozen_and_fresh_layers_by_name(place: Path, tmp_path: Path) -> None:
    """Fresh at a rate of 0 are exactly the arrays of the top layer; frozen at a rate above it stay the matching ones,
    from the command line."""
    original = encoder_arrays(place / "bert")
    flags = ["--encoder", str(place / "bert"), "--data.train", str(place / "train.tsv"), "--steps", "2"]
    flags += ["--devices.count", "1", "--fresh-layers", "1", "--freeze", "embeddings/", "layer_0/.*bias$"]
    assert cli.main(["train", "classify", *flags, "--run-dir", str(tmp_path / "a")]) == 0
    found = arrays(tmp_path / "a", 2)
    frozen = {name for name in original if "embeddings" in name or ("layer_0" in name and name.endswith("['bias']"))}
    stayed = {name for name in original if np.array_equal(found[name], original[name])}
    assert stayed == frozen
    settings = config(place, tmp_path / "b", tuning=TuningOptions(fresh_layers=1))
    still = replace(settings.optimizer, learning_rate=0.0)
    assert run(replace(settings, optimizer=still, steps=1))
    found = arrays(tmp_path / "b", 1)
    new = {name for name in original if not np.array_equal(found[name], original[name])}
    assert new == {name for name in original if "layer_1" in name and "kernel" in name}, "biases and norms begin alike"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, cached, frozen",
    [
        ({"frozen": True}, True, "encoder"),
        ({"frozen": True}, False, "encoder"),
        ({"tuning": TuningOptions(freeze=("embeddings/", "layer_0/.*kernel$"))}, True, "embeddings/|layer_0/.*kernel$"),
    ],
)
def test_what_a_task_freezes_stays_under_any_group_of_the_optimizer(
    place: Path, tmp_path: Path, changes: dict[str, Any], cached: bool, frozen: str
) -> None:
    """A group that sets rates and weight decay neither trains nor decays a frozen parameter."""
    settings = config(place, tmp_path, **changes)
    settings = with_task(settings, data=replace(settings.task.data, cache_vectors=cached))
    groups = (ParameterGroup("(kernel|tokens|bias)$", learning_rate_factor=2.0),)
    assert run(replace(settings, optimizer=replace(settings.optimizer, groups=groups, weight_decay=0.5)))
    original, found = encoder_arrays(place / "bert"), arrays(tmp_path, 4)
    plain = {name: "/".join(re.findall(r"\['(\w+)'\]", name)) for name in original}
    stayed = {plain[name] for name in original if np.array_equal(found[name], original[name])}
    assert stayed == {name for name in plain.values() if re.search(frozen, name)}


@pytest.mark.slow
def test_a_group_of_the_optimizer_keeps_the_rates_of_the_task(place: Path, tmp_path: Path) -> None:
    """The first step of AdamW by hand: the encoder is slower than the head and the mix faster, by the task's factors
    times those of the groups, and weight decay is where the groups and the names have it."""
    groups = (ParameterGroup("(query|scores)/kernel$", weight_decay=False), ParameterGroup("value/kernel$", 0.5))
    optimizer = AdamW(0.01, "constant", warmup=0, clip_norm=0.0, epsilon=1e-4, weight_decay=2.0, groups=groups)
    settings = config(place, tmp_path, encoder_rate=0.2, mix_rate=3.0)
    task = settings.task.open(TaskContext(tmp_path, 0, 4, False, lambda line: None))
    step = TrainingStep(task, optimizer, 1, 0)
    state, frozen = step.with_params(step.initial()[0], task.initial(step.initial()[0].params))
    batch = next(task.batches(0, 8)).arrays

    def loss(params: Any) -> jax.Array:
        total, weight = task.loss(params, batch, (), step.key(state))[0]["label"]
        return total / weight

    before, gradients = named(state.params), named(jax.jit(jax.grad(loss))(state.params))
    after = named(jax.jit(step)(state, frozen, batch).params)
    assert {name.partition("/")[0] for name in before} == {"encoder", "head"}
    for name, array in before.items():
        rate = 0.2 if name.startswith("encoder/") else 3.0 if name.startswith("head/mix/") else 1.0
        rate *= 0.5 if name.endswith("value/kernel") else 1.0
        table = name.endswith(("kernel", "tokens", "positions", "types"))
        decay = 2.0 if table and not re.search("(query|scores)/kernel$", name) else 0.0
        old, gradient = np.float64(array), np.float64(gradients[name])
        expected = -0.01 * rate * (gradient / (np.abs(gradient) + 1e-4) + decay * old)
        np.testing.assert_allclose(np.float64(after[name]) - old, expected, atol=0.01 * rate * 0.01, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ClassifyConfig, TagConfig])
def test_a_mix_of_normalised_layers_by_hand(place: Path, tmp_path: Path, kind: type) -> None:
    """AllenNLP's formula for each text alone: one mean and variance a layer, of all numbers of its real tokens."""
    tuning = TuningOptions(mix_norm=True)
    assert run(replace(config(place, tmp_path, kind, frozen=True, tuning=tuning), steps=2))
    predictor = tasks.load(tmp_path)
    encoder, texts = predictor.encoder, ["the film was good", "bad"]
    head, mixing = encoder.heads["labels"].params["scores"], encoder.heads["mix"].params
    shares = np.exp(np.asarray(mixing["weights"]))
    shares /= shares.sum()
    answers = predictor.predict(texts if kind is ClassifyConfig else [text.split() for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        given: Any = [text] if kind is ClassifyConfig else [text.split()]
        level: Any = "tokens" if kind is ClassifyConfig else "words"
        values = np.asarray(ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize(given, level=level)).values)
        normed = [(layer - layer.mean()) / np.sqrt(layer.var() + 1e-13) for layer in values[:, 0]]
        vectors = np.asarray(mixing["gamma"]) * np.einsum("l,ltd->td", shares, normed)
        if kind is ClassifyConfig:
            vectors = vectors.mean(0)
        logits = vectors @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        if kind is ClassifyConfig:
            odds = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose([answer["probabilities"][label] for label in "01"], odds, atol=1e-5)
        else:
            labels = encoder.heads["labels"].module.labels
            assert answer["labels"] == [labels[number] for number in logits.argmax(1)]
    with pytest.raises(InputError, match="mix_norm"):
        ctx_jax.load_mix(tmp_path)


@pytest.mark.slow
def test_the_penalty_of_a_mix_pulls_its_weights_to_the_mean(place: Path, tmp_path: Path) -> None:
    found = []
    for name, scale in (("without", 0.0), ("with", 0.5)):
        settings = config(place, tmp_path / name, frozen=True, dropout=0.0, tuning=TuningOptions(mix_penalty=scale))
        assert run(replace(settings, steps=12))
        found.append(arrays(tmp_path / name, 12)["['head']['mix']['weights']"])
    assert np.abs(found[1]).max() < 0.5 * np.abs(found[0]).max()
    plain, penalised = (lines(tmp_path / name, "train") for name in ("without", "with"))
    assert "mix_penalty" not in plain[0] and penalised[0]["mix_penalty"] == 0.0
    # The first loss is that of the plain mean, whose penalty is 0.
    assert penalised[0]["loss"] == pytest.approx(plain[0]["loss"])
    measured = lines(tmp_path / "with", "valid")[-1]
    shares = np.exp(found[1]) / np.exp(found[1]).sum()
    assert [measured[f"mix_{layer}"] for layer in range(3)] == pytest.approx(shares, abs=1e-6)
    assert measured["gamma"] == pytest.approx(float(arrays(tmp_path / "with", 12)["['head']['mix']['gamma']"]))


@pytest.mark.slow
def test_a_run_unfreezes_a_layer_an_epoch(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five steps are an epoch; what is not trained yet does not decay either."""
    settings = config(place, tmp_path, tuning=TuningOptions(unfreeze_every=1), evaluate=LabelEvaluate(every=0))
    assert run(replace(settings, steps=12, checkpoint=replace(settings.checkpoint, every=5)))
    assert "1 of 3 stay frozen in 12 steps" in capsys.readouterr().out
    original = encoder_arrays(place / "bert")
    moved = []
    for step in (5, 10, 12):
        found = arrays(tmp_path, step)
        moved.append({name.split("']['")[1] for name in original if not np.array_equal(found[name], original[name])})
    assert moved == [set(), {"layer_1"}, {"layer_0", "layer_1"}]


@pytest.mark.slow
def test_fresh_layers_are_unfrozen_with_the_head(place: Path, tmp_path: Path) -> None:
    """Of an encoder of two layers the upper one is new: it learns in the first epoch, the lower one in the second."""
    tuning = TuningOptions(fresh_layers=1, unfreeze_every=1)
    settings = config(place, tmp_path, tuning=tuning, evaluate=LabelEvaluate(every=0))
    task = settings.task.open(TaskContext(tmp_path / "unused", 0, 12, False, lambda line: None))
    first = named(task.initial(TrainingStep(task, settings.optimizer, 12, 0).initial()[0].params))
    assert run(replace(settings, steps=12, checkpoint=replace(settings.checkpoint, every=5)))
    moved = []
    for step in (5, 10, 12):
        found = {"/".join(re.findall(r"'(\w+)'", name)): array for name, array in arrays(tmp_path, step).items()}
        assert found.keys() == first.keys()
        changed = {name for name in found if not np.array_equal(found[name], first[name])}
        moved.append({name.split("/")[1] for name in changed} & {"labels", "layer_1", "layer_0", "embeddings"})
        assert "encoder/layer_1/query/kernel" in changed
    upper = {"labels", "layer_1"}
    assert moved == [upper, upper | {"layer_0"}, upper | {"layer_0", "embeddings"}]


def expected_stop(run_dir: Path, opened: int, patience: int) -> int:
    """The step after which a run ends early, from its validation metrics: the first one with `patience` evaluations
    after the best step and after all layers are trained."""
    best, best_step, steps = float("inf"), 0, []
    for line in lines(run_dir, "valid"):
        steps.append(line["step"])
        value = Selection("accuracy", larger_is_better=True).value(line)
        if value < best:
            best, best_step = value, line["step"]
        if sum(step > max(best_step, opened) for step in steps) == patience:
            return int(line["step"])
    raise AssertionError("the run did not end early")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, opened, rate",
    [({}, 15, 0.0), ({"freeze": ("embeddings/",)}, 10, 0.0), ({"fresh_layers": 1}, 10, 0.3)],
)
def test_patience_begins_when_all_layers_are_trained(
    place: Path, tmp_path: Path, changes: dict[str, Any], opened: int, rate: float
) -> None:
    """At a rate of 0 the first evaluation stays the best. The run ends at the same step when it is stopped before."""
    tuning = TuningOptions(unfreeze_every=1, **changes)
    settings = config(place, tmp_path / "whole", tuning=tuning, evaluate=LabelEvaluate(every=3, patience=2))
    whole = replace(settings, steps=90, optimizer=replace(settings.optimizer, learning_rate=rate))
    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    assert run(whole) and run(replace(parts, steps=12)) and run(parts)
    stop = expected_stop(tmp_path / "whole", opened, 2)
    assert rate or stop == opened // 3 * 3 + 6
    last = []
    for name in ("whole", "parts"):
        with RunCheckpoints(tmp_path / name / "checkpoints") as checkpoints:
            last.append((checkpoints.latest(), checkpoints.best()))
    assert last[0] == last[1] and last[0][0] == stop
    expected, found = (arrays(tmp_path / name, stop) for name in ("whole", "parts"))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    "field, kind, changes",
    [
        ("freeze", ClassifyConfig, {"tuning": TuningOptions(freeze=("layer_7",))}),
        ("freeze", ClassifyConfig, {"tuning": TuningOptions(freeze=("encoder", "head"))}),
        ("freeze", ClassifyConfig, {"tuning": TuningOptions(freeze=("^head/",)), "frozen": True}),
        ("fresh_layers", ClassifyConfig, {"tuning": TuningOptions(fresh_layers=3)}),
        ("fresh_layers", ClassifyConfig, {"tuning": TuningOptions(fresh_layers=1), "encoder": "table.vec"}),
        ("fresh_layers", ClassifyConfig, {"tuning": TuningOptions(fresh_layers=1), "frozen": True}),
        ("unfreeze_every", ClassifyConfig, {"tuning": TuningOptions(unfreeze_every=1), "frozen": True}),
        ("mix_norm", TagConfig, {"tuning": TuningOptions(mix_norm=True), "layers": "last"}),
        ("mix_penalty", TagConfig, {"tuning": TuningOptions(mix_penalty=0.1), "layers": 0}),
        (
            "mix_penalty",
            PairsConfig,
            {"tuning": TuningOptions(mix_penalty=0.1), "target": "ranking", "files": "ranked"},
        ),
    ],
)
def test_options_that_cannot_be_used_are_named(
    place: Path, tmp_path: Path, field: str, kind: type, changes: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path / "run", kind, **changes))
    assert caught.value.field == field
    assert not (tmp_path / "run" / "checkpoints").exists() or not [*(tmp_path / "run" / "checkpoints").glob("*/state")]


@pytest.mark.slow
def test_values_that_no_option_takes_are_refused() -> None:
    for wrong in ({"freeze": ("(open",)}, {"fresh_layers": -1}, {"mix_penalty": float("nan")}):
        with pytest.raises(ConfigError):
            TuningOptions(**wrong)  # type: ignore[arg-type]
