"""Fifty steps of ELECTRA's pretraining against a plain loop of torch and transformers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head
from ctx_jax.losses.replaced_token import noise, row_keys
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.replaced_token import GENERATOR, HEAD, GeneratorConfig, ReplacedTokenConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import TaskContext

STEPS, WARMUP, RATE = 50, 5, 3e-3
WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
MODEL = Transformer(
    0, dim=16, depth=1, heads=2, feed_forward=32, embedding_dim=12, max_positions=16, initial_scale=0.1
).without_dropout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text of sentences that repeat themselves, so that masked words can be guessed."""
    folder, random = tmp_path_factory.mktemp("electra"), np.random.default_rng(0)
    starts = random.integers(0, len(WORDS), 60)
    lines = [" ".join(WORDS[(start + word) % len(WORDS)] for word in range(6)) for start in starts]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder


def config(folder: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        task=ReplacedTokenConfig(
            model=MODEL,
            generator=GeneratorConfig(width=0.5),
            data=TextConfig(train=str(folder / "train.txt")),
            sequences=SequenceConfig(
                "pairs",
                length=16,
                batch_size=8,
                pair_label="none",
                mask_token_probability=0.85,
                random_token_probability=0.0,
            ),
            tokenizer=TokenizerConfig(kind="wordpiece", size=60),
        ),
        optimizer=AdamW(learning_rate=RATE, schedule="linear", warmup=WARMUP),
        devices=DevicesConfig(count=1),
        run_dir=str(folder / "run"),
        steps=steps,
    )


def both_models(folder: Path) -> tuple[Any, Any]:
    """transformers' generator and discriminator of a folder of both, which share their embeddings."""
    transformers = pytest.importorskip("transformers")
    generator, found = transformers.ElectraForMaskedLM.from_pretrained(folder / "generator", output_loading_info=True)
    discriminator, other = transformers.ElectraForPreTraining.from_pretrained(
        folder / "discriminator", output_loading_info=True
    )
    assert not any(found.values()) and not any(other.values()), "no missing and no unexpected tensor"
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    return generator.eval(), discriminator.eval()


def torch_losses(folder: Path, batches: list[Any], drawn: list[np.ndarray]) -> list[tuple[float, float]]:
    """Both losses of each batch before the step on it; `drawn` is the noise [B, K, V] of each batch's samples."""
    torch = pytest.importorskip("torch")
    generator, discriminator = both_models(folder)
    weights = list({id(each): each for model in (generator, discriminator) for each in model.parameters()}.values())
    groups = [{"params": [each], "lr": RATE, "weight_decay": 0.01 if each.ndim > 1 else 0.0} for each in weights]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / WARMUP if step < WARMUP else (STEPS - step) / (STEPS - WARMUP),
    )
    losses = []
    for batch, gumbel in zip(batches, drawn, strict=True):
        ids, mask, types = (
            torch.tensor(np.asarray(array, np.int64))
            for array in (batch.tokens.token_ids, batch.tokens.mask, batch.tokens.token_types)
        )
        rows, places = np.nonzero(batch.predicted_weights)
        columns = torch.tensor(batch.predicted_positions[rows, places].astype(np.int64))
        originals = torch.tensor(batch.predicted_ids[rows, places].astype(np.int64))
        rows = torch.tensor(rows)
        scores = generator(input_ids=ids, attention_mask=mask, token_type_ids=types).logits[rows, columns]
        of_generator = torch.nn.functional.cross_entropy(scores, originals)
        samples = (scores.detach() + torch.tensor(gumbel)[rows, torch.tensor(places)]).argmax(-1)
        filled, labels = ids.clone(), torch.zeros(ids.shape)
        filled[rows, columns] = samples
        labels[rows, columns] = (samples != originals).float()
        found = discriminator(input_ids=filled, attention_mask=mask, token_type_ids=types).logits
        real = mask > 0
        of_discriminator = torch.nn.functional.binary_cross_entropy_with_logits(found[real], labels[real])
        losses.append((float(of_generator.detach()), float(of_discriminator.detach())))
        optimizer.zero_grad()
        (of_generator + 50 * of_discriminator).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    return losses


@pytest.mark.slow
def test_every_ten_steps_have_the_mean_losses_of_torch(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    settings = config(folder, STEPS)
    task = settings.task.open(TaskContext(tmp_path, 0, STEPS, False, lambda line: None))
    training_step = TrainingStep(task, settings.optimizer, STEPS, 0)
    state, _ = training_step.initial()
    params, modules = state.params, task.heads
    heads = {HEAD: Head(modules[HEAD], params["head"][HEAD])}
    own = modules[GENERATOR].complete(params["head"][GENERATOR], params["encoder"]["embeddings"])
    masked = {"masked_lm": Head(modules[GENERATOR].head, own["head"]["masked_lm"])}
    for name, model, body, above in (
        ("discriminator", task.model, params["encoder"], heads),
        ("generator", modules[GENERATOR].model, own["encoder"], masked),
    ):
        huggingface.write(tmp_path / name, model, body, heads=above, architecture="electra")

    source, step = task.batches(0, task.batch_size), jax.jit(training_step.__call__)
    draw = jax.jit(jax.vmap(lambda key: noise(key, batch.predicted_ids.shape[1], task.model.vocabulary)))
    batches, drawn, losses = [], [], []
    for _ in range(STEPS):
        batch = next(source).arrays
        batches.append(batch)
        drawn.append(np.asarray(draw(row_keys(training_step.key(state), batch.tokens))))
        state = step(state._replace(totals=training_step.zero_totals()), {}, jax.tree.map(jnp.asarray, batch))
        terms = state.totals.terms
        losses.append([float(terms[name][0] / terms[name][1]) for name in ("generator", "discriminator")])
    ours, theirs = (
        np.reshape(found, (-1, 10, 2)).mean(1) for found in (losses, torch_losses(tmp_path, batches, drawn))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0.01)
    assert ours[-1, 0] < 0.95 * ours[0, 0] and ours[-1, 1] < 0.95 * ours[0, 1], "both have learned something"
