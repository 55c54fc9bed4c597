"""From a text file to a run, a loaded encoder, files for transformers, and a run that starts from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.commands.train import find, load, names
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.export import config_from_model
from ctx_jax.tasks.subword_lm_config import SubwordLMConfig

pytestmark = pytest.mark.slow

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "quietly", "ran", "saw", "under", "over", "table", "house", "tree"]
CONFIG = '''"""Tiny."""
from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.optimizer import AdamW


def config():
    return TrainConfig(
        task=MaskedLMConfig(
            model=Transformer(0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=16),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(length=16, batch_size=4),
            tokenizer=TokenizerConfig(kind="wordpiece", size=120),
            evaluate=MaskedLMEvaluate(every=3, fill_mask=2),
        ),
        optimizer=AdamW(warmup=1, average=0.5),
        devices=DevicesConfig(count=1),
        steps=3,
    )
'''


def write_text(path: Path, seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    lines = [" ".join(WORDS[word] for word in random.integers(0, len(WORDS), 8)) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a configuration and the run it makes."""
    folder = tmp_path_factory.mktemp("project")
    write_text(folder / "train.txt", 0, 40)
    write_text(folder / "valid.txt", 1, 12)
    (folder / "tiny.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "tiny.py"]) == 0
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_run_fills_masked_words_now_and_then_and_the_same_command_does_nothing_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "tiny.py", "--run-dir", "runs/again"]) == 0
    printed = capsys.readouterr().out
    assert "[MASK]" in printed and printed.count("the likeliest fillings") == 2, "after step 2 and at the end"
    lines = [json.loads(line) for line in Path("runs/again/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(3, "train"), (3, "valid")]
    assert main(["train", "tiny.py", "--run-dir", "runs/again"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert main(["train", "tiny.py", "--run-dir", "runs/again", "--tokenizer.size", "70"]) == 1
    assert "tokenizer.size: the run has 120, this command 70" in capsys.readouterr().err


def test_a_run_loads_with_its_tokenizer(folder: Path) -> None:
    encoder = ctx_jax.load("runs/tiny")
    assert isinstance(encoder.model, Transformer) and encoder.model.vocabulary == len(encoder.processor.subwords)
    assert set(encoder.heads) == {"masked_lm"}
    inputs = encoder.tokenize(["the cat sat quietly", "a dog"])
    layers = ctx_jax.embed(encoder.model, encoder.params, inputs)
    assert layers.values.shape == (2, 2, 4, 8) and np.asarray(layers.mask).sum() == 6


def test_an_exported_run_is_the_same_model_in_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    assert main(["export", "runs/tiny", "exported"]) == 0
    model, info = transformers.BertForMaskedLM.from_pretrained("exported", output_loading_info=True)
    assert not any(info.values())
    theirs = transformers.AutoTokenizer.from_pretrained("exported")("the cat sat over a dog", return_tensors="pt")
    encoder = ctx_jax.load("runs/tiny")
    ours = encoder.tokenize(["the cat sat over a dog"], level="tokens")
    np.testing.assert_array_equal(ours["token_ids"], theirs["input_ids"].numpy())
    with torch.no_grad():
        hidden = model.eval()(**theirs, output_hidden_states=True).hidden_states
    values = ctx_jax.embed(encoder.model, encoder.params, ours).values
    for mine, other in zip(values, hidden, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=2e-5)


def test_export_refuses_files_that_have_no_place_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "runs/tiny", "elsewhere", "--format", "allennlp"]) == 1
    error = capsys.readouterr().err
    assert "--format" in error and "Transformer" in error


def test_evaluate_prints_what_the_run_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/tiny", "valid.txt", "--pseudo-perplexity"]) == 0
    printed = dict(line.strip().rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    lines = [json.loads(line) for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert float(printed["loss"]) == pytest.approx(lines[-1]["loss"], abs=1e-4)
    assert float(printed["accuracy"]) == pytest.approx(lines[-1]["accuracy"], abs=1e-4)
    assert float(printed["pseudo-perplexity"]) > 1 and printed["of tokens"] == "96"


@pytest.mark.parametrize("headless", [False, True])
def test_a_run_starts_from_an_import_with_its_shape_and_tokenizer(
    headless: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, source = ctx_jax.load("runs/tiny"), "runs/tiny"
    if headless:  # a Hugging Face folder of the encoder alone, as most of them are
        source = str(tmp_path / "encoder")
        huggingface.write(source, first.model, first.params, subwords=first.processor.subwords)
    command = ["train", "tiny.py", "--init", source, "--run-dir", str(tmp_path / "run"), "--model.dim", "4"]
    command += ["--optimizer.learning-rate", "0", "--data.train", "valid.txt", "--evaluate.fill-mask", "0"]
    assert main(command) == 0
    assert "likeliest" not in capsys.readouterr().out

    def check() -> None:
        second = ctx_jax.load(tmp_path / "run")
        assert second.model == first.model and second.processor.subwords.digest == first.processor.subwords.digest
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-7), first.params, second.params)
        head, its_head = (jax.tree.leaves(encoder.heads["masked_lm"].params) for encoder in (first, second))
        same = [np.allclose(*pair, atol=1e-7) for pair in zip(head, its_head, strict=True)]
        assert all(same) != headless, "a head that the import lacks is new"

    check()
    assert main(command) == 0
    assert "nothing to train" in capsys.readouterr().out
    if not headless:
        shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if it had been killed before its first checkpoint
        assert main(command) == 0
        check()


@pytest.mark.filterwarnings("ignore:.* no place for all dropout rates")
@pytest.mark.parametrize("name", [name for name in names() if isinstance(load(find(name))[0].task, SubwordLMConfig)])
def test_every_shipped_transformer_has_room_for_its_rows_and_can_be_exported(name: str) -> None:
    task = load(find(name))[0].task
    model = replace(task.model, vocabulary=100)
    assert config_from_model(model, head=task.head)["vocab_size"] == 100
    assert task.sequences.length <= task.model.longest
