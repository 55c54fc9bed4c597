"""ByT5's tokenizer, which has no vocabulary file: a piece is a byte of UTF-8 (Xue et al. 2022)."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from ctx_jax.io.errors import InputError, brief
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subwords import Subwords, naming
from ctx_jax.tokenizers.templates import T5

CLASS = "ByT5Tokenizer"
_FIRST = (T5.pad, T5.end, T5.unknown)  # ids 0, 1 and 2; the bytes follow


def byte_tokenizer(settings: Settings, path: Path) -> Subwords:
    """The tokenizer that `settings` describe: ids are bytes + 3, `</s>` follows a text, and behind the bytes are the
    tokens that the files list, or else `extra_ids` sentinels. InputError for special tokens of other names; `path` is
    where they come from."""
    extra = settings.entries.get("extra_ids", 125)
    if type(extra) is not int or not 0 <= extra < 10**6:
        raise InputError(f"{path}: extra_ids must be a number of tokens, got {brief(extra)}")
    if (special := settings.special(T5, _FIRST, ((), ("eos_token",)), of_class=True, fallback=False)) != T5:
        raise InputError(f"{path}: the tokens of a {CLASS} must be {T5}, got {special}")
    letters = _letters()
    ids = {token: number for number, token in enumerate((*_FIRST, *letters))}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [(T5.end, 1)]
    tokenizer.post_processor = processors.TemplateProcessing(["$A", T5.end], ["$A", T5.end, "$B", T5.end], ends)
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True) for token in _FIRST])
    if not (settings.added or settings.extra):
        tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in range(extra)])
    with naming(path):
        settings.add_tokens(tokenizer, special)
        return Subwords(tokenizer, T5)


def _letters() -> list[str]:
    """The character by which `ByteLevel` stands for each byte, in the bytes' order: itself where it can be printed,
    else one beyond the bytes (Radford et al. 2019)."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    return [chr(byte if byte in printed else 0x100 + others.index(byte)) for byte in range(0x100)]
