"""Models of the Hugging Face Hub by name, `hf://organisation/name@revision`: fetched through `huggingface_hub`, and
folders uploaded.

Files go into the library's own cache (HF_HOME), which is all that is read offline (HF_HUB_OFFLINE=1).
"""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ctx_jax.encoders.transformer.huggingface.tensors import INDEX, WHOLE, shard_names
from ctx_jax.encoders.transformer.sentence_folders import BODY_SETTINGS, MODULES, SETTINGS, module_paths
from ctx_jax.io.errors import CtxJaxError, InputError, MissingFileError, MissingPackageError
from ctx_jax.tokenizers.subword_files import SENTENCEPIECE_NAMES

_NAME = re.compile(r"hf:/{1,2}(?P<name>[^@]+)(?:@(?P<revision>.+))?")  # pathlib makes one slash of two
_UPLOADED = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (
    *("config.json", *BODY_SETTINGS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_NAMES),
)
"""Configs and tokenizers. Tensors are named one by one: a repository may hold the same in several formats."""
_UNNOTICED = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files without which a folder is read all the same, and gives other vectors."""


class HubName(NamedTuple):
    """A model of the Hub."""

    name: str  # "organisation/name"
    revision: str | None  # a branch, tag or commit; None: the main branch

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def hub_name(path: str | Path) -> HubName | None:
    """The model that a path names, if it begins with hf://; InputError for one that names none."""
    text = str(path)
    if not text.startswith("hf:/"):
        return None
    found = _NAME.fullmatch(text)
    if found is None or not found["name"].strip("/"):
        raise InputError(
            f"{text} names no model of the Hub: write hf://organisation/name or hf://organisation/name@tag"
        )
    return HubName(found["name"], found["revision"])


def local_path(path: str | Path) -> Path:
    """The path itself, or the folder in the cache that holds the files of a model of the Hub.

    Of a repository the configs, the tokenizer and the safetensors are fetched, with all the shards that an index names;
    of one of sentence-transformers also those of its modules.

    Raises MissingPackageError without `huggingface_hub`; MissingFileError for a model or revision that is not there, is
    not open to the user, or can neither be fetched nor found in the cache, and for one without safetensors.
    """
    wanted = hub_name(path)
    if wanted is None:
        return Path(path)
    hub = _library(str(wanted))
    root = _fetch(hub, wanted, wanted.revision, [*_FILES, MODULES, SETTINGS, INDEX])
    # A snapshot's folder has the name of its commit: all files are those of one.
    commit = root.name
    _check_absent(hub, wanted, root, [MODULES, *_UNNOTICED])
    is_sentence = (root / MODULES).is_file()
    body, *others = module_paths(root) if is_sentence else [""]
    before = f"{body.strip('/')}/" if body not in ("", ".") else ""
    names = [f"{other}/{name}" for other in others for name in ("config.json", WHOLE)]
    if before:
        names += [before + name for name in (*_FILES, INDEX)]
    if names:
        _fetch(hub, wanted, commit, names)
    if is_sentence:
        _check_absent(hub, wanted, root, [SETTINGS, *(before + name for name in (BODY_SETTINGS[0], *_UNNOTICED))])
    if not (root / body / "config.json").is_file():
        raise MissingFileError(f"{wanted} has no {before}config.json: it is no model that is read here")
    tensors = shard_names(root / body) if (root / body / INDEX).is_file() else [WHOLE]
    _fetch(hub, wanted, commit, [before + name for name in tensors])
    if missing := [name for name in tensors if not (root / body / name).is_file()]:
        raise MissingFileError(
            f"{wanted} lacks {before}{missing[0]}: only safetensors are read, no pickled weights. Ask its authors for "
            "them, or convert the model with transformers (save_pretrained)"
        )
    return root


def check_upload(name: str) -> None:
    """Raise as `upload` for a name that is none, and without `huggingface_hub`, before there is anything to upload."""
    if not _UPLOADED.fullmatch(name):
        raise InputError(f"{name} is no name to upload to: write organisation/name")
    _library(f"uploading to {name}")


def upload(folder: Path, name: str) -> str:
    """Upload the files of a folder to the model "organisation/name" of the Hub, with the token of `hf auth login`; its
    address.

    A repository that does not exist is made, as a private one. Raises MissingPackageError; InputError for a name that
    is none; MissingFileError where the Hub refuses or cannot be reached.
    """
    check_upload(name)
    hub = _library(name)
    try:
        with _explained(hub, HubName(name, None)):
            api = hub.HfApi(library_name="ctx_jax")
            api.create_repo(name, private=True, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model of ctx_jax")
            return f"{api.endpoint}/{name}"
    except MissingFileError as error:
        raise MissingFileError(f"{error}. {folder} is written: `hf upload {name} {folder}` uploads it") from error


def _library(what: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingPackageError(f"{what} needs huggingface_hub: pip install 'ctx-jax[hub]'") from error
    return huggingface_hub


def _fetch(hub: ModuleType, wanted: HubName, revision: str | None, names: Sequence[str]) -> Path:
    """The snapshot's folder with these files, where there are such."""
    patterns = [glob.escape(name) for name in names]  # a file of the repository may say the names
    with _explained(hub, wanted):
        return Path(
            hub.snapshot_download(wanted.name, revision=revision, allow_patterns=patterns, library_name="ctx_jax")
        )


def _check_absent(hub: ModuleType, wanted: HubName, root: Path, names: Sequence[str]) -> None:
    """Check that those of the files that a snapshot lacks are not in the repository either.

    Offline, a snapshot is what any program has fetched of it. Without these files the folder would be read as another
    model. MissingFileError where neither the cache nor the Hub says whether there is such a file.
    """
    commit = root.name
    for name in [name for name in dict.fromkeys(names) if not (root / name).is_file()]:
        if hub.try_to_load_from_cache(wanted.name, name, revision=commit) is not None or _listed(hub, wanted, commit):
            continue  # it is known to be absent
        try:
            hub.hf_hub_download(wanted.name, name, revision=commit, library_name="ctx_jax")
        except hub.errors.LocalEntryNotFoundError as error:
            raise MissingFileError(
                f"{wanted}: the Hub cannot be reached, and {hub.constants.HF_HUB_CACHE} does not say whether the model "
                f"has {name}, as another program has fetched a part of its files. Load it once where there is a network"
            ) from error
        except hub.errors.EntryNotFoundError:
            continue  # and the library keeps it in mind
        except Exception:
            with _explained(hub, wanted):
                raise


def _listed(hub: ModuleType, wanted: HubName, commit: str) -> bool:
    """Whether the cache has the list of the repository's files, by which the library has fetched those asked for."""
    if not hasattr(hub, "get_cached_repo_tree"):  # before version 2
        return False
    try:
        hub.get_cached_repo_tree(wanted.name, revision=commit)
    except hub.errors.CachedRepoTreeNotFoundError:
        return False
    return True


@contextmanager
def _explained(hub: ModuleType, wanted: HubName) -> Iterator[None]:
    """Turn the library's errors, and those of its network, into errors that say what to do."""
    errors = hub.errors
    try:
        yield
    except CtxJaxError:
        raise
    except errors.HFValidationError as error:
        raise InputError(f"{wanted} is no name of a model on the Hub: {error}") from error
    except errors.GatedRepoError as error:
        raise MissingFileError(
            f"{wanted} is open to those alone who accept its conditions on the Hub: do so there, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise MissingFileError(
            f"the Hub has no model {wanted.name}, or it is private: check the name, or `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MissingFileError(f"{wanted.name} on the Hub has no revision {wanted.revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise MissingFileError(
            f"{wanted}: the Hub cannot be reached, and {hub.constants.HF_HUB_CACHE} does not hold all of its files. "
            "Connect, or load it once where there is a network and copy that folder; HF_HUB_OFFLINE must not be 1 to "
            "fetch files"
        ) from error
    except Exception as error:  # of the library's HTTP client, whose classes change with its versions
        if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            raise MissingFileError(
                f"{wanted}: the Hub refuses it ({str(error).splitlines()[0]}): `hf auth login`, to upload with a token "
                "that may write"
            ) from error
        raise MissingFileError(f"{wanted}: the Hub or the network failed: {type(error).__name__}: {error}") from error
