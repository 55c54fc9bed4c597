"""The sides of `elmo.py`, ours and torch's: functions without arguments that run one batch and wait for its result.

Letters: B rows, T tokens, C characters, P projection, V vocabulary.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch_bilm import TorchBiLM, load_params

from ctx_jax.data.batch import BiLMBatch
from ctx_jax.data.config import BiLMData
from ctx_jax.data.python_docs import documents
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.network import token_vectors
from ctx_jax.tasks.bilm import BiLMConfig, BiLMTask
from ctx_jax.tokenizers.characters import char_ids
from ctx_jax.tokenizers.vocabulary import MARKERS, Vocabulary
from ctx_jax.training.optimizer import Adagrad
from ctx_jax.training.step import TrainingStep
from ctx_jax.typing import Params

Call = Callable[[], object]
OPTIMIZER = Adagrad()  # learning rate 0.2, accumulator 1, global norm clipped to 10: the original's, on both sides

SIZES = {
    "tiny": BiLM(character_dim=8, filters=((1, 16), (3, 48)), dim=64, projection=16),
    "small": BiLM(dim=1024, projection=128, highways=1),
    "medium": BiLM(dim=2048, projection=256, highways=1),
    "original": BiLM(dim=4096, projection=512, highways=2),
}


@dataclass(frozen=True)
class TextBatch:
    """Text in every form the sides read: a row is `<S> w1 ... wn </S>`, T + 1 tokens, of which T are targets."""

    char_ids: np.ndarray  # int32 [B, T + 1, C]
    words: np.ndarray  # int32 [B, T + 1], numbered by falling frequency

    def training(self, vocabulary: int) -> BiLMBatch:
        """The batch of `losses.bilm`; words past the vocabulary are its last one."""
        targets = np.minimum(self.words, vocabulary - 1)
        backward = self.char_ids[:, :0:-1], targets[:, -2::-1]
        inputs, labels = map(np.ascontiguousarray, backward)
        return BiLMBatch(self.char_ids[:, :-1], inputs, targets[:, 1:], labels)


def batches(batch_size: int, words: int, count: int, max_characters: int) -> tuple[list[TextBatch], int]:
    """`count` batches of consecutive text (the interpreter's documentation), and the number of its distinct words.

    The text repeats when it ends, after a few hundred thousand words.
    """
    text = [word for sentence in documents("train") for word in sentence]
    ranked = ["<S>", "</S>", *(word for word, _ in Counter(text).most_common())]
    number = {word: index for index, word in enumerate(ranked)}
    stream, cut = itertools.cycle(text), []
    for _ in range(count):
        sentences = [list(itertools.islice(stream, words)) for _ in range(batch_size)]
        ids = [[0, *(number[word] for word in sentence), 1] for sentence in sentences]
        cut.append(TextBatch(char_ids(sentences, max_characters), np.array(ids, np.int32)))
    return cut, len(ranked)


def bilm_task(model: BiLM, batch_size: int, vocabulary: int, negatives: int = 0) -> BiLMTask:
    """The task of `train.py`, its text left out, over a vocabulary of made-up words (at least the three markers)."""
    words = Vocabulary((*MARKERS, *(f"word{index}" for index in range(vocabulary - len(MARKERS)))))
    config = BiLMConfig(model=model, data=BiLMData(batch_size=batch_size), negatives=negatives)
    return BiLMTask(config, 0, train=None, valid=None, vocabulary=words)  # type: ignore[arg-type]


class Ours:
    """Our calls for one model, precision and set of batches."""

    def __init__(
        self, model: BiLM, compute: Any, data: Sequence[TextBatch], vocabulary: int = 0, negatives: int = 0
    ) -> None:
        self.model = replace(model, compute=compute)
        self.data, self.vocabulary = data, vocabulary
        self.task = bilm_task(self.model, len(data[0].words), vocabulary, negatives)

    def init(self, key: jax.Array) -> Params:
        """Parameters of encoder and softmax; torch's side starts from the same."""
        return self.task.init(key)

    def inference(self, params: Params) -> Call:
        """Every layer, under `jit`."""
        run = jax.jit(BiLM.layers, static_argnums=0)
        if self.model.token_input == "words":
            inputs = itertools.cycle([{"token_ids": jnp.asarray(batch.words)} for batch in self.data])
        else:
            inputs = itertools.cycle([{"char_ids": jnp.asarray(batch.char_ids)} for batch in self.data])
        return lambda: run(self.model, params["encoder"], next(inputs)).values.block_until_ready()

    def token_encoder(self, params: Params) -> Call:
        """The character network alone."""
        run = jax.jit(token_vectors, static_argnums=0)
        inputs = itertools.cycle([jnp.asarray(batch.char_ids) for batch in self.data])
        return lambda: run(self.model, params["encoder"], next(inputs)).block_until_ready()

    def batches(self) -> Any:
        """An endless cycle of training batches on the device."""
        return itertools.cycle([jax.tree.map(jnp.asarray, batch.training(self.vocabulary)) for batch in self.data])

    def forward(self, params: Params, gradients: bool) -> Call:
        """The loss, and with `gradients` its gradients, without an optimizer."""

        def loss(params: Params, batch: Any) -> jax.Array:
            terms, _ = self.task.loss(params, batch, None, None)
            return sum(share * terms[name][0] / terms[name][1] for name, share in self.task.coefficients.items())

        batches, run = self.batches(), jax.jit(jax.value_and_grad(loss) if gradients else loss)
        return lambda: jax.block_until_ready(run(params, next(batches)))

    def training(self) -> Call:
        """The step of `train.py` on one device; LSTM states are carried."""
        training_step = TrainingStep(self.task, OPTIMIZER, 1_000_000, 0)
        step = jax.jit(training_step.__call__, donate_argnums=0)
        state, frozen = jax.jit(training_step.initial)()
        batches = self.batches()

        def call() -> object:
            nonlocal state
            state = step(state, frozen, next(batches))
            return state.step.block_until_ready()

        return call


class Torch:
    """torch's calls for one model, precision and set of batches."""

    def __init__(
        self, model: BiLM, bf16: bool, dedup: bool, data: Sequence[TextBatch], gpu: bool, vocabulary: int = 0
    ) -> None:
        self.model, self.dedup, self.bf16, self.data, self.vocabulary = model, dedup, bf16, data, vocabulary
        self.device = "cuda" if gpu else "cpu"

    def network(self, params: Params) -> TorchBiLM:
        """With our parameters, on the device."""
        return load_params(TorchBiLM(self.model, vocabulary=self.vocabulary, dedup=self.dedup), params).to(self.device)

    def precision(self) -> AbstractContextManager[object]:
        """Autocast to bf16, or nothing."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).long().to(self.device)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def inference(self, params: Params) -> Call:
        network = self.network(params).eval()
        words = self.model.token_input == "words"
        inputs = itertools.cycle([self.put(batch.words if words else batch.char_ids) for batch in self.data])

        @torch.inference_mode()
        def call() -> None:
            with self.precision():
                network(next(inputs))
            self.wait()

        return call

    def token_encoder(self, params: Params) -> Call:
        network = self.network(params).eval()
        inputs = itertools.cycle([self.put(batch.char_ids) for batch in self.data])

        @torch.inference_mode()
        def call() -> None:
            with self.precision():
                network.token_vectors(next(inputs))
            self.wait()

        return call

    def training(self, params: Params, until: str = "optimizer") -> Call:
        """A step, or its first part: until = "loss" or "gradients"."""
        network = self.network(params)
        # torch's fastest forms: one kernel a parameter on the CPU, a few for all of them on a GPU.
        form = {"fused": True} if self.device == "cpu" else {"foreach": True}
        parameters = list(network.parameters())
        optimizer = torch.optim.Adagrad(
            parameters, OPTIMIZER.learning_rate, initial_accumulator_value=OPTIMIZER.accumulator, **form
        )
        inputs = itertools.cycle([(self.put(batch.char_ids), *self.targets(batch)) for batch in self.data])

        def call() -> None:
            with nullcontext() if until != "loss" else torch.no_grad():
                with self.precision():
                    ahead, behind = network.loss(*next(inputs))
                if until != "loss":
                    optimizer.zero_grad()
                    (0.5 * (ahead + behind)).backward()
            if until == "optimizer":
                torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER.clip_norm, foreach=True)
                optimizer.step()
            self.wait()

        return call

    def targets(self, batch: TextBatch) -> tuple[torch.Tensor, torch.Tensor]:
        training = batch.training(self.vocabulary)
        return self.put(training.forward_targets), self.put(training.backward_targets)


def flops_per_token(model: BiLM, targets: int = 0) -> float:
    """FLOPs of a token as the network is defined, two per multiply-add, each token encoded once: the forward pass, or
    with `targets` (words of the softmax) a training step, three times the forward pass."""
    filters = model.filter_count
    tokens = sum(2 * w * model.character_dim * n * (model.max_characters - w + 1) for w, n in model.filters)
    tokens += model.highways * 4 * filters**2 + 2 * filters * model.projection * (filters != model.projection)
    if model.token_input == "words":
        tokens = 0
    cell = 2 * (8 * model.projection + model.projection * (model.projection != model.dim)) * model.dim
    forward = tokens + 2 * model.depth * cell
    return float(3 * (forward + 2 * 2 * model.projection * targets) if targets else forward)


def naive_softmax(hidden: jax.Array, labels: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """The naive softmax: all logits at once."""
    logits = jnp.dot(hidden, weights.T, precision=jax.lax.Precision.HIGHEST) + bias
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
