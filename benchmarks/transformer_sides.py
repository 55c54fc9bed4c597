"""The sides of `transformer.py`, ours and transformers on torch: functions without arguments that run one batch and
wait for its result.

Letters: B rows, T tokens, K predicted positions of a row, D width, V vocabulary.
"""

import importlib.util
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import BertForMaskedLM

from ctx_jax.data.batch import MaskedBatch
from ctx_jax.data.cache import load_sentences
from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens, tokens_of
from ctx_jax.embedding.embed import embed
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMTask
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep

Call = Callable[[], object]
Positions = Literal["predicted", "all"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
OPTIMIZER = AdamW(learning_rate=1e-4, epsilon=1e-6, schedule="constant", warmup=0)  # norm clipped to 1, on both sides

SIZES = {
    "tiny": Transformer(vocabulary=2_048, dim=32, depth=2, heads=2, feed_forward=64),
    "384": Transformer(dim=384, depth=6, heads=12, feed_forward=1536),  # MiniLM's
    "base": Transformer(),
    "large": Transformer(dim=1024, depth=24, heads=16, feed_forward=4096),
}


def shape(size: str, length: int, dropout: float, attention_dropout: float) -> Transformer:
    """A BERT whose position table is long enough for `length`."""
    return replace(
        SIZES[size],
        max_positions=max(512, length),
        embedding_dropout=dropout,
        attention_dropout=attention_dropout,
        attention_output_dropout=dropout,
        feed_forward_dropout=dropout,
    )


@dataclass(frozen=True)
class Text:
    """A text in memory, as words and as the tokens of a WordPiece tokenizer trained on it."""

    words: list[list[str]]
    tokens: Tokens
    subwords: Subwords

    def sentences_apart(self) -> Tokens:
        """The tokens with every sentence a document of its own, so that a row without `cross_documents` holds one."""
        return replace(self.tokens, documents=np.arange(len(self.tokens)))


def read_text(source: str, size: int) -> Text:
    """A source as the setting data.train names it (`python-docs`, or files), its vocabulary of at most `size`."""
    with tempfile.TemporaryDirectory() as folder:
        sentences = load_sentences(TextConfig(train=source), "train", folder)
        assert sentences is not None, "every source has a training split"
        words, documents = list(sentences), np.array(sentences.documents)
    subwords = train(words, "wordpiece", size, lowercase=True)
    return Text(words, tokens_of(words, documents, subwords), subwords)


def batches(tokens: Tokens, text: Text, config: SequenceConfig, count: int) -> tuple[list[MaskedBatch], int]:
    """`count` batches, and the mean of their real tokens, special ones included."""
    arrays = [batch.arrays for batch in itertools.islice(Sequences(tokens, text.subwords, config), count)]
    return arrays, round(float(np.mean([np.count_nonzero(batch.tokens.mask) for batch in arrays])))


def masked_lm(model: Transformer, config: SequenceConfig, text: Text, tokens: Tokens, seed: int = 0) -> MaskedLMTask:
    """The task of `train.py` on this text, with the head that fits the model."""
    settings = MaskedLMConfig(model=model, head=model.default_head(), sequences=config)
    return MaskedLMTask(settings, seed, tokens, None, text.subwords, ())


def flops_per_token(task: MaskedLMTask, training: bool) -> float:
    """Of a training step, or of the encoder's forward pass alone."""
    return task.flops_per_token() if training else task.model.flops_per_token(task.config.sequences.length)


class Ours:
    """Our calls for one task and set of batches."""

    def __init__(self, task: MaskedLMTask, compute: Any, data: Sequence[MaskedBatch]) -> None:
        model = replace(task.model, compute=compute)
        self.task = replace(task, config=replace(task.config, model=model))
        self.data = data

    def inference(self, params: Any) -> Call:
        """`ctx_jax.embed` under `jit`: every layer."""
        run = jax.jit(embed, static_argnums=0)
        inputs = itertools.cycle(
            [
                {"token_ids": jnp.asarray(batch.tokens.token_ids), "token_mask": jnp.asarray(batch.tokens.mask)}
                for batch in self.data
            ]
        )
        return lambda: run(self.task.model, params["encoder"], next(inputs)).values.block_until_ready()

    def training(self) -> Call:
        """The step of `train.py` on one device."""
        training_step = TrainingStep(self.task, OPTIMIZER, 1_000_000, 0)
        step = jax.jit(training_step.__call__, donate_argnums=0)
        state, frozen = jax.jit(training_step.initial)()
        data = itertools.cycle([jax.tree.map(jnp.asarray, batch) for batch in self.data])

        def call() -> object:
            nonlocal state
            state = step(state, frozen, next(data))
            return state.step.block_until_ready()

        return call


class Exported:
    """A run's parameters as `BertForMaskedLM`, through our export; kept in a temporary folder as long as this lives."""

    def __init__(self, task: MaskedLMTask, params: Any) -> None:
        self._task, self._params = task, params

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory()
        heads = {"masked_lm": Head(self._task.config.head, self._params["head"]["masked_lm"])}
        huggingface.write(Path(folder.name), self._task.model, self._params["encoder"], heads=heads)
        return folder

    def network(self, attention: Attention) -> BertForMaskedLM:
        """Its weights all ours: RuntimeError where transformers misses or ignores one."""
        network, loading = BertForMaskedLM.from_pretrained(
            self._folder.name, attn_implementation=attention, output_loading_info=True
        )
        problems = {name: sorted(map(str, keys)) for name, keys in loading.items() if keys}
        if problems:
            raise RuntimeError(f"transformers loads our export with {problems}")
        return network


def decay_groups(network: torch.nn.Module, share: float) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices and tables, none on biases and norms."""
    parameters = list(network.parameters())
    return [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": share},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class Torch:
    """torch's calls for one model and set of batches.

    head: the vocabulary head on the `predicted` positions only, as ours has it, or on `all`, as transformers does.
    """

    exported: Exported
    data: Sequence[MaskedBatch]
    bf16: bool
    compiled: bool
    gpu: bool
    attention: Attention = "sdpa"
    head: Positions = "predicted"

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    @property
    def full(self) -> bool:
        """Whether no row of any batch is padded: then no mask is given. With one, transformers asks at every call
        whether it is all True, waiting for the device, and cannot ask when compiled: sdpa then has no flash kernel."""
        return all(batch.tokens.mask.all() for batch in self.data)

    def network(self) -> BertForMaskedLM:
        return self.exported.network(self.attention).to(self.device)

    def put(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array))
        return (tensor if tensor.is_floating_point() else tensor.long()).to(self.device)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def maybe_compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiled where this side is."""
        return torch.compile(function) if self.compiled else function

    def inputs(self, read: "Read") -> Iterator[tuple[torch.Tensor | None, ...]]:
        """Token ids, the mask (None where all is real) and what `read` takes of each batch, on the device, for ever."""
        full = self.full
        return itertools.cycle(
            [
                (
                    self.put(batch.tokens.token_ids),
                    None if full else self.put(batch.tokens.mask),
                    *(self.put(array) for array in read(batch)),
                )
                for batch in self.data
            ]
        )

    def inference(self) -> Call:
        """Every layer, like ours. In bf16 the weights and all between are: faster than autocast, which casts anew."""
        network = self.network().eval().bert
        if self.bf16:
            network = network.bfloat16()
        inputs = self.inputs(lambda batch: ())
        run = self.maybe_compiled(
            lambda ids, mask: network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        )

        @torch.no_grad()  # inference_mode keeps torch.compile from some of its work
        def call() -> None:
            run(*next(inputs))
            self.wait()

        return call

    def training(self) -> Call:
        """A step: loss, gradients, clipping, AdamW in the fastest form torch has. bf16 is autocast over float32
        weights, which ours keeps too."""
        network = self.network().train()
        optimizer = torch.optim.AdamW(
            decay_groups(network, OPTIMIZER.weight_decay),
            OPTIMIZER.learning_rate,
            (OPTIMIZER.beta1, OPTIMIZER.beta2),
            OPTIMIZER.epsilon,
            fused=True,
        )
        read, loss = HEAD_LOSSES[self.head]
        inputs = self.inputs(read)
        run = self.maybe_compiled(lambda *inputs: loss(network, *inputs))

        def call() -> None:
            with torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext():
                value = run(*next(inputs))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), OPTIMIZER.clip_norm, foreach=True)
            optimizer.step()
            self.wait()

        return call


def labels(batch: MaskedBatch) -> np.ndarray:
    """transformers' form of what is predicted: int64 [B, T], -100 where nothing is."""
    ids = np.full(batch.tokens.token_ids.shape, -100, np.int64)
    rows, columns = np.nonzero(batch.predicted_weights)
    ids[rows, batch.predicted_positions[rows, columns]] = batch.predicted_ids[rows, columns]
    return ids


def _loss_of_all(
    network: BertForMaskedLM, ids: torch.Tensor, mask: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    return network(input_ids=ids, attention_mask=mask, labels=labels).loss


def _loss_of_predicted(
    network: BertForMaskedLM,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor,
    wanted: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    hidden = network.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    chosen = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))  # [B, K, D]
    logits = network.cls(chosen).float()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return (nats * weights.flatten()).sum() / weights.sum()


Read = Callable[[MaskedBatch], tuple[np.ndarray, ...]]

# What the loss of either head reads of a batch, and the loss.
HEAD_LOSSES: dict[Positions, tuple[Read, Callable[..., torch.Tensor]]] = {
    "all": (lambda batch: (labels(batch),), _loss_of_all),
    "predicted": (
        lambda batch: (batch.predicted_positions, batch.predicted_ids, batch.predicted_weights),
        _loss_of_predicted,
    ),
}


def unavailable(attention: Attention, gpu: bool, dropout: float) -> str | None:
    """Why this attention does not run here, or None."""
    match attention:
        case "flash_attention_2" if not gpu:
            return "flash_attention_2 runs on NVIDIA GPUs: set --device gpu, or --attention sdpa"
        case "flash_attention_2" if importlib.util.find_spec("flash_attn") is None:
            return "flash_attention_2 needs the package flash-attn: install it, or set --attention sdpa"
        case "flex_attention" if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
            return "flex_attention needs a newer torch (2.5): install it, or set --attention sdpa"
        case "flex_attention" if dropout:
            return "flex_attention has no dropout: set --attention-dropout 0, or --attention sdpa"
        case _:
            return None


def first_call(name: str, make: Callable[[], Call], optional: bool) -> Call | None:
    """Make the call and run it once. An optional one that fails gives None and prints the reason: torch.compile does
    not work everywhere. A line is printed first, since compiling takes from seconds to many minutes."""
    print(f"{name}: first call ...", end=" ", flush=True)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = make()
            call()
    except Exception as error:  # whatever the compiler raises
        if not optional:
            raise
        print(f"is left out: {type(error).__name__}: {str(error).strip().splitlines()[:1]}", flush=True)
        return None
    print(f"{time.perf_counter() - start:.1f} s", flush=True)
    return call
