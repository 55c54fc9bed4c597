"""Classification and tagging by a plain torch + transformers loop, with the data, head and recipe of our tasks.

    python benchmarks/task_parity.py sst2 --encoder minilm --data ../shared/data [--frozen] [--seeds 3] [--limit 2000]
    python benchmarks/task_parity.py upos --frozen --encoder minilm --data ../shared/data

`sst2`, `cola`, `stsb`, `snli` and `upos`, frozen or fine-tuned, are torch's side of `tasks.py`, on the same examples
(`task_files.py`); `task_curves.py` compares both sides step by step. Needs the `[parity]` extra and scikit-learn.

The recipe on both sides: AdamW, rate 1e-3 for the head, 10 times that for the mix, for the encoder 0.05 times that and
0.9 ** (layers above) of it; warm-up over a tenth of the steps, then falling in a straight line; gradients clipped to
norm 1; decay 0.01 on matrices; batches of 32; 3 epochs, frozen 20, measured once each, stopped after 3 no better. The
number of STS-B is scale x cosine + bias of the means of both texts, which begin at the numbers' range and least.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import task_files
import torch
import transformers
import tyro
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef

from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import Example, read_sentences, read_texts
from ctx_jax.data.labelled_pairs import read_text_pairs

RATE, MIX_RATE, ENCODER_RATE, LAYER_DECAY = 1e-3, 10.0, 0.05, 0.9
BATCH, WARMUP, DECAY, CLIP, DROPOUT, PATIENCE = 32, 0.1, 0.01, 1.0, 0.1, 3


@dataclass(frozen=True)
class Options:
    """What torch trains."""

    what: tyro.conf.Positional[Literal["sst2", "cola", "stsb", "snli", "upos"]]
    encoder: str
    """A Hugging Face folder of a BERT."""
    data: Path
    """The folder of the data sets."""
    frozen: bool = False
    seeds: int = 3
    limit: int = 0
    """Train on so many texts or pairs, evenly spaced; 0: all."""


class Network(torch.nn.Module):
    """An encoder, a mix of its layers, and a linear layer on the mean of a text's tokens or of a word's pieces."""

    def __init__(self, encoder: Any, labels: int, dropout: float, sides: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        layers, width = encoder.config.num_hidden_layers + 1, encoder.config.hidden_size
        self.mix = torch.nn.Parameter(torch.zeros(layers))
        self.gamma = torch.nn.Parameter(torch.ones(()))
        self.dropout, self.head = torch.nn.Dropout(dropout), torch.nn.Linear(sides * width, labels)
        self.scale, self.offset = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))  # of cosines
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)

    def layers(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """[L, B, T, D]."""
        found = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
        return torch.stack(found.hidden_states)

    def mixed(self, layers: torch.Tensor) -> torch.Tensor:
        """Of pooled layers [L, N, D]: [N, D]."""
        return self.gamma * torch.einsum("l,lnd->nd", torch.softmax(self.mix, 0), layers)

    def scores(self, layers: torch.Tensor) -> torch.Tensor:
        """Of pooled layers [L, N, D]: [N, K]."""
        return self.head(self.dropout(self.mixed(layers)))

    def numbers(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Of both sides' pooled layers [L, N, D]: [N, 1]."""
        cosines = torch.cosine_similarity(self.mixed(first), self.mixed(second))
        return (self.scale * cosines + self.offset)[:, None]


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
    """Tokenized examples: ids and token types, the word of each token (None for texts), labels of texts or words; in
    `second` the other texts of pairs that are read apart."""

    ids: list[list[int]]
    types: list[list[int]]
    words: list[list[int | None]] | None
    labels: list[list[Any]]
    second: "Data | None" = None
    vectors: list[torch.Tensor] = field(default_factory=list)  # [L, n, D] of a frozen encoder

    def batch(self, numbers: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask and types [B, T], and the weights of `pooled`."""
        length = max(len(self.ids[i]) for i in numbers)
        ids, mask, types = (torch.zeros(len(numbers), length, dtype=torch.long) for _ in range(3))
        rows: list[torch.Tensor] = []
        for row, i in enumerate(numbers):
            ids[row, : len(self.ids[i])] = torch.tensor(self.ids[i])
            types[row, : len(self.ids[i])] = torch.tensor(self.types[i])
            mask[row, : len(self.ids[i])] = 1
            if self.words is not None:
                own = torch.zeros(len(self.labels[i]), len(numbers) * length)
                for place, word in enumerate(self.words[i]):
                    if word is not None:
                        own[word, row * length + place] = 1
                rows.append(own)
        return ids, mask, types, torch.cat(rows) if rows else mask.float()

    def pooled(self, network: Network, numbers: Any) -> torch.Tensor:
        """The layers [L, N, D] of some texts or their words, stored or computed."""
        if self.vectors:
            return torch.cat([self.vectors[i] for i in numbers], 1)
        ids, mask, types, weights = self.batch(numbers)
        return pooled(network.layers(ids, mask, types), weights)

    @torch.no_grad()
    def store(self, network: Network) -> None:
        """Compute the frozen vectors."""
        found: list[torch.Tensor] = [torch.zeros(0)] * len(self.ids)
        for numbers in self.by_length():
            counts = [len(self.labels[i]) for i in numbers]
            for i, own in zip(numbers, self.pooled(network, numbers).split(counts, 1), strict=True):
                found[i] = own.clone()
        self.vectors = found
        if self.second is not None:
            self.second.store(network)

    def by_length(self) -> list[list[int]]:
        """Batches of texts of about one length."""
        order = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def read(options: Options) -> tuple[Data, Data, Data, list[str]]:
    """Examples that train, that choose, and that are measured; and the labels, none if they are numbers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.encoder)
    command, *flags = task_files.FLAGS[options.what]
    with TemporaryDirectory() as folder:
        paths, columns = task_files.paths(options.what, options.data, Path(folder), options.limit)
        if command == "pairs":
            files = [list(read_text_pairs(path, Columns.parse(columns, "first", "second"))) for path in paths]
        else:
            how, item = (read_sentences, "form") if command == "tag" else (read_texts, "text")
            files = [list(how(path, Columns.parse(columns, item))) for path in paths]
    number = "number" in flags
    names = [] if number else sorted({label for each in files[0] for label in _labels(each)})

    def encoded(examples: list[Example]) -> Data:
        labels = [[float(one) if number else names.index(one) for one in _labels(each)] for each in examples]
        sides: list[Any] = [[each.item for each in examples]]
        if command == "pairs":
            sides = [[each.item[side] for each in examples] for side in (0, 1)]
        split, apart = command == "tag", "siamese" in flags
        data = []
        for texts in [[side] for side in sides] if apart else [sides]:
            found = tokenizer(
                *texts, is_split_into_words=split, truncation=True, max_length=512, return_token_type_ids=True
            )
            words = [found.word_ids(i) for i in range(len(examples))] if split else None
            data.append(Data(found["input_ids"], found["token_type_ids"], words, labels))
        if apart:
            data[0].second = data[1]
        return data[0]

    train_data, choose, measured = map(encoded, files)
    return train_data, choose, measured, names


def _labels(example: Example) -> list[str]:
    return [example.label] if isinstance(example.label, str) else example.label or []


def scores(network: Network, data: Data, numbers: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [N, K] and labels [N] of some examples."""
    labels = torch.tensor([label for i in numbers for label in data.labels[i]])
    own = data.pooled(network, numbers)
    if data.second is not None:
        return network.numbers(own, data.second.pooled(network, numbers)), labels
    return network.scores(own), labels


@torch.no_grad()
def metric(network: Network, data: Data, name: str) -> float:
    """The metric of the answers."""
    network.eval()
    found, wanted = [], []
    for numbers in data.by_length():
        own, labels = scores(network, data, numbers)
        found.append(own[:, 0] if data.second is not None else own.argmax(1))
        wanted.append(labels)
    network.train()
    answers, gold = torch.cat(found).numpy(), torch.cat(wanted).numpy()
    match name:
        case "matthews":
            return float(matthews_corrcoef(gold, answers))
        case "spearman":
            return float(spearmanr(gold, answers).statistic)
    return float((answers == gold).mean())


def train(options: Options, parts: tuple[Data, Data, Data], labels: list[str], seed: int) -> float:
    """The metric on the examples that are measured, at the epoch that is best on those that choose."""
    train_data, choose, measured = parts
    torch.manual_seed(seed)
    encoder = transformers.AutoModel.from_pretrained(options.encoder, attn_implementation="sdpa")
    network = Network(encoder, max(len(labels), 1), DROPOUT).train()
    if not labels:
        gold = [label for each in train_data.labels for label in each]
        network.scale.data.fill_(max(gold) - min(gold))
        network.offset.data.fill_(min(gold))
    epochs, name = 20 if options.frozen else 3, task_files.task(options.what, options.data).metric
    if options.frozen and not train_data.vectors:
        network.encoder.eval()
        for data in parts:
            data.store(network)
    per_epoch = -(-len(train_data.ids) // BATCH)
    trainer, best, since, result = Trainer(network, options.frozen, epochs * per_epoch), -2.0, 0, 0.0
    for _ in range(epochs):
        order = torch.randperm(len(train_data.ids)).tolist()
        for start in range(0, len(order), BATCH):
            found, wanted = scores(network, train_data, order[start : start + BATCH])
            own = torch.nn.functional
            trainer.step(own.cross_entropy(found, wanted) if labels else own.mse_loss(found[:, 0], wanted))
        now = metric(network, choose, name)
        if now > best:
            best, since, result = now, 0, metric(network, measured, name)
        else:
            since += 1
        if since == PATIENCE:
            break
    return result


def main(options: Options) -> None:
    """Print the score of each seed, and their mean."""
    *parts, labels = read(options)
    found = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        found.append(100 * train(options, tuple(parts), labels, seed))
        name = task_files.task(options.what, options.data).metric
        print(f"seed {seed}: {name} {found[-1]:.2f}, {time.perf_counter() - start:.0f} s", flush=True)
    spread = f", deviation {np.std(found, ddof=1):.2f}" if len(found) > 1 else ""
    print(f"mean {np.mean(found):.2f}{spread}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
