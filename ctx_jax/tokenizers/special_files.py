"""The files beside a tokenizer's vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from ctx_jax.io.errors import InputError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.subwords import CONFIG, Subwords
from ctx_jax.tokenizers.templates import BERT, ROBERTA, SpecialTokens, add_post_processor

_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_KEYS = {
    "pad": ("pad_token",),
    "unknown": ("unk_token",),
    "begin": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}
_EXTRA = ("additional_special_tokens", "extra_special_tokens")  # the first is the older name
_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")


class Added(NamedTuple):
    """A token that the files add to the vocabulary."""

    token: AddedToken
    id: int | None  # where a file states it
    has_flags: bool  # whether the file states them, which then override those of tokenizer.json
    source: str  # the file


@dataclass(frozen=True)
class Settings:
    """The entries of tokenizer_config.json, the special tokens by their roles, and the added tokens."""

    entries: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    added: tuple[Added, ...] = ()

    @property
    def tokens(self) -> set[str]:
        """The added tokens as they stand in text."""
        return {added.token.content for added in self.added}

    def special(self, family: SpecialTokens, vocabulary: Container[str]) -> SpecialTokens:
        """The named roles over those of `family`.

        A role without a name is the family's, where the vocabulary has that token; else, as with GPT-2, the end token
        also pads and stands for unknown pieces, and there is no mask.
        """
        family = next((known for known in (BERT, ROBERTA) if known.begin == self.roles.get("begin")), family)
        roles: dict[str, str | None] = {"mask": None, **family.roles(), **self.roles}
        if {"begin", "end"} <= self.roles.keys():
            for role, other in (("pad", self.roles["end"]), ("unknown", self.roles["end"]), ("mask", None)):
                if role not in self.roles and roles[role] not in vocabulary:
                    roles[role] = other
        return SpecialTokens(**roles)  # type: ignore[arg-type]

    def add_tokens(self, tokenizer: Tokenizer) -> None:
        """Add the tokens in the order of their ids; InputError for one whose id is not the one its file states."""
        tokenizer.add_tokens([added.token for added in self.added if added.has_flags])
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        new = {added.token.content: added.token for added in self.added if added.token.content not in known}
        tokenizer.add_tokens(list(new.values()))
        for token, number, _, source in self.added:
            actual = tokenizer.token_to_id(token.content)
            if number not in (None, actual):
                raise InputError(
                    f"{source} gives {token.content!r} the id {number}, but it gets {actual}: an added token keeps its "
                    "id of the vocabulary, or the ids continue the vocabulary without a gap; make the files agree"
                )


def read_settings(folder: Path) -> Settings:
    """The settings of a folder's files, each of which may be absent. InputError naming the file that is malformed."""
    config, map_, ids = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, _MAP, _ADDED)
    )
    roles = _roles(map_ | {key: value for key, value in config.items() if value is not None})
    source = str(folder / CONFIG)
    added: list[Added] = []
    extra = _extra_tokens(next((config[key] for key in reversed(_EXTRA) if config.get(key)), []), source)
    if "added_tokens_decoder" in config:  # transformers then ignores the two older files
        entries = config["added_tokens_decoder"]
        if not isinstance(entries, Mapping) or not all(number.isdecimal() for number in entries):
            raise InputError(f"{source}: added_tokens_decoder must be an object of ids and tokens, got {entries!r}")
        for number, entry in entries.items():
            token = _token(entry, source, special=_content(entry) in roles.values())
            added.append(Added(token, int(number), True, source))
    else:
        for key in _EXTRA:
            extra += _extra_tokens(map_.get(key) or [], str(folder / _MAP))
        source = str(folder / _ADDED)
        special = {*roles.values(), *(token.token.content for token in extra)}
        for content, number in ids.items():
            if type(number) is not int:
                raise InputError(f"{source} must give each token an id, got {content!r}: {number!r}")
            added.append(Added(_token(content, source, special=content in special), number, False, source))
    added.sort(key=lambda token: token.id or 0)
    return Settings(config, roles, (*added, *extra))


@contextmanager
def naming(what: str | Path) -> Iterator[None]:
    """Errors of a file's tokenizer as InputError with `what` in front.

    The Rust side raises plain `Exception`, and its panics are not even that.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {error}") from error


def complete(
    tokenizer: Tokenizer,
    special: SpecialTokens,
    path: Path,
    *,
    mask_takes_space: bool = False,
    around: bool = True,
    add_missing: bool = False,
) -> Subwords:
    """A vocabulary with its special tokens registered and, if `around`, put around texts as the family does it.

    `mask_takes_space`: the mask swallows the space before it, as the first piece of a word does in RoBERTa. Tokens
    that the vocabulary lacks get new ids if `add_missing`, else InputError naming the file.
    """
    with naming(path):
        if add_missing or not special.missing(tokenizer):
            known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
            new = {role: token for role, token in special.roles().items() if token not in known}  # known ones stay
            flagged = [AddedToken(token, lstrip=mask_takes_space and role == "mask") for role, token in new.items()]
            tokenizer.add_special_tokens(flagged)
            if around:
                add_post_processor(tokenizer, special)
        return Subwords(tokenizer, special)


def _roles(entries: Mapping[str, Any]) -> dict[str, str]:
    """The first token that is named for each role."""
    named = {role: [_content(entries.get(key)) for key in keys] for role, keys in _KEYS.items()}
    return {role: next(filter(None, tokens)) for role, tokens in named.items() if any(tokens)}


def _content(entry: Any) -> str | None:
    """The text of a token, which files give as a string or as an object with flags."""
    content = entry.get("content") if isinstance(entry, Mapping) else entry
    return content if isinstance(content, str) else None


def _extra_tokens(value: Any, source: str) -> list[Added]:
    """Further special tokens, a list or an object of them; their ids are the vocabulary's, or new ones."""
    entries = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise InputError(f"{source}: {' or '.join(_EXTRA)} must list tokens, got {value!r}")
    return [Added(_token(entry, source, special=True), None, False, source) for entry in entries]


def _token(entry: Any, source: str, *, special: bool) -> AddedToken:
    content = _content(entry)
    if not content:
        raise InputError(f"{source}: an added token needs its content, got {entry!r}")
    flags = {name: entry[name] for name in _FLAGS if name in entry} if isinstance(entry, Mapping) else {}
    try:
        return AddedToken(content, **(flags | ({"special": True} if special else {})))
    except TypeError as error:
        raise InputError(f"{source}: a flag of the added token {content!r} is not true or false: {flags}") from error
