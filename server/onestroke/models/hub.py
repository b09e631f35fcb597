"""The hub: what is in its cache, and bringing what is not, by huggingface_hub's own client and cache.

Only the files that are needed, only safetensors, and nothing at all where the cache has them: a model that was
served once starts without a network. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE hold as everywhere.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onestroke.errors import ModelError
from onestroke.models.folders import INDEX, SCHEDULER, family_of, files_of, names_in, read_json
from onestroke.models.specs import FileSpec, ModelSpec, VaeSpec

Spec = ModelSpec | VaeSpec | FileSpec
Progress = Callable[[str, float], None]
"""Told what is being done and how far along it is, 0 to 1."""

TIMEOUT = 20.0
DESCRIBING = {
    "sdxl": (SCHEDULER, "unet/config.json", "vae/config.json"),
    "sd": (SCHEDULER, "unet/config.json", "vae/config.json"),
    "muse": (SCHEDULER, "transformer/config.json", "vqvae/config.json"),
    "diffusers": (),
}
"""The small files that say, beside its index, how a pipeline of each family is sampled."""
SPARE_BYTES = 200_000_000
"""Disk space to leave free."""


def is_cached(spec: Spec) -> bool:
    """Whether all that is needed of `spec` is on this machine."""
    if isinstance(spec, ModelSpec) and not all(map(is_cached, spec.extras)):
        return False
    if isinstance(spec, ModelSpec) and spec.is_local:
        return Path(spec.source).is_file() or Path(spec.source, INDEX).is_file()
    if isinstance(spec, FileSpec) and spec.is_local:
        return Path(spec.source).exists()
    return cached(spec) is not None


def cached(spec: Spec) -> Path | None:
    """The folder (for one file: that file) in the hub's cache that holds all of `spec` at its revision.

    What lies beside a model's source (`ModelSpec.extras`) is asked for by itself.
    """
    folder = _snapshot(spec.source, spec.revision, _first(spec))
    if folder is None:
        return None
    try:
        files_of(spec, names_in(folder))
    except ModelError:
        return None
    return _within(folder, spec)


def _first(spec: Spec) -> str:
    """A file that is there if anything of `spec` is."""
    if isinstance(spec, ModelSpec):
        return INDEX
    return (spec.file if isinstance(spec, FileSpec) else "") or "config.json"


def _within(folder: Path, spec: Spec) -> Path:
    return folder / spec.file if isinstance(spec, FileSpec) else folder


def _snapshot(source: str, revision: str | None, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parents[name.count("/")] if isinstance(found, str) else None


def describe(source: str, revision: str | None) -> Path:
    """A folder with the files that say what the pipeline at `source` is; fetched unless they are cached.

    Raises ModelError where that fails.
    """
    from huggingface_hub import hf_hub_download

    def others(folder: Path) -> tuple[str, ...]:
        return DESCRIBING[family_of(read_json(folder / INDEX), source)]

    folder = _snapshot(source, revision, INDEX)
    if folder and all(_snapshot(source, revision, name) for name in others(folder)):
        return folder
    with explained(source, revision):
        folder = Path(hf_hub_download(source, INDEX, revision=revision)).parent
        for name in others(folder):
            hf_hub_download(source, name, revision=revision)
    return folder


def fetch(spec: Spec, progress: Progress = lambda stage, fraction: None) -> Path:
    """The folder (for one file: that file) that holds `spec`, from the cache or, file by file, from the hub.

    A connection that breaks is taken up where it was, and files that are whole are kept for the next time; the one
    at which the process ended is not. Raises ModelError for everything that can go wrong, with the cure.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if found := cached(spec):
        return found
    with explained(spec.source, spec.revision):
        progress(f"asking the hub for {spec.name}", 0.0)
        info = HfApi().model_info(spec.source, revision=spec.revision, files_metadata=True, timeout=TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        try:
            wanted = files_of(spec, sizes)
        except ModelError as error:
            raise ModelError(f"{spec.source} on the hub: {error.message}") from error
        missing = [name for name in wanted if not _snapshot(spec.source, info.sha, name)]
        total = sum(sizes[name] for name in missing)
        check_disk(spec.name, total)
        bar = _bar(spec.name, total, progress)  # which stops short where two files are the same
        # The first by its branch's name, so that the cache remembers what that name stood for.
        first = hf_hub_download(spec.source, wanted[0], revision=spec.revision, tqdm_class=bar)
        for name in wanted[1:]:
            hf_hub_download(spec.source, name, revision=info.sha, tqdm_class=bar)
    progress(f"downloaded {spec.name}", 1.0)
    return _within(Path(first).parents[wanted[0].count("/")], spec)


def check_disk(name: str, needed: int) -> None:
    """Raise ModelError where the hub's cache has no room for `needed` bytes."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise ModelError(
            f"{name} needs {needed / 1e9:.1f} GB and {there} has {free / 1e9:.1f} GB left: free some, or put the "
            "hub's cache elsewhere with HF_HOME"
        )


def _bar(name: str, total: int, progress: Progress) -> Any:
    """A tqdm class that shows nothing and reports the bytes of all files together."""
    from tqdm import tqdm

    done = 0

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done += int(n or 0)
            fraction = min(1.0, done / total) if total else 1.0
            progress(f"downloading {name}: {int(10 * fraction)}0% of {total / 1e9:.2g} GB", fraction)

    return Bar


@contextmanager
def explained(source: str, revision: str | None) -> Iterator[None]:
    """What the hub's client raises, as a ModelError that says what to do."""
    from huggingface_hub import constants, errors

    where = f"{source}@{revision}" if revision else source
    offline = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else None
    try:
        yield
    except errors.HFValidationError as error:
        raise ModelError(f"{source!r} is no hub id: it looks like owner/name") from error
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{source} is gated: accept its terms at {constants.ENDPOINT}/{source}, make a token in your account's "
            "settings, and give it as HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{source} has no revision {revision!r}: give a commit, a branch or a tag"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model {source} at {constants.ENDPOINT} (or it is private) and no such folder here: check "
            "its name, and set HF_TOKEN if it is yours"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise ModelError(
            f"{where} is no diffusers pipeline ({error.response.url.path.rpartition('/')[2]} is missing); a single "
            "file of it can be fetched with `hf download` and given by its path"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        why = offline or f"{constants.ENDPOINT} cannot be reached ({_reason(error)})"
        raise ModelError(
            f"{where} is not in the hub's cache ({constants.HF_HUB_CACHE}) and {why}: fetch it where there is a "
            "network and bring the cache here, or give a local folder or file"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        cure = "check HF_TOKEN" if status in (401, 403) else "try again later"
        raise ModelError(f"{constants.ENDPOINT} answered {status} for {where}: {cure}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk is full ({constants.HF_HUB_CACHE}) while fetching {where}: free some space, or put the "
                "hub's cache elsewhere with HF_HOME"
            ) from error
        raise ModelError(f"{where} cannot be fetched: {error}") from error
    except Exception as error:
        if not _is_network(error):
            raise
        raise ModelError(
            f"{constants.ENDPOINT} cannot be reached ({_reason(error)}) for {where}: check the network, and start "
            "again: what is fetched is kept"
        ) from error


def _is_network(error: BaseException) -> bool:
    """Errors of the HTTP library under the hub's client, whichever that is."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def _reason(error: BaseException) -> str:
    """The first words of what lies at the bottom of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]
