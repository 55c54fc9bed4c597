"""What a probe makes of its numbers: the classic pattern, choices by development data, tasks without training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_sets import FakeEncoder, VectorFunction, write_coarse, write_framework, write_semcor, write_wic

from ctx_jax.evaluation.all_words_senses import all_words_wsd
from ctx_jax.evaluation.word_in_context import word_in_context
from ctx_jax.evaluation.word_senses import coarse_wsd
from ctx_jax.tasks.probing.pattern import pattern
from ctx_jax.tasks.probing.report import ProbeReport
from ctx_jax.tasks.probing.results import Kind, TaskResult, WayResult, collected, layer_number
from ctx_jax.tasks.probing.untrained import all_words_senses, coarse_senses, pairs_in_context


def result(
    name: str, kind: Kind, dev: Sequence[float], mix: float | None = None, *, seeds: Sequence[float] = (0.0,)
) -> TaskResult:
    """Made-up scores of layers: `dev` chooses, the reported score is 0.1 lower; `seeds` are added to each."""
    ways = {f"layer {i}": way(score, seeds) for i, score in enumerate(dev)}
    if mix is not None:
        ways["mix"] = way(mix, seeds)
    return TaskResult(name, kind, "accuracy", "dev", "test", mix is not None, ways, {})


def way(score: float, seeds: Sequence[float]) -> WayResult:
    return WayResult(tuple(score + each for each in seeds), tuple(score - 0.1 + each for each in seeds))


LOW, HIGH = (0.5, 0.9, 0.8, 0.7, 0.6), (0.5, 0.6, 0.7, 0.9, 0.8)


@pytest.mark.parametrize("syntax, senses, mix, verdicts", [
    (LOW, HIGH, 0.91, ("yes", "yes", "yes", "yes")),
    (LOW, HIGH, 0.89, ("no", "yes", "yes", "no")),
    (HIGH, LOW, 0.91, ("no", "no", "no", "yes")),
    (LOW, LOW, 0.91, ("no", "no", "no", "yes")),
    (LOW, None, 0.91, ("unknown", "yes", "unknown", "yes")),
    (None, HIGH, None, ("unknown", "unknown", "yes", "unknown")),
    (HIGH, None, None, ("no", "no", "unknown", "unknown")),
    ((0.1, 0.9, 0.2), (0.1, 0.2, 0.9), 0.95, ("yes", "yes", "yes", "yes")),  # the biLM of Peters et al.
    ((0.1, 0.9, 0.2), (0.1, 0.9, 0.2), 0.95, ("no", "no", "no", "yes")),
])  # fmt: skip
def test_the_pattern(syntax: Any, senses: Any, mix: float | None, verdicts: tuple[str, ...]) -> None:
    results = [result("tags", "syntax", syntax, mix)] if syntax else []
    results += [result("meanings", "senses", senses)] if senses else []
    found = pattern(results)
    assert (found.holds, found.syntax_low.verdict, found.senses_high.verdict, found.mix_best.verdict) == verdicts
    if mix and syntax:
        difference = 100 * (mix - max(syntax))
        assert f"{difference:+.2f}" in found.mix_best.reason, "with its sign"


def test_every_task_counts() -> None:
    good, bad = result("good", "syntax", LOW, 0.95), result("bad", "syntax", HIGH, 0.80)
    found = pattern([good, bad, result("meanings", "senses", HIGH)])
    assert found.syntax_low.verdict == found.mix_best.verdict == "no"
    assert "+5.00" in found.mix_best.reason and "-10.00" in found.mix_best.reason


def test_the_layer_is_chosen_by_the_data_that_choose() -> None:
    """Not by the scores that are reported."""
    ways = {
        "layer 0": WayResult((0.5, 0.7), (0.9, 0.9)),
        "layer 1": WayResult((0.7, 0.7), (0.3, 0.5), ()),
        "mix": WayResult((0.1, 0.1), (0.4, 0.4), ((0.2, 0.8), (0.4, 0.6))),
    }
    found = TaskResult("tags", "syntax", "accuracy", "dev", "test", True, ways, {})
    assert found.best_layer == 1 and found.near_best == [0], "0.6 is within the spread of 0.14 of 0.7"
    assert found.difference(found.of_layer(1)) == pytest.approx((0.0, np.std([0.1, -0.1], ddof=1)))
    assert ways["mix"].mean_mix == pytest.approx((0.3, 0.7))
    assert math.isnan(WayResult((0.5,), (0.5,)).spread)
    without = TaskResult("tags", "syntax", "accuracy", "dev", "test", False, {"original": ways["mix"]}, {})
    assert without.best_layer is None and without.near_best == [] and without.all_layers is None


def test_records_become_results_whatever_their_order() -> None:
    records = [
        {"way": "layer 1", "seed": seed, "dev": {"f1": seed / 10}, "test": {"f1": None if seed else 0.5}, "mix": []}
        for seed in (1, 0)
    ]
    (way,) = collected(records, "f1").values()
    assert way.dev == (0.0, 0.1) and way.test[0] == 0.5 and math.isnan(way.test[1]) and way.mix == ()
    assert [layer_number(name) for name in ("layer 12", "mean", "random layer 1", "random")] == [12, None, None, None]


def test_reports_are_json_and_tables() -> None:
    results = {
        "tags": result("tags", "syntax", LOW, 0.95, seeds=(0.0, 0.02)),
        "meanings": result("meanings", "senses", HIGH),
        "pairs": TaskResult("pairs", "syntax", "accuracy", "nothing", "all", False, {
            "original": WayResult((math.nan,), (0.7,))}, {}),
    }  # fmt: skip
    report = ProbeReport({"encoder": "bert"}, results, ["wic was not measured"])
    stored = json.loads(json.dumps(report.json(), allow_nan=False))
    assert stored["tasks"]["tags"]["best_layer"] == 1 and stored["tasks"]["pairs"]["best_layer"] is None
    assert stored["tasks"]["tags"]["all_layers_minus_best"] == pytest.approx(0.05)
    assert stored["pattern"]["holds"] == "yes" and stored["notes"] == ["wic was not measured"]
    widths = {line.count("|") for line in report.markdown.splitlines() if line.startswith(("| task", "| tags"))}
    summary = next(line for line in report.markdown.splitlines() if line.startswith("| pairs"))
    assert "original 70.00" in summary and "original 70.00" in report.text, "ways of scoring have no layer to choose"
    assert len(widths) == 1 and "81.00 ± 1.41" in report.markdown and report.pattern.text in report.markdown


def fake() -> Any:
    return FakeEncoder(2, VectorFunction())


def test_the_words_that_choose_are_not_those_of_the_score(tmp_path: Path) -> None:
    folder = write_coarse(tmp_path, ("wug", "dax", "blick"))
    records, detail = coarse_senses(fake(), folder, print)
    halves = {"dev": ["dax"], "test": ["blick", "wug"]}  # every second in the order of the alphabet
    whole = {name: coarse_wsd(fake(), folder, words=words) for name, words in halves.items()}
    *records, frequent = records
    assert [record["way"] for record in records] == ["layer 0", "layer 1", "mean"]
    for half, found in whole.items():
        assert frequent[half]["centroid_macro_recall"] == found.baselines["most_frequent"]["macro_recall"]
    for record, layer in zip(records, ("0", "1", "mean"), strict=True):
        for half, found in whole.items():
            for metric in ("centroid_macro_recall", "neighbour_macro_recall"):
                assert record[half][metric] == pytest.approx(found.scores[layer][metric])
            assert record[half]["centroid_accuracy"] == pytest.approx(found.scores[layer]["centroid_word_accuracy"])
    assert {*detail["parts"]} == {"wug", "dax", "blick"}


def test_two_test_sets_together_are_scored_as_one(tmp_path: Path) -> None:
    write_semcor(tmp_path)
    for name in ("senseval2", "senseval3", "semeval2007"):
        write_framework(tmp_path, name)
    records, _ = all_words_senses(fake(), tmp_path / "semcor3.0", print)
    for name, half in ((("senseval2", "senseval3"), "test"), (("semeval2007",), "dev")):
        whole = all_words_wsd(fake(), tmp_path, tests=name)
        expected = [whole.scores[layer] for layer in ("0", "1", "mean")] + [whole.baselines["most_frequent"]]
        for record, scores in zip(records, expected, strict=True):
            assert record[half]["f1"] == pytest.approx(scores["f1"])


def test_the_pairs_that_choose_the_threshold_choose_the_layer(tmp_path: Path) -> None:
    pairs = [("wug", "a wug sings", f"the wug {'sings' if i % 2 else 'falls'}", i % 2) for i in range(20)]
    path = write_wic(tmp_path / "wic.jsonl.xz", pairs)
    records, _ = pairs_in_context(fake(), path, print)
    whole = word_in_context(fake(), path)
    *records, frequent = records
    assert frequent["test"] == whole.baselines["most_frequent"]
    for record, layer in zip(records, ("0", "1", "mean"), strict=True):
        assert record["dev"]["accuracy"] == whole.scores[layer]["threshold_accuracy"]
        assert record["test"]["accuracy"] == whole.scores[layer]["accuracy"]
    low, high = (whole.scores["1"][name] for name in ("low", "high"))
    assert collected(records, "accuracy")["layer 1"].interval == (low, high) and low < high
