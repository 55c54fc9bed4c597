"""SentencePiece's character map (`precompiled_charsmap`) as normalizers of `tokenizers` that give what SentencePiece
gives.

The map is a double array of Darts (a trie over bytes) and the texts that its keys become. SentencePiece replaces the
longest key at each place. `normalizers.Precompiled` looks at one grapheme at a time: it replaces those of less than 6
bytes by what their first character becomes, and in longer ones finds keys of one character only.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers

_BETWEEN, _WITHIN = "\ufdd1", "\ufdd2"  # noncharacters, which no text has: between two keys, and within one
_MOST_RULES = 256
_FEW = 8
Trie = dict[str, Any]  # characters to tries; "" marks the end of a key


@lru_cache(maxsize=1)
def character_map(content: bytes) -> Mapping[str, str]:
    """What every key becomes. ValueError for a damaged map."""
    if not content:
        return {}
    size = int.from_bytes(content[:4], "little")
    if size % 4 or not 0 < size <= len(content) - 4:
        raise ValueError(f"its trie of {size} bytes does not fit {len(content)} bytes")
    units, texts = np.frombuffer(content, "<u4", size // 4, 4).astype(np.int64), content[4 + size :]
    places = np.arange(len(units))
    bases = places ^ ((units >> 10) << ((units & 0x200) >> 6))
    labels = units & 0xFF
    children = np.flatnonzero((units >> 31 == 0) & (labels > 0))  # they lie at the base of their parent ^ their label
    parents = children ^ labels[children]
    order = np.argsort(parents, kind="stable")
    children, parents = children[order], parents[order]
    found: dict[bytes, bytes] = {}
    nodes, keys = np.zeros(1, np.int64), np.zeros((1, 0), np.uint8)  # [N] and [N, depth], of all keys of one length
    while len(nodes):
        ends = nodes[(units[nodes] >> 8) & 1 == 1]
        if (bases[nodes] >= len(units)).any() or keys.shape[1] > 64 or len(found) + len(nodes) > 1 << 21:
            raise ValueError("its trie points beyond its end")
        rows = keys[(units[nodes] >> 8) & 1 == 1]
        for key, start in zip(rows, (units[bases[ends]] & 0x7FFFFFFF).tolist(), strict=True):
            found[key.tobytes()] = texts[start : texts.index(0, start)]  # ValueError where there is none
        first, last = (np.searchsorted(parents, bases[nodes], side) for side in ("left", "right"))
        parent = np.repeat(np.arange(len(nodes)), last - first)
        starts = np.repeat(first - np.cumsum(last - first) + (last - first), last - first)
        nodes = children[starts + np.arange(len(parent))]
        keys = np.concatenate([keys[parent], labels[nodes, None].astype(np.uint8)], axis=1)
    return {key.decode(): text.decode() for key, text in found.items()}  # UnicodeDecodeError is a ValueError


@lru_cache(maxsize=8)
def mapping_normalizers(content: bytes) -> tuple[Any, ...]:
    """Normalizers that do together what the map does in SentencePiece. ValueError for a damaged map, and for one with
    keys of several characters that cannot be expressed.

    Where a key begins and ends is marked first. Then every character becomes what it becomes alone, and canonical
    composition (NFC) within a key's marks does the rest: `ﾌﾟ` to `フ` and a combining mark, to `プ`. Keys for which
    that is not what the map says are replaced before.
    """
    entries = character_map(content)
    if not entries:
        return ()
    alone = {key: text for key, text in entries.items() if len(key) == 1}
    several = {key: text for key, text in entries.items() if len(key) > 1}
    table = {ord(key): text for key, text in alone.items()}

    def composed(texts: Iterable[str]) -> list[str]:
        return normalizers.NFC().normalize_str(_BETWEEN.join(texts).translate(table)).split(_BETWEEN)

    rules: dict[str, list[str]] = {}
    for key, text, made in zip(several, several.values(), composed(several) if several else (), strict=True):
        if made != text:
            rules.setdefault(text, []).append(key)
    if rules and composed(rules) != list(rules):
        raise ValueError("it turns several characters into a text, and that into another one")
    if len(rules) > _MOST_RULES or {_BETWEEN, _WITHIN} & alone.keys():
        raise ValueError(f"it has {len(rules)} results of several characters that are no composition of theirs")
    later = {letter for key in several for letter in key[1:]}  # than first in a key, or composed with what is before
    later |= {key for key, text in alone.items() if text[:1] in later or unicodedata.combining(text[:1] or " ")}
    attached = rf"\p{{M}}{_letters(later)}"
    steps: list[Any] = []
    if several:
        key = _pattern(_trie(several))
        # \G: where the last match ended; \K: what is matched before it stays. Insertions at either end of a text make
        # `Precompiled` panic.
        steps.append(_replace(rf"\G(?>(?m:(?:[^{attached}](?![{attached}]))+|{key}|.))\K(?!\z)", _BETWEEN))
    for text, keys in rules.items():
        # A search for plain characters is ten times as fast.
        whole = rf"(?<=\A|{_BETWEEN}){_pattern(_trie(keys))}"
        plain = ["".join(rf"\x{{{ord(letter):X}}}" for letter in key) for key in keys]
        patterns = [rf"{key}(?<=\A{key}|{_BETWEEN}{key})" for key in plain] if len(keys) < _FEW else [whole]
        steps += [_replace(rf"{pattern}(?={_BETWEEN}|\z)", text) for pattern in patterns]
    # So that every character is a grapheme.
    steps.append(_replace(rf"(?!\A)(?=[{attached}\p{{Cf}}\x{{1F3FB}}-\x{{1F3FF}}])|(?<=\r)(?=\n)", _WITHIN))
    steps += [normalizers.Precompiled(content), normalizers.Replace(_WITHIN, "")]
    if several:
        steps += [normalizers.NFC(), normalizers.Replace(_BETWEEN, "")]
    return tuple(steps)


def _replace(pattern: str, text: str) -> Any:
    return normalizers.Replace(Regex(pattern), text)


def _trie(keys: Iterable[str]) -> Trie:
    root: Trie = {}
    for key in keys:
        node = root
        for letter in key:
            node = node.setdefault(letter, {})
        node[""] = {}
    return root


def _pattern(node: Trie) -> str:
    """A regular expression that finds the longest key."""
    by_rest: dict[str, list[str]] = {}
    for letter, rest in node.items():
        if letter:
            by_rest.setdefault(_pattern(rest), []).append(letter)
    if not by_rest:
        return ""
    branches = "|".join(f"[{_letters(letters)}]{rest}" for rest, letters in by_rest.items())
    return f"(?:{branches}){'?' if '' in node else ''}"


def _letters(letters: Iterable[str]) -> str:
    """The inside of a class of characters, with ranges."""
    numbers = sorted(map(ord, letters))
    first = [number for place, number in enumerate(numbers) if place == 0 or numbers[place - 1] != number - 1]
    last = [number for place, number in enumerate(numbers) if numbers[place + 1 : place + 2] != [number + 1]]
    return "".join(rf"\x{{{low:X}}}-\x{{{high:X}}}" for low, high in zip(first, last, strict=True))
