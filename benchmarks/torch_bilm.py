"""The biLM in standard torch modules: the other side of `elmo.py`, and an independent reference of the model.

`nn.Embedding`, `nn.Conv1d`, `nn.Linear`, `nn.LSTM(proj_size=...)`, written from the description of the network and not
from our code. `nn.LSTM` clips neither state nor projection, so clips are off on both sides. It has two biases where the
network has one: the second is zero and trained too, at no measurable cost.

Letters: B rows, T tokens, C characters, N words, F filters in all, D state, P projection, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctx_jax.encoders.elmo.model import BiLM

Params = Mapping[str, Any]


class CharacterEncoder(nn.Module):
    """Character ids [N, C], 0 where there is no token -> token vectors [N, P]."""

    def __init__(self, model: BiLM, dedup: bool) -> None:
        super().__init__()
        width = sum(count for _, count in model.filters)
        self.embedding = nn.Embedding(262, model.character_dim, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(model.character_dim, n, w) for w, n in model.filters)
        self.highways = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(model.highways))
        self.projection = nn.Linear(width, model.projection) if width != model.projection else nn.Identity()
        self.activation = torch.relu if model.activation == "relu" else torch.tanh
        self.dedup = dedup
        mixing = torch.randint(-(2**62), 2**62, (model.max_characters,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("mixing", mixing, persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        if not self.dedup:
            return self.encode(words)
        # Rows are compared by a 64-bit hash, which two words of one batch never share in practice.
        _, row = torch.unique((words * self.mixing).sum(-1), return_inverse=True)
        first = torch.zeros(int(row.max()) + 1, dtype=torch.long, device=words.device)
        first.scatter_(0, row, torch.arange(len(row), device=words.device))
        return self.encode(words[first])[row]

    def encode(self, words: Tensor) -> Tensor:
        """Token vectors of every row of `words`."""
        characters = self.embedding(words).transpose(1, 2)
        vectors = torch.cat([self.activation(filters(characters).amax(-1)) for filters in self.convolutions], -1)
        for highway in self.highways:
            transformed, gate = highway(vectors).chunk(2, -1)
            gate = torch.sigmoid(gate)
            vectors = gate * torch.relu(transformed) + (1 - gate) * vectors
        return self.projection(vectors)


class TorchBiLM(nn.Module):
    """The network of a `BiLM` without clips: every layer (`forward`) and the loss of exact softmaxes (`loss`)."""

    def __init__(self, model: BiLM, *, vocabulary: int = 0, dedup: bool = False) -> None:
        super().__init__()
        if model.cell != "lstm" or model.cell_clip is not None or model.projection_clip is not None:
            raise ValueError("nn.LSTM clips nothing: set cell='lstm', cell_clip=None, projection_clip=None")
        self.model = model
        if model.token_input == "characters":
            self.tokens: nn.Module = CharacterEncoder(model, dedup)
        else:
            self.tokens = nn.Embedding(model.vocabulary, model.projection)
        projected = 0 if model.projection == model.dim else model.projection
        self.directions = nn.ModuleList(
            nn.ModuleList(nn.LSTM(model.projection, model.dim, proj_size=projected) for _ in range(model.depth))
            for _ in range(2)
        )
        if vocabulary:
            self.softmax = nn.Linear(model.projection, vocabulary)

    def token_vectors(self, ids: Tensor) -> Tensor:
        """char_ids [B, T, C] or word ids [B, T] (negative: no token) -> [B, T, P]."""
        if self.model.token_input == "words":
            return self.tokens(ids.clamp_min(0))
        return self.tokens(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])

    def stack(self, direction: int, inputs: Tensor) -> list[Tensor]:
        """Every layer of one direction over [T, B, P], in reading order of that direction."""
        outputs = []
        for layer, lstm in enumerate(self.directions[direction]):
            hidden, _ = lstm(inputs)
            inputs = hidden + inputs if layer > 0 and self.model.residual else hidden
            outputs.append(inputs)
        return outputs

    def forward(self, ids: Tensor) -> Tensor:
        """Ids with markers, [B, T + 2, C] or [B, T + 2] -> every layer [L + 1, B, T, 2P], zero past the end."""
        present = (ids > 0).any(-1) if ids.dim() == 3 else ids >= 0
        vectors = self.token_vectors(ids).transpose(0, 1)
        steps, rows = vectors.shape[:2]
        position = torch.arange(steps, device=ids.device)[:, None]
        ends = present.sum(1)[None]
        mirror = torch.where(position < ends, ends - 1 - position, position)[
            ..., None
        ]  # [T + 2, B, 1], its own inverse

        def reverse(values: Tensor) -> Tensor:
            return values.gather(0, mirror.expand(steps, rows, values.shape[-1]))

        ahead = self.stack(0, vectors)
        behind = [reverse(layer) for layer in self.stack(1, reverse(vectors))]
        layers = [torch.cat([vectors, vectors], -1)]
        layers += [torch.cat(pair, -1) for pair in zip(ahead, behind, strict=True)]
        inside = position[1:-1] < ends - 1  # markers stripped: the last one stands at `ends - 1`
        return torch.stack([layer[1:-1] * inside[..., None] for layer in layers]).transpose(1, 2)

    def loss(self, ids: Tensor, ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of each direction over whole sentences of one length; every token is encoded once.

        Args:
          ids: [B, T + 1, C], char_ids of `<S> w1 ... wn </S>`; T = n + 1.
          ahead: [B, T], vocabulary ids of the forward targets w1 ... wn </S>.
          behind: [B, T], of the reverse targets, in reading order wn ... w1 <S>.
        """
        vectors = self.token_vectors(ids).transpose(0, 1)
        hidden = torch.cat([self.stack(0, vectors[:-1])[-1], self.stack(1, vectors.flip(0)[:-1])[-1]], 1)
        targets = torch.cat([ahead, behind]).T  # [T, 2B], as `hidden` [T, 2B, P]
        nats = functional.cross_entropy(self.softmax(hidden).flatten(0, 1).float(), targets.flatten(), reduction="none")
        both = nats.view(targets.shape).mean(0)
        return both[: len(ahead)].mean(), both[len(ahead) :].mean()


@torch.no_grad()
def load_params(network: TorchBiLM, params: Params) -> TorchBiLM:
    """Copy our parameters, {"encoder", "head"}, into `network`; returns it."""
    model, tensor = network.model, _tensor
    decoder, params = params["head"]["softmax"]["decoder"], params["encoder"]
    if model.token_input == "characters":
        tokens = network.tokens
        tokens.embedding.weight[1:] = tensor(params["characters"]["embedding"])
        tokens.embedding.weight[0] = 0
        for index, module in enumerate(tokens.convolutions):
            ours = params[f"convolution_{index}"]
            module.weight.copy_(tensor(ours["kernel"]).permute(2, 1, 0))
            module.bias.copy_(tensor(ours["bias"]))
        for index, module in enumerate(tokens.highways):
            ours = params[f"highway_{index}"]
            module.weight.copy_(torch.cat([tensor(ours["kernel"]).T, tensor(ours["gate_kernel"]).T]))
            module.bias.copy_(torch.cat([tensor(ours["bias"]), tensor(ours["gate_bias"])]))
        if "projection" in params:
            tokens.projection.weight.copy_(tensor(params["projection"]["kernel"]).T)
            tokens.projection.bias.copy_(tensor(params["projection"]["bias"]))
    else:
        network.tokens.weight.copy_(tensor(params["words"]["embedding"]))
    for name, direction in zip(("forward", "backward"), network.directions, strict=True):
        for layer, lstm in enumerate(direction):
            _load_lstm(lstm, params[f"{name}_{layer}"])
    if hasattr(network, "softmax"):
        network.softmax.weight.copy_(tensor(decoder["matrix"]))
        network.softmax.bias.copy_(tensor(decoder["bias"]))
    return network


def _load_lstm(lstm: nn.LSTM, ours: Params) -> None:
    """Our gates i, j, f, o are torch's i, g, f, o, which it orders i, f, g, o. The forget bias includes the 1 here."""
    kernel, bias = _tensor(ours["kernel"]).T, _tensor(ours["bias"])
    i, j, f, o = kernel.chunk(4)
    kernel = torch.cat([i, f, j, o])
    lstm.weight_ih_l0.copy_(kernel[:, : lstm.input_size])
    lstm.weight_hh_l0.copy_(kernel[:, lstm.input_size :])
    i, j, f, o = bias.chunk(4)
    lstm.bias_ih_l0.copy_(torch.cat([i, f + 1, j, o]))
    lstm.bias_hh_l0.zero_()
    if lstm.proj_size:
        lstm.weight_hr_l0.copy_(_tensor(ours["projection"]).T)


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values))
