"""Fifty steps of fine-tuning a small BERT by the default recipe, against a plain loop of torch and transformers, which
with dropout is given the masks of our steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_runs import config, make_place

from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import TaskContext

STEPS, RATE, LAYERS, WARMUP = 50, 0.02, 2, 5  # the BERT has one layer above its embeddings
DROPOUT = 0.1
FACTORS = {"head": 1.0, "mix": 10.0, "layer": 0.05 * 0.9, "embeddings": 0.05 * 0.9**2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"), LAYERS - 1, 400)  # a token for each word


def torch_recipe(named: list[tuple[str, Any]]) -> tuple[Any, Any]:
    """Optimizer and schedule of parameters, each with the name of its rate."""
    torch = pytest.importorskip("torch")
    groups = [
        {"params": [each], "lr": RATE * FACTORS[name], "weight_decay": 0.01 if each.ndim > 1 else 0.0}
        for name, each in named
    ]
    optimizer = torch.optim.AdamW(groups)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / WARMUP if step < WARMUP else (STEPS - step) / (STEPS - WARMUP),
    )


def torch_means(vectors: Any, arrays: dict[str, Any], kind: str) -> Any:
    """Of tokens [B, T, D]: the mean of a text, or of each word's pieces."""
    torch = pytest.importorskip("torch")
    if kind != "tag":
        mask = arrays["token_mask"]
        return (vectors * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    words = torch.arange(arrays["word_mask"].shape[1])
    owner = (arrays["word_of_token"][:, None] == words[None, :, None]).float()
    return owner @ vectors / owner.sum(2, keepdim=True).clamp(min=1)


def torch_losses(
    folder: Path, head: dict[str, np.ndarray], batches: list[Any], kind: str, dropout: float
) -> list[float]:
    """The loss of each batch before the step on it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    encoder = transformers.AutoModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        attn_implementation="eager",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    ).train()
    scores = torch.nn.Linear(*head["kernel"].shape)
    with torch.no_grad():
        scores.weight.copy_(torch.tensor(head["kernel"].T))
        scores.bias.copy_(torch.tensor(head["bias"]))
    mix, gamma = torch.nn.Parameter(torch.zeros(LAYERS)), torch.nn.Parameter(torch.ones(()))
    named = [("mix", mix), ("mix", gamma), *(("head", each) for each in scores.parameters())]
    named += [(name.split(".")[0].replace("encoder", "layer"), each) for name, each in encoder.named_parameters()]
    optimizer, schedule = torch_recipe(named)

    def mixed(inputs: Any) -> Any:
        arrays = {name: torch.tensor(array) for name, array in inputs.items()}
        mask = arrays["token_mask"]
        types = {"token_type_ids": arrays["token_types"].long()} if "token_types" in arrays else {}
        found = encoder(
            input_ids=arrays["token_ids"].long(), attention_mask=mask.long(), output_hidden_states=True, **types
        )
        vectors = gamma * torch.einsum("l,lbtd->btd", torch.softmax(mix, 0), torch.stack(found.hidden_states))
        return torch_means(vectors, arrays, kind)

    losses = []
    for batch in batches:
        if kind == "siamese":
            u, v = mixed(batch.inputs["first"]), mixed(batch.inputs["second"])
            vectors = torch.cat([u, v, (u - v).abs(), u * v], 1)
        else:
            vectors = mixed(batch.inputs)
        outputs = scores(torch.nn.functional.dropout(vectors, dropout) if dropout else vectors)
        real, labels = torch.tensor(batch.weights) > 0, torch.tensor(batch.labels)
        if outputs.shape[-1] == 1:
            loss = torch.nn.functional.mse_loss(outputs[:, 0], labels)
        else:
            loss = torch.nn.functional.cross_entropy(outputs[real], labels.long()[real])
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([each for _, each in named], 1.0)
        optimizer.step()
        schedule.step()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, task_type, changes, dropout",
    [
        ("classify", ClassifyConfig, {}, 0.0),
        ("classify", ClassifyConfig, {}, DROPOUT),
        ("tag", TagConfig, {}, 0.0),
        ("tag", TagConfig, {}, DROPOUT),
        ("cross", PairsConfig, {"style": "cross", "files": "similar", "target": "number"}, 0.0),
        ("siamese", PairsConfig, {}, 0.0),
    ],
)
def test_every_step_has_the_loss_of_torch(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    task_type: type,
    changes: dict[str, Any],
    dropout: float,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    from step_masks import step_masks

    on = dropout > 0
    settings = config(place, tmp_path, task_type, dropout=dropout, encoder_dropout=on, length=12, **changes)
    task = settings.task.open(TaskContext(tmp_path, 0, STEPS, False, lambda line: None))
    defaults: AdamW = settings.task.run_defaults()["optimizer"]
    training_step = TrainingStep(task, replace(defaults, learning_rate=RATE), STEPS, 0)
    state, _ = training_step.initial()
    state, frozen = training_step.with_params(state, task.initial(state.params))
    head = {name: np.array(array) for name, array in state.params["head"]["labels"]["scores"].items()}
    source, step = task.batches(0, task.batch_size), jax.jit(training_step.__call__)
    batches = [next(source).arrays for _ in range(STEPS)]
    losses, masks = [], []
    for batch in batches:
        if on:
            key, length = training_step.key(state), batch.inputs["token_ids"].shape[1]
            words = batch.labels.shape[1:] if kind == "tag" else ()
            masks += step_masks(task.model, key, jnp.asarray(batch.rows), length, dropout, words)
        state = step(state._replace(totals=training_step.zero_totals()), frozen, jax.tree.map(jnp.asarray, batch))
        total, weight = state.totals.terms["label"]
        losses.append(float(total) / float(weight))
    left = iter(masks)

    def drop_out(values: Any, p: float, *_: Any, **__: Any) -> Any:
        assert p == dropout
        return torch.where(torch.tensor(np.array(next(left))), values / (1 - p), 0.0) if p else values

    monkeypatch.setattr(torch.nn.functional, "dropout", drop_out)
    theirs = torch_losses(place / "bert", head, batches, kind, dropout)
    assert next(left, None) is None, "torch drops out as often as we do"
    np.testing.assert_allclose(losses, theirs, rtol=1e-4, atol=1e-6)  # one wrong mask gives 3e-4
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10]), "it has learned something"
