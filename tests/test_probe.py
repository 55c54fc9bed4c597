"""Probes: a planted signal is found at its layer and nothing in random labels; stopped and started again equals
uninterrupted; what cannot be used is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_sets import LAYERS, SIGNAL, planted, write_data

from ctx_jax.encoders.static import write_text
from ctx_jax.tasks.probing import LabelProbe, ProbeReport, probe
from ctx_jax.tasks.probing.catalogue import named_probe
from ctx_jax.training.optimizer import AdamW

FILES = ("results.json", "results.md", "layers.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def task(data: Path, name: str) -> LabelProbe:
    """A named task at a rate for its few examples."""
    found = named_probe(name, data)
    assert isinstance(found, LabelProbe)
    settings = replace(found.config, batch_size=16, epochs=8)
    return replace(found, config=settings, optimizer=AdamW(learning_rate=0.1, schedule="constant", warmup=0))


def probed(data: Path, output: Path, name: str = "upos", **changes: Any) -> ProbeReport:
    return probe(changes.pop("encoder", planted()), [task(data, name)], output=output, **{"seeds": 2, **changes})


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeReport, Path]:
    folder = tmp_path_factory.mktemp("probe")
    tags = [word for word in planted().processor.words if word.startswith("t")]  # type: ignore[attr-defined]
    write_text(folder / "table.vec", tags, np.random.default_rng(3).normal(size=(len(tags), 4)).astype(np.float32))
    return probed(data, folder / "out", table=folder / "table.vec"), folder / "out"


def test_a_planted_signal_is_found_at_its_layer(done: tuple[ProbeReport, Path]) -> None:
    found = done[0].results["upos"]
    assert found.layers == [*range(LAYERS)] and found.best_layer == SIGNAL
    scores = {name: way.score for name, way in found.ways.items()}
    assert {*scores} == {*(f"layer {i}" for i in range(LAYERS)), "mean", "mix", "random", "table"}
    assert scores[f"layer {SIGNAL}"] > 0.95 and scores["mix"] > 0.9
    # Three tags, equally frequent, and test words that training has not seen.
    assert all(scores[name] < 0.6 for name in ("layer 0", "layer 2", "random", "table")), scores
    weights = np.array(found.ways["mix"].mix)
    assert weights.shape == (2, LAYERS) and np.all(weights.argmax(axis=1) == SIGNAL)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


def test_nothing_is_found_in_random_labels(data: Path, tmp_path: Path) -> None:
    found = probed(data, tmp_path, "sst2", random=False, seeds=1).results["sst2"]
    assert all(0.6 <= way.score <= 0.72 for way in found.ways.values()), "near the majority's 0.7"
