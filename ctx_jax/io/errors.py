"""The errors of the library: each is also the built-in error that fits it, and its message is written for the user.

The command line prints a `CtxJaxError` as one line; any other exception keeps its traceback. `brief` and `listed` keep
a message short whatever a damaged file holds.
"""

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 4, 10, 10, 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 120


class CtxJaxError(Exception):
    """Base of all errors that the library raises on purpose."""


class InputError(CtxJaxError, ValueError):
    """A value, text or file that cannot be used; the message says what was needed and what came."""


class ConfigError(InputError):
    """A setting that cannot be used.

    `field` is the setting's name, dotted as far as who raises it knows ("max_positions", "devices.count"), `message`
    what is wrong with it. The command line turns the field into its flag.

    >>> str(ConfigError("dropout", "must be in [0, 1), got 2.0"))
    'dropout must be in [0, 1), got 2.0'
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field, self.message = field, message


class SentenceError(InputError):
    """A sentence that cannot be used, by its number among those given.

    >>> str(SentenceError(3, "has 20 tokens"))
    'sentence 3 has 20 tokens'
    """

    def __init__(self, sentence: int, message: str) -> None:
        super().__init__(f"sentence {sentence} {message}")
        self.sentence, self.message = sentence, message


@contextmanager
def numbering_sentences(numbers: Sequence[int]) -> Iterator[None]:
    """SentenceErrors with the caller's numbers: that of the sentence i of a batch is `numbers[i]`."""
    try:
        yield
    except SentenceError as error:
        raise SentenceError(numbers[error.sentence], error.message) from error.__cause__


class InputTypeError(CtxJaxError, TypeError):
    """An argument of another type than the function takes."""


class MissingFileError(CtxJaxError, FileNotFoundError):
    """A file, folder or data set that is not there."""


class MissingSettingFileError(ConfigError, MissingFileError):
    """A setting that names a file or folder that is not there."""


class ExistingFileError(CtxJaxError, FileExistsError):
    """A file or folder that would be written over."""


class MissingPackageError(CtxJaxError, ModuleNotFoundError):
    """An optional package that is not installed; the message names the extra that brings it."""


class RunError(CtxJaxError, RuntimeError):
    """A run that cannot go on: it is in use, or its checkpoint could not be written."""


class DiskError(CtxJaxError, OSError):
    """A directory that cannot be written to, or that the processes of a job do not share."""


def brief(value: Any) -> str:
    """The repr of a value of a file for a message, cut where it is long or deep."""
    return _SHORT.repr(value)


def listed(names: Iterable[Any], most: int = 20) -> str:
    """The names as a list for a message, at most `most` of them and the number of the others.

    >>> listed("abc", 2)
    "['a', 'b'] and 1 more"
    """
    names = list(names)
    shown = ", ".join(brief(name) for name in names[:most])
    return f"[{shown}] and {len(names) - most} more" if len(names) > most else f"[{shown}]"
