"""Small data sets in the formats of those that encoders are measured with, of made-up words, and a fake encoder."""

import io
import json
import lzma
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ctx_jax.data.context_pairs import ContextPair

SENSES = ("wug", "wug_(bird)", "wug_(tool)")
TOPICS = {"wug": "stone", "wug_(bird)": "sings", "wug_(tool)": "hammer"}
"""A word beside the target that tells its sense."""


def write_coarse(folder: Path, words: Sequence[str] = ("wug", "dax"), *, train: int = 12, test: int = 9) -> Path:
    """CoarseWSD-20's layout; the senses of every third sentence are rarer. Returns the data set's folder."""
    random = np.random.default_rng(0)
    for word in words:
        own = folder / "Coarse" / word
        own.mkdir(parents=True)
        (own / "classes_map.txt").write_text(json.dumps({str(i): sense for i, sense in enumerate(SENSES)}))
        for part, count in (("train", train), ("test", test)):
            labels = [*range(len(SENSES)), *random.choice(len(SENSES), count - len(SENSES), p=[0.6, 0.3, 0.1])]
            lines = []
            for number, label in enumerate(labels):
                before = [f"w{number}"] * int(random.integers(0, 4))
                lines.append(f"{len(before)}\t{' '.join([*before, word, TOPICS[SENSES[label]], 'end'])}")
            # As in the original, no line end behind the last line.
            (own / f"{part}.data.txt").write_text("\n".join(lines))
            (own / f"{part}.gold.txt").write_text("\n".join(map(str, labels)))
    return folder / "Coarse"


def write_tar(folder: Path, path: Path) -> Path:
    """A folder as a tar archive, without times and owners."""
    with tarfile.open(path, "w:xz") as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            data = file.read_bytes()
            member = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


SEMCOR = """<contextfile concordance=brown>
<context filename=br-x01 paras=yes>
<p pnum=1>
<s snum=1>
<wf cmd=ignore pos=DT>The</wf>
<wf cmd=done pos=NN lemma=wug wnsn=1 lexsn=1:05:00::>wugs</wf>
<wf cmd=done pos=VB lemma=run_off wnsn=2 lexsn=2:38:01::>ran_off</wf>
<punc>.</punc>
</s>
<s snum=2>
<wf cmd=done rdf=group pos=NNP lemma=group wnsn=1 lexsn=1:03:00:: pn=group>Dax_Wug_Club</wf>
<wf cmd=done pos=JJ lemma=red wnsn=0 lexsn=5:00:00:coloured:00>red</wf>
<wf cmd=done pos=NN lemma=wug wnsn=2;1 lexsn=1:06:00::;1:05:00::>wug</wf>
<wf cmd=done pos=JJ lemma=sharp wnsn=1 lexsn=5:00:00:keen:00>sharp</wf>
<wf cmd=done pos=NN lemma=wug wnsn=1 lexsn=1:05:00::>wug</wf>
</s>
</p>
</context>
</contextfile>
"""


def write_semcor(folder: Path) -> Path:
    """SemCor's layout."""
    own = folder / "semcor3.0" / "brown1" / "tagfiles"
    own.mkdir(parents=True)
    (own / "br-x01").write_text(SEMCOR)
    return folder / "semcor3.0"


XML = """<?xml version="1.0" encoding="UTF-8" ?>
<corpus lang="en" source="{name}">
<text id="d000">
<sentence id="d000.s000">
<wf lemma="the" pos="DET">The</wf>
<instance id="d000.s000.t000" lemma="wug" pos="NOUN">wug</instance>
<instance id="d000.s000.t001" lemma="run_off" pos="VERB">ran off</instance>
<wf lemma="." pos=".">.</wf>
</sentence>
<sentence id="d000.s001">
<instance id="d000.s001.t000" lemma="sharp" pos="NOUN">sharps</instance>
<instance id="d000.s001.t001" lemma="dax" pos="NOUN">dax</instance>
<instance id="d000.s001.t002" lemma="sharp" pos="ADJ">sharp</instance>
</sentence>
</text>
</corpus>
"""
GOLD = """d000.s000.t000 wug%1:05:00:: wug%1:09:00::
d000.s000.t001 run_off%2:38:01::
d000.s001.t000 sharp%1:10:00::
d000.s001.t001 dax%1:05:00::
d000.s001.t002 sharp%3:00:01::
"""


def write_framework(folder: Path, name: str = "senseval2") -> Path:
    """A test set of the framework, compressed. Returns its folder."""
    (folder / f"{name}.data.xml.xz").write_bytes(lzma.compress(XML.format(name=name).encode()))
    (folder / f"{name}.gold.key.txt").write_text(GOLD)
    return folder


def write_wic(path: Path, pairs: Iterable[tuple[str, str, str, int]]) -> Path:
    """(word, sentence, sentence, label) each."""
    rows = [
        {"label": label, "text": f"Word: {word}. Sentence 1: {first} Sentence 2: {second}"}
        for word, first, second, label in pairs
    ]
    path.write_bytes(lzma.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
    return path


PLACED = [
    ContextPair("wug", ["The", "wug", "sang", "."], ["Two", "wugs", "!"], True, (1, 1)),
    ContextPair("dax", ["Daxes", "did", "n't", "dax", "."], ["A", "dax"], False, (3, 1)),
]


def write_release(folder: Path, pairs: Sequence[ContextPair] = PLACED) -> Path:
    """WiC as its authors publish it. Returns its folder."""
    (folder / "dev").mkdir(parents=True)
    data, gold = "", ""
    for word, first, second, same, places in pairs:
        assert places is not None
        data += f"{word}\tN\t{places[0]}-{places[1]}\t{' '.join(first)}\t{' '.join(second)}\n"
        gold += "FT"[same] + "\n"
    (folder / "dev" / "dev.data.txt").write_text(data)
    (folder / "dev" / "dev.gold.txt").write_text(gold)
    return folder


def write_superglue(path: Path) -> Path:
    """`PLACED` as SuperGLUE publishes WiC."""
    rows = [
        {"word": "wug", "sentence1": "The wug sang.", "sentence2": "Two wugs!", "idx": 0, "label": True,
         "start1": 4, "end1": 7, "start2": 4, "end2": 8},
        {"word": "dax", "sentence1": "Daxes didn't dax.", "sentence2": "A dax", "idx": 1, "label": 0,
         "start1": 13, "end1": 16, "start2": 2, "end2": 5},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_blimp(folder: Path, paradigms: dict[str, list[tuple[str, str]]]) -> Path:
    """(good, bad) of each paradigm."""
    folder.mkdir(exist_ok=True)
    for name, pairs in paradigms.items():
        rows = [{"sentence_good": good, "sentence_bad": bad, "UID": name, "field": "syntax"} for good, bad in pairs]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


class FakeEncoder:
    """Vectors [L, T, D] by a function of (sentence, place); what evaluators need of `Encoder`."""

    def __init__(self, layers: int, vectors: "VectorFunction") -> None:
        self.model = SimpleNamespace(num_layers=layers)
        self._vectors = vectors
        self.read = 0

    def encode(self, sentences: Iterable[Sequence[str]], *, layers: tuple[int, ...]) -> Iterator[np.ndarray]:
        for sentence in sentences:
            self.read += 1
            values = np.stack([self._vectors(sentence, place) for place in range(len(sentence))], axis=1)
            yield values[list(layers)].astype(np.float32)


class VectorFunction:
    """Layer 0: the spelling alone. Layer 1: the word after it, with some noise."""

    def __call__(self, sentence: Sequence[str], place: int) -> np.ndarray:
        word, after = sentence[place], sentence[min(place + 1, len(sentence) - 1)]
        noise = of_spelling(" ".join(sentence)) * 0.1
        return np.stack([of_spelling(word), of_spelling(after) + noise])


def of_spelling(text: str) -> np.ndarray:
    """A random vector [D] for each text."""
    return np.random.default_rng(list(text.encode())).normal(size=8)
