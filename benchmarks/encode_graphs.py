"""onnxruntime's and openvino's sides of `encode.py`: one vector a text from an exported graph, in float32 and int8.

sentence-transformers' own backend for onnxruntime needs optimum-onnx, which pip does not install beside transformers
5.24. So the network with mean pooling and division by the length is exported here by `torch.onnx`, and fed by the
folder's tokenizer.

int8: onnxruntime quantises weights ahead, by channel, and activations at run time (`quantize_dynamic`); openvino's
graph is quantised by nncf for Transformers, which reads a few hundred sentences to set the ranges of activations.
"""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_sides import Contender, sorted_batches
from transformers import AutoModel, AutoTokenizer

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # token ids and mask, int64 [B, S] -> vectors [B, D]


class TextVectors(torch.nn.Module):
    """Token ids and mask [B, S] -> the mean of the last layer's tokens, divided by its length [B, D]."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)


class Graphs:
    """The exported graph of one folder, in a temporary folder that lives as long as this."""

    def __init__(self, folder: str, length: int, calibration: Sequence[str]) -> None:
        self._source, self._length, self._calibration = folder, length, calibration
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    @cached_property
    def _graph(self) -> str:
        """float32."""
        path = str(Path(self._folder.name, "float32.onnx"))
        network = TextVectors(AutoModel.from_pretrained(self._source)).eval()
        ids, mask = (
            torch.ones(3, 17, dtype=torch.long),
            torch.ones(3, 17, dtype=torch.long),
        )  # one tensor would be one input
        axes = {0: torch.export.Dim("rows", min=1, max=4_096), 1: torch.export.Dim("length", min=2, max=512)}
        names = {"input_names": ["ids", "mask"], "output_names": ["vectors"]}
        torch.onnx.export(network, (ids, mask), path, dynamo=True, dynamic_shapes=(axes, axes), verbose=False, **names)
        return path

    def contenders(self) -> dict[str, Callable[[], Contender]]:
        return {
            "onnxruntime fp32": lambda: self._contender(self._onnxruntime(self._graph)),
            "onnxruntime int8": lambda: self._contender(self._onnxruntime(self._quantised())),
            "openvino fp32": lambda: self._contender(self._openvino(quantised=False)),
            "openvino int8": lambda: self._contender(self._openvino(quantised=True)),
        }

    def _contender(self, run: Run) -> Contender:
        def encode(sentences: Sequence[str], size: int) -> Iterator[np.ndarray]:
            vectors: list[Any] = [None] * len(sentences)
            for numbers in sorted_batches([*map(len, sentences)], size):  # by characters, as sentence-transformers
                for number, vector in zip(numbers, run(*self._batch([sentences[n] for n in numbers])), strict=True):
                    vectors[number] = vector
            yield from vectors

        return Contender(encode)

    def _batch(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        settings = {"padding": True, "truncation": True, "max_length": self._length, "return_tensors": "np"}
        batch = self._tokenizer(sentences, **settings)
        return batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)

    def _onnxruntime(self, graph: str) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]

    def _quantised(self) -> str:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = str(Path(self._folder.name, "int8.onnx"))
        quantize_dynamic(self._graph, path, weight_type=QuantType.QInt8, per_channel=True)  # as optimum has it
        return path

    def _openvino(self, quantised: bool) -> Run:
        import openvino

        core = openvino.Core()
        model = core.read_model(self._graph)
        if quantised:
            import nncf

            batches = [self._batch(self._calibration[i : i + 8]) for i in range(0, len(self._calibration), 8)]
            data = nncf.Dataset(batches, list)
            model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=max(1, len(batches)))
        # Without the hint, openvino computes in bf16 where a processor has it; that is no float32.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = core.compile_model(model, "CPU", settings)
        return lambda ids, mask: compiled([ids, mask])[0]


def made(name: str, make: Callable[[], Contender], sentences: Sequence[str]) -> Contender | None:
    """The side, run once; None, and the reason printed, where it cannot run here."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            contender = make()
            contender.run(sentences[:8], 8)
    except Exception as error:  # whatever exporters and quantisers raise
        print(f"{name} is left out: {type(error).__name__}: {str(error).strip().splitlines()[:1]}", flush=True)
        return None
    finally:
        logging.disable(logging.NOTSET)
    return contender
