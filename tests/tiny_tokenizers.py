"""Small vocabularies of each kind of tokenizer, and folders of their files, for several test files."""

import json
from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "The", "##s", "é", "e", "<", "s", ">", "/", "東", "京"]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "a", "b", "Ġ", "Ġa", "Ġb", "<", ">", "[", "]"]
ENDS = [*BYTES[:5], "t", "h", "e", "the</w>", "cat</w>", "c", "a", "t</w>", "e</w>", "th", "ca", "é</w>", "e", "东</w>"]
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -2.0), ("▁", -3.0), ("t", -4.0),
          ("▁cat", -2.5), ("s", -3.5), ("<s>NOTUSED", 0.0), ("</s>NOTUSED", 0.0), ("<unk>NOTUSED", -100.0),
          ("<mask>", 0.0)]  # fmt: skip


def put(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
