"""What stands beside a tokenizer's vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from ctx_jax.io.errors import InputError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.subwords import CONFIG, Subwords
from ctx_jax.tokenizers.templates import BERT, ROBERTA, SpecialTokens, surround

_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_KEYS = {
    "pad": ("pad_token",),
    "unknown": ("unk_token",),
    "begin": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}
# The first is the older name.
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")


class Added(NamedTuple):
    """A token that the files put beside the vocabulary's own."""

    token: AddedToken
    id: int | None  # where a file states it
    flags: bool  # whether the file states those as well, which then stand above a tokenizer.json's
    source: str  # the file that does


@dataclass(frozen=True)
class Settings:
    """The entries of tokenizer_config.json, the special tokens by their roles, and the tokens that are added."""

    entries: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    added: tuple[Added, ...] = ()

    @property
    def tokens(self) -> set[str]:
        """The added tokens as they stand in text."""
        return {one.token.content for one in self.added}

    def special(self, family: SpecialTokens, held: Container[str]) -> SpecialTokens:
        """The named roles over `family`'s; `held`: the tokens there are.

        A role without a name is the family's, where the vocabulary has that token; else a text's end pads it and
        stands for what is unknown, as with GPT-2, and there is no mask.
        """
        family = next((known for known in (BERT, ROBERTA) if known.begin == self.roles.get("begin")), family)
        roles: dict[str, str | None] = {**family.roles(), **self.roles}
        roles.setdefault("mask", None)
        if {"begin", "end"} <= self.roles.keys():
            for role, other in (("pad", self.roles["end"]), ("unknown", self.roles["end"]), ("mask", None)):
                if role not in self.roles and roles[role] not in held:
                    roles[role] = other
        return SpecialTokens(**roles)  # type: ignore[arg-type]

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Make the added tokens known, in the order of their ids; ValueError for one that gets another id than its
        file states."""
        tokenizer.add_tokens([one.token for one in self.added if one.flags])
        known = {one.content for one in tokenizer.get_added_tokens_decoder().values()}
        more = {one.token.content: one.token for one in self.added if one.token.content not in known}
        tokenizer.add_tokens(list(more.values()))
        for token, number, _, source in self.added:
            got = tokenizer.token_to_id(token.content)
            if number is not None and got != number:
                raise InputError(
                    f"{source} gives {token.content!r} the id {number}, but it gets {got}: an added token's id is its "
                    "own in the vocabulary, or follows the vocabulary without a gap; make the files agree"
                )


def read_settings(folder: Path) -> Settings:
    """What the files of a folder say; all may be absent. ValueError naming the file for what cannot be."""
    config, map_, ids = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, _MAP, _ADDED)
    )
    roles = _roles(map_ | {key: value for key, value in config.items() if value is not None})
    where = str(folder / CONFIG)
    added: list[Added] = []
    extra: Any = next((config[key] for key in reversed(_EXTRA) if config.get(key)), [])
    extras = _extras(extra, where)
    if "added_tokens_decoder" in config:  # transformers then leaves the two older files alone
        stated = config["added_tokens_decoder"]
        if not isinstance(stated, Mapping):
            raise InputError(f"{where}: added_tokens_decoder must be an object, got {stated!r}")
        for number, entry in stated.items():
            if not number.isdecimal() or not isinstance(entry, Mapping):
                raise InputError(
                    f"{where}: added_tokens_decoder must give each id an object, got {number!r}: {entry!r}"
                )
            added.append(Added(_token(entry, where, entry.get("content") in roles.values()), int(number), True, where))
    else:
        for key in _EXTRA:
            extras += _extras(map_.get(key) or [], str(folder / _MAP))
        special = {*roles.values(), *(one.token.content for one in extras)}
        for token, number in ids.items():
            if type(number) is not int:
                raise InputError(f"{folder / _ADDED} must give each token an id, got {token!r}: {number!r}")
            entry = {"content": token, "special": token in special, "normalized": token not in special}
            added.append(Added(_token(entry, where), number, False, str(folder / _ADDED)))
    added.sort(key=lambda one: one.id or 0)
    return Settings(config, roles, (*added, *extras))


def surrounded(
    tokenizer: Tokenizer, special: SpecialTokens, path: Path, *, mask_takes_space: bool, add_missing: bool = False
) -> Subwords:
    """`finished` behind `templates.surround`; the tokens that the files added keep their flags."""
    said = list(tokenizer.get_added_tokens_decoder().values())
    try:
        surround(tokenizer, special, mask_takes_space=mask_takes_space, add_missing=add_missing)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    tokenizer.add_tokens(said)  # their flags stand above the family's
    return finished(tokenizer, special, path)


def finished(tokenizer: Tokenizer, special: SpecialTokens, path: Path) -> Subwords:
    """The tokenizer of a file; ValueError naming it for one that cannot be used."""
    try:
        return Subwords(tokenizer, special)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _roles(entries: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for role, keys in _KEYS.items():
        for key in keys:
            value = entries.get(key)
            token = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(token, str):
                found.setdefault(role, token)
    return found


def _extras(value: Any, where: str) -> list[Added]:
    """Further special tokens, a list or an object of them; their ids are the vocabulary's, or new ones."""
    entries = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise InputError(f"{where}: {' or '.join(_EXTRA)} must list tokens, got {value!r}")
    return [
        Added(_token({"content": one} if isinstance(one, str) else one, where, True), None, False, where)
        for one in entries
    ]


def _token(entry: Any, where: str, special: bool = False) -> AddedToken:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    if not isinstance(content, str) or not content:
        raise InputError(f"{where}: an added token needs its content, got {entry!r}")
    flags = {name: entry[name] for name in _FLAGS if name in entry} | ({"special": True} if special else {})
    if wrong := [name for name, value in flags.items() if not isinstance(value, bool)]:
        raise InputError(f"{where}: {wrong[0]} of the added token {content!r} must be true or false")
    return AddedToken(content, **flags)
