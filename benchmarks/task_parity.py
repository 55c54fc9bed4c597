"""Classification and tagging by a plain torch + transformers loop, with the data, head and recipe of our tasks.

    python benchmarks/task_parity.py curve --encoder minilm --data ../shared/data
    python benchmarks/task_parity.py pairs --encoder minilm --data ../shared/data
    python benchmarks/task_parity.py sst2 --encoder minilm --data ../shared/data [--frozen] [--seeds 3]
    python benchmarks/task_parity.py upos --encoder minilm --data ../shared/data

`curve` fine-tunes a classifier for 50 steps on both sides, from equal weights, in one order, without dropout, and fails
where the mean loss of 10 steps is more than 1 % off; `pairs` does so with the numbers of STS-B, whose texts are read
apart. `sst2` and `upos` (frozen, a learned mix) are torch's side of the tables in `README.md`; ours is
`benchmarks/tasks.py`. Needs the `[parity]` extra.

The recipe on both sides: AdamW, rate 1e-3 for the head, 10 times that for the mix, for the encoder 0.05 times that and
0.9 ** (layers above) of it; warm-up over a tenth of the steps, then falling in a straight line; gradients clipped to
norm 1; decay 0.01 on matrices; batches of 32; 3 epochs, frozen 20, measured once each, stopped after 3 no better.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro

from ctx_jax.data.labelled import Columns, Example, LabelledData, read_sentences, read_texts
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import TaskContext

STEPS, INTERVAL, ALLOWED = 50, 10, 0.01
RATE, MIX_RATE, ENCODER_RATE, LAYER_DECAY = 1e-3, 10.0, 0.05, 0.9
BATCH, WARMUP, DECAY, CLIP, DROPOUT, PATIENCE = 32, 0.1, 0.01, 1.0, 0.1, 3


@dataclass(frozen=True)
class Options:
    """One comparison."""

    what: tyro.conf.Positional[Literal["curve", "pairs", "sst2", "upos"]]
    encoder: str
    """A Hugging Face folder of a BERT."""
    data: Path
    """A folder with `cls/sst2`, `pos/en_ewt` and `pairs/stsb`."""
    frozen: bool = False
    seeds: int = 3


class Network(torch.nn.Module):
    """An encoder, a mix of its layers, and a linear layer on the mean of a text's tokens or of a word's pieces."""

    def __init__(self, encoder: Any, labels: int, dropout: float, sides: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        layers, width = encoder.config.num_hidden_layers + 1, encoder.config.hidden_size
        self.mix = torch.nn.Parameter(torch.zeros(layers))
        self.gamma = torch.nn.Parameter(torch.ones(()))
        self.dropout, self.head = torch.nn.Dropout(dropout), torch.nn.Linear(sides * width, labels)
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)

    def layers(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[L, B, T, D]."""
        return torch.stack(self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states)

    def mixed(self, layers: torch.Tensor) -> torch.Tensor:
        """Of pooled layers [L, N, D]: [N, D]."""
        return self.gamma * torch.einsum("l,lnd->nd", torch.softmax(self.mix, 0), layers)

    def scores(self, layers: torch.Tensor) -> torch.Tensor:
        """Of pooled layers [L, N, D]: [N, K]."""
        return self.head(self.dropout(self.mixed(layers)))


def pooled(layers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Means [L, N, D] of layers [L, B, T, D]: of each text's tokens, with weights [B, T], or of each word's pieces,
    with weights [N, B * T]."""
    if weights.ndim == 2 and weights.shape == layers.shape[1:3]:
        return torch.einsum("lbtd,bt->lbd", layers, weights / weights.sum(1, keepdim=True))
    flat = layers.flatten(1, 2)
    return torch.einsum("lsd,ns->lnd", flat, weights / weights.sum(1, keepdim=True))


def groups(network: Network, frozen: bool) -> list[dict[str, Any]]:
    """torch's parameter groups of the recipe."""
    depth = network.encoder.config.num_hidden_layers
    found = []
    for name, parameter in network.named_parameters():
        if name.startswith("encoder.pooler") or (frozen and name.startswith("encoder.")):
            parameter.requires_grad_(False)
            continue
        rate, decay = RATE, DECAY if parameter.ndim > 1 else 0.0
        if name in ("mix", "gamma"):
            rate, decay = RATE * MIX_RATE, 0.0
        elif name.startswith("encoder."):
            layer = int(name.split(".")[3]) + 1 if ".layer." in name else 0
            rate = RATE * ENCODER_RATE * LAYER_DECAY ** (depth + 1 - layer)
        found.append({"params": [parameter], "lr": rate, "top": rate, "weight_decay": decay})
    return found


class Trainer:
    """The optimizer of the recipe."""

    def __init__(self, network: Network, frozen: bool, steps: int) -> None:
        self.network, self.steps, self.done = network, steps, 0
        self.optimizer = torch.optim.AdamW(groups(network, frozen))
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss`."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        warmup = round(WARMUP * self.steps)
        rise, fall = (self.done + 1) / max(warmup, 1), (self.steps - self.done) / max(self.steps - warmup, 1)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * (rise if self.done < warmup else fall)
        self.optimizer.step()
        self.done += 1


@dataclass
class Data:
    """Tokenized examples: ids, the word of each token (None for texts), labels of texts or words."""

    ids: list[list[int]]
    words: list[list[int | None]] | None
    labels: list[list[int]]
    vectors: list[torch.Tensor] = field(default_factory=list)  # [L, n, D] of a frozen encoder

    def batch(self, numbers: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids and mask [B, T], the weights of `pooled`, labels [N]."""
        length = max(len(self.ids[i]) for i in numbers)
        ids, mask = torch.zeros(len(numbers), length, dtype=torch.long), torch.zeros(len(numbers), length)
        rows: list[torch.Tensor] = []
        for row, i in enumerate(numbers):
            ids[row, : len(self.ids[i])] = torch.tensor(self.ids[i])
            mask[row, : len(self.ids[i])] = 1
            if self.words is not None:
                own = torch.zeros(len(self.labels[i]), len(numbers) * length)
                for place, word in enumerate(self.words[i]):
                    if word is not None:
                        own[word, row * length + place] = 1
                rows.append(own)
        labels = torch.tensor([label for i in numbers for label in self.labels[i]])
        return ids, mask, torch.cat(rows) if rows else mask, labels


def read(options: Options) -> tuple[Data, Data, Data, int]:
    """Training, validation and test examples (of SST-2 the validation set again), and the number of labels."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.encoder)
    if options.what == "upos":
        folder, columns = options.data / "pos" / "en_ewt", Columns.parse("form,upos", "form")
        paths = [folder / f"{name}.conllu.xz" for name in ("train", "dev", "test")]
        files = [list(read_sentences(str(path), columns)) for path in paths]
    else:
        folder, columns = options.data / "cls" / "sst2", Columns.parse("text,label", "text")
        files = [list(read_texts(str(folder / f"{name}.tsv.xz"), columns)) for name in ("train", "dev", "dev")]
    names = sorted({label for each in files[0] for label in _labels(each)})

    def encoded(examples: list[Example]) -> Data:
        split = options.what == "upos"
        found = tokenizer([each.item for each in examples], is_split_into_words=split, truncation=True, max_length=512)
        words = [found.word_ids(i) for i in range(len(examples))] if split else None
        return Data(found["input_ids"], words, [[names.index(label) for label in _labels(each)] for each in examples])

    train_data, dev, test = map(encoded, files)
    return train_data, dev, test, len(names)


def _labels(example: Example) -> list[str]:
    return [example.label] if isinstance(example.label, str) else example.label or []


def scores(network: Network, data: Data, numbers: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [N, K] and labels [N] of some examples."""
    if data.vectors:
        labels = torch.tensor([label for i in numbers for label in data.labels[i]])
        return network.scores(torch.cat([data.vectors[i] for i in numbers], 1)), labels
    ids, mask, weights, labels = data.batch(numbers)
    return network.scores(pooled(network.layers(ids, mask), weights)), labels


@torch.no_grad()
def store(network: Network, data: Data) -> None:
    """Compute the frozen vectors."""
    order = sorted(range(len(data.ids)), key=lambda i: len(data.ids[i]))
    data.vectors = [torch.zeros(0)] * len(order)
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        ids, mask, weights, _ = data.batch(numbers)
        found = pooled(network.layers(ids, mask), weights)
        for i, own in zip(numbers, found.split([len(data.labels[i]) for i in numbers], 1), strict=True):
            data.vectors[i] = own.clone()


@torch.no_grad()
def accuracy(network: Network, data: Data) -> float:
    """The share of right labels."""
    network.eval()
    hits = count = 0
    order = sorted(range(len(data.ids)), key=lambda i: len(data.ids[i]))
    for start in range(0, len(order), BATCH):
        found, labels = scores(network, data, order[start : start + BATCH])
        hits += int((found.argmax(1) == labels).sum())
        count += len(labels)
    network.train()
    return hits / count


def train(options: Options, train_data: Data, dev: Data, test: Data, labels: int, seed: int) -> float:
    """The accuracy on the test examples at the epoch that is best on the validation examples."""
    torch.manual_seed(seed)
    encoder = transformers.AutoModel.from_pretrained(options.encoder, attn_implementation="sdpa")
    network = Network(encoder, labels, DROPOUT).train()
    frozen, epochs = options.frozen or options.what == "upos", 20 if options.frozen or options.what == "upos" else 3
    if frozen and not train_data.vectors:
        network.encoder.eval()
        for data in (train_data, dev, test):
            store(network, data)
    per_epoch = -(-len(train_data.ids) // BATCH)
    trainer, best, since, result = Trainer(network, frozen, epochs * per_epoch), 0.0, 0, 0.0
    for _ in range(epochs):
        order = torch.randperm(len(train_data.ids)).tolist()
        for start in range(0, len(order), BATCH):
            found, wanted = scores(network, train_data, order[start : start + BATCH])
            trainer.step(torch.nn.functional.cross_entropy(found, wanted))
        now = accuracy(network, dev)
        if now > best:
            best, since, result = now, 0, accuracy(network, test)
        else:
            since += 1
        if since == PATIENCE:
            break
    return result


def label_loss(network: Network, batch: Any) -> torch.Tensor:
    """The cross-entropy of a batch of texts."""
    return torch.nn.functional.cross_entropy(network.scores(text_vectors(network, batch.inputs)), batch.labels.long())


def pair_loss(network: Network, batch: Any) -> torch.Tensor:
    """The squared error of a batch of pairs that are read apart."""
    u, v = (network.mixed(text_vectors(network, batch.inputs[side])) for side in ("first", "second"))
    found = network.head(torch.cat([u, v, (u - v).abs(), u * v], 1))[:, 0]
    return torch.nn.functional.mse_loss(found, batch.labels)


def text_vectors(network: Network, inputs: Any) -> torch.Tensor:
    """The means [L, B, D] of texts."""
    ids, mask = inputs["token_ids"].long(), inputs["token_mask"]
    return pooled(network.layers(ids, mask.long()), mask.float())


def curve(options: Options) -> bool:
    """Print the mean losses of both sides; whether all agree."""
    common: dict[str, Any] = {"encoder": options.encoder, "dropout": 0.0, "encoder_dropout": False}
    if options.what == "pairs":
        train_file = str(options.data / "pairs" / "stsb" / "en-train.csv.xz")
        config: Any = PairsConfig(
            **common, data=LabelledData(train_file, columns="first,second,label"), target="number"
        )
        loss_of, sides = pair_loss, 4
    else:
        config = ClassifyConfig(**common, data=LabelledData(str(options.data / "cls" / "sst2" / "train.tsv.xz")))
        loss_of, sides = label_loss, 1
    with TemporaryDirectory() as folder:
        task = config.open(TaskContext(Path(folder), 0, STEPS, False, print))
        batches = task.batches(0, BATCH)
        optimizer = AdamW(learning_rate=RATE, schedule="linear", warmup=WARMUP, layer_decay=LAYER_DECAY)
        training_step = TrainingStep(task, optimizer, STEPS, 0)
        state, _ = training_step.initial()
        state, frozen = training_step.with_params(state, task.initial(state.params))
        head = {name: np.array(array) for name, array in state.params["head"]["labels"]["scores"].items()}
        body = transformers.AutoModel.from_pretrained(options.encoder)
        network = Network(body, len(head["bias"]), 0.0, sides).eval()  # no dropout
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(head["kernel"].T))
            network.head.bias.copy_(torch.from_numpy(head["bias"]))
        trainer, step = Trainer(network, False, STEPS), jax.jit(training_step.__call__)
        losses = np.zeros((2, STEPS))
        for number in range(STEPS):
            batch = next(batches).arrays
            fresh = state._replace(totals=training_step.zero_totals())
            state = step(fresh, frozen, jax.tree.map(jnp.asarray, batch))
            total, weight = state.totals.terms["label"]
            losses[0, number] = float(total) / float(weight)
            loss = loss_of(network, jax.tree.map(torch.from_numpy, batch))
            losses[1, number] = float(loss.detach())
            trainer.step(loss)
    ours, theirs = losses.reshape(2, -1, INTERVAL).mean(axis=2)
    for number, pair in enumerate(zip(ours, theirs, strict=True)):
        steps = f"steps {number * INTERVAL}..{number * INTERVAL + INTERVAL - 1}"
        print(f"{steps}   ours {pair[0]:.5f}   torch {pair[1]:.5f}   {pair[0] / pair[1] - 1:+.4%}")
    return bool((np.abs(ours / theirs - 1) < ALLOWED).all())


def main(options: Options) -> bool:
    """Print the comparison; False where it fails."""
    if options.what in ("curve", "pairs"):
        return curve(options)
    train_data, dev, test, labels = read(options)
    found = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        found.append(train(options, train_data, dev, test, labels, seed))
        print(f"seed {seed}: accuracy {found[-1]:.2%}, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"mean {np.mean(found):.2%}, from {min(found):.2%} to {max(found):.2%}")
    return True


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Options)) else 1)
