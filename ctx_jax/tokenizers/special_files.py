"""The files beside a tokenizer's vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json.

They are heeded in the order of transformers 5: `added_tokens_decoder` of tokenizer_config.json replaces both other
files; without it special_tokens_map.json comes before tokenizer_config.json, and a tokenizer.json's added tokens before
added_tokens.json.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from ctx_jax.io.errors import InputError, brief
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.subwords import CONFIG, FILE
from ctx_jax.tokenizers.templates import BERT, ROBERTA, SpecialTokens

_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_DECODER = "added_tokens_decoder"
# In the order in which transformers adds those that a vocabulary lacks.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the second is the older name
_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")
ENDS = (("cls_token", "bos_token"), ("sep_token", "eos_token"))
"""The entries that name the begin and the end, where no class says which."""


class Added(NamedTuple):
    """A token whose id a file states."""

    token: AddedToken
    id: int
    source: str  # the file


@dataclass(frozen=True)
class Settings:
    """The entries of tokenizer_config.json, the special tokens that the files name, and the added tokens.

    `roles` are special tokens by our names of the roles ("pad", "begin"), which override the files'.
    """

    entries: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, AddedToken | None] = field(default_factory=dict)  # "pad_token" and the like; None: null
    added: tuple[Added, ...] = ()  # in the order of their ids
    extra: tuple[AddedToken, ...] = ()  # further special tokens
    file: Path = Path(CONFIG)

    @property
    def tokens(self) -> set[str]:
        """The named and added tokens as they stand in text."""
        added = [token.token for token in self.added]
        return {token.content for token in (*added, *self._named().values(), *self.extra)}

    def _named(self) -> dict[str, AddedToken]:
        return {key: token for key, token in self.named.items() if token is not None}

    @property
    def class_name(self) -> str:
        """The tokenizer's class in transformers, "" where tokenizer_config.json names none."""
        name = self.entries.get("tokenizer_class")
        if name is not None and not isinstance(name, str):
            raise InputError(f"{self.file}: tokenizer_class must be a name, got {brief(name)}")
        return name or ""

    def flags(self, defaults: Mapping[str, bool | None]) -> dict[str, bool | None]:
        """The entries with the names of `defaults`, true or false, or null where the default is None."""
        flags = {key: self.entries.get(key, default) for key, default in defaults.items()}
        for key, value in flags.items():
            if not isinstance(value, bool) and (value is not None or defaults[key] is not None):
                or_null = ", false or null" if defaults[key] is None else " or false"
                raise InputError(f"{self.file}: {key} must be true{or_null}, got {brief(value)}")
        return flags

    def special(
        self,
        family: SpecialTokens,
        vocabulary: Container[str],
        ends: Sequence[Sequence[str]] = ENDS,
        *,
        of_class: bool = False,
        fallback: bool = True,
    ) -> SpecialTokens:
        """The named roles over those of `family`. The begin is the first of the entries `ends[0]` that is named, the
        end of `ends[1]`.

        A role without a name is the family's, unless the begin is that of another one and no class says which it is
        (`of_class`). With `fallback`, where the vocabulary lacks that token, the end token
        also pads and stands for unknown pieces, as with GPT-2, and there is no mask.
        """
        keys = {"pad": ["pad_token"], "unknown": ["unk_token"], "begin": ends[0], "end": ends[1]}
        keys["mask"] = ["mask_token"]
        given = self._named()
        found = {role: [given[key].content for key in names if key in given] for role, names in keys.items()}
        named = {role: tokens[0] for role, tokens in found.items() if tokens} | dict(self.roles)
        if not of_class:
            family = next((known for known in (BERT, ROBERTA) if known.begin == named.get("begin")), family)
        roles: dict[str, str | None] = {"mask": None, **family.roles(), **named}
        if fallback and {"begin", "end"} <= named.keys():
            for role, other in (("pad", named["end"]), ("unknown", named["end"]), ("mask", None)):
                if role not in named and roles[role] not in vocabulary:
                    roles[role] = other
        return SpecialTokens(**roles)  # type: ignore[arg-type]

    def with_tokens_of(self, tokens: Any, path: Path) -> "Settings":
        """With the `added_tokens` of a tokenizer.json, unless tokenizer_config.json has a list of its own."""
        if _DECODER in self.entries or not tokens:
            return self
        if not isinstance(tokens, list) or not all(type(_get(token, "id")) is int for token in tokens):
            raise InputError(f"{path}: added_tokens must list tokens and their ids, got {brief(tokens)}")
        own = [Added(_token(token, str(path)), token["id"], str(path)) for token in tokens]
        merged = {(added.id, added.token.content): added for added in (*self.added, *own)}
        return replace(self, added=self._special(sorted(merged.values(), key=lambda token: token.id)))

    def _special(self, added: Sequence[Added]) -> tuple[Added, ...]:
        """The named ones among the added tokens are special, whatever their own flag says."""
        names = {token.content for token in self._named().values()}
        for token, *_ in added:
            token.special = token.special or token.content in names
        return tuple(added)

    def add_tokens(
        self,
        tokenizer: Tokenizer,
        special: SpecialTokens,
        defaults: Mapping[str, AddedToken] | None = None,
        behind: Container[str] = (),
    ) -> None:
        """Add the tokens in the order of their ids, then the named ones, or their `defaults`, and the further ones.

        The token of a role, one of `special`, gets no new id unless it is one of `behind`: `Subwords` refuses it where
        it is missing. InputError for one whose id is not the one its file states.
        """
        present = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
        tokens = [added.token for added in self.added if repr(added.token) not in present]
        tokenizer.add_tokens(tokens)
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        named = dict(defaults or {}) | self._named()
        order = [*_NAMED, *(key for key in named if key not in _NAMED)]
        absent = {token for token in special.roles().values() if tokenizer.token_to_id(token) is None}
        known |= {token for token in absent if token not in behind}
        # Of tokens with one content the last counts, but of those with flags, and of those without, the first.
        new: dict[tuple[str, bool], AddedToken] = {}
        for token in (*(named[key] for key in order if key in named), *self.extra):
            if token.content not in known:
                new.setdefault((token.content, repr(token) == repr(AddedToken(token.content, special=True))), token)
        tokenizer.add_tokens(list(new.values()))
        for token, number, source in self.added:
            actual = tokenizer.token_to_id(token.content)
            if number != actual:
                raise InputError(
                    f"{source} gives {token.content!r} the id {number}, but it gets {actual}: an added token keeps its "
                    "id of the vocabulary, or the ids continue the vocabulary without a gap; make the files agree"
                )


def read_settings(folder: Path) -> Settings:
    """The settings of a folder's files, each of which may be absent. InputError naming the file that is malformed."""
    file = folder / CONFIG
    config, map_, ids = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, _MAP, _ADDED)
    )
    if _DECODER in config:
        map_, ids = {}, {}
    own = _named(config, file, "__type")
    named = own | _named(map_, folder / _MAP, "content") | {key: own[key] for key in own if key not in _NAMED}
    extra = _extra(config, file)
    more = _extra({key: map_.get(key) for key in _EXTRA[: 1 if extra else 2]}, folder / _MAP)
    settings = Settings(config, {}, named, (), tuple({token.content: token for token in extra + more}.values()), file)
    if settings.flags({"split_special_tokens": False})["split_special_tokens"]:
        raise InputError(
            f"{file}: split_special_tokens is true, so special tokens in a text are cut into pieces, which a "
            f"{FILE} cannot express: set it to false"
        )
    if _DECODER in config:
        entries = config[_DECODER]
        if not isinstance(entries, Mapping) or not all(key.isdecimal() and len(key) < 10 for key in entries):
            raise InputError(f"{file}: {_DECODER} must be an object of ids and tokens, got {brief(entries)}")
        added = [Added(_token(entry, str(file)), int(number), str(file)) for number, entry in entries.items()]
    else:
        source, special = str(folder / _ADDED), settings.tokens
        for content, number in ids.items():
            if type(number) is not int:
                raise InputError(f"{source} must give each token an id, got {brief(content)}: {brief(number)}")
        added = [Added(_token(text, source, special=text in special), number, source) for text, number in ids.items()]
    added.sort(key=lambda token: token.id)
    return replace(settings, added=settings._special(added))


def _named(entries: Mapping[str, Any], file: Path, mark: str) -> dict[str, AddedToken | None]:
    """The special tokens that are named, also under names that transformers does not know; `mark` is the entry by
    which it tells a token from other objects."""
    further = [
        key
        for key, value in entries.items()
        if key.endswith("_token") and (isinstance(value, str) or _get(value, mark) is not None)
    ]
    return {
        key: None if entries[key] is None else _token(entries[key], f"{file}, {key}", special=True)
        for key in (*(key for key in _NAMED if key in entries), *further)
    }


def _extra(entries: Mapping[str, Any], file: Path) -> list[AddedToken]:
    """Further special tokens, a list or an object of them; their ids are the vocabulary's, or new ones."""
    value: Any = next((entries[key] for key in _EXTRA if entries.get(key)), [])
    tokens = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(tokens, list):
        raise InputError(f"{file}: {' or '.join(_EXTRA)} must list tokens, got {brief(value)}")
    return [_token(entry, str(file), special=True) for entry in tokens]


def _token(entry: Any, source: str, *, special: bool = False) -> AddedToken:
    """A token, which files give as a string or as an object with flags; special if `special`, else by its flag."""
    content = _get(entry, "content") if isinstance(entry, Mapping) else entry
    if not isinstance(content, str) or not content:
        raise InputError(f"{source}: an added token needs its content, got {brief(entry)}")
    flags = {name: entry[name] for name in _FLAGS if name in entry} if isinstance(entry, Mapping) else {}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise InputError(f"{source}: a flag of the added token {brief(content)} is not true or false: {brief(flags)}")
    if any("\ud800" <= letter <= "\udfff" for letter in content):
        raise InputError(f"{source}: the added token {brief(content)} holds half of a surrogate pair")
    return AddedToken(content, **(flags | ({"special": True} if special else {})))


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, Mapping) else None
