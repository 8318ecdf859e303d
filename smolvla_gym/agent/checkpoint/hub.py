"""Find a checkpoint: in a folder, in this package, or on the Hugging Face hub."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from smolvla_gym.assets import asset_path
from smolvla_gym.errors import CheckpointError, needs_extra
from smolvla_gym.utils.untrusted import printable

BUNDLED: Final = "bundled"
"""Name of the checkpoint that is shipped with this package."""

_REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def bundled_checkpoint() -> Path:
    """Return the folder of the checkpoint that is shipped with this package.

    Raises:
        CheckpointError: This installation has no such checkpoint.
    """
    try:
        return asset_path("policies", "parol6_tiny")
    except FileNotFoundError as err:
        raise CheckpointError(f"{err} Install the package again, or give the folder of another checkpoint.") from err


def is_repository(name: str) -> bool:
    """Return whether a text has the form of a repository name on the hub."""
    return _REPO_ID.fullmatch(name) is not None


def find_checkpoint_folder(path_or_repo: str | Path) -> Path | None:
    """Return the folder of a checkpoint, or None for the name of a repository on the hub.

    Raises:
        CheckpointError: There is no such folder, and the name has not the form of a repository's.
    """
    if path_or_repo == BUNDLED:  # for a folder of this name give Path("bundled") or "./bundled"
        return bundled_checkpoint()
    try:
        path = Path(path_or_repo).expanduser()
        if path.is_dir():
            return path
        is_file = path.exists()
    except (OSError, RuntimeError, ValueError) as err:
        raise CheckpointError(f"{printable(path_or_repo)!r} cannot be looked up ({err}). Give another folder.") from err
    if is_file:
        raise CheckpointError(f"{path} is a file. Give the folder with config.json and model.safetensors.")
    if isinstance(path_or_repo, str) and is_repository(path_or_repo):
        return None
    raise CheckpointError(
        f"There is no folder {str(path)!r}.{_hint(path)} Give the folder of a checkpoint, a repository on the hub as "
        f"'owner/name', or {BUNDLED!r}."
    )


def _hint(path: Path) -> str:
    """Return a suggestion of a folder or name similar to one that does not exist."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    except OSError:
        siblings = []
    near = difflib.get_close_matches(path.name, [*siblings, BUNDLED], n=1, cutoff=0.6)
    if not near:
        return ""
    return f" Did you mean {BUNDLED if near == [BUNDLED] else str(path.parent / near[0])!r}?"


def download(repo: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """Download files of a repository into the hub's cache, and return their folder.

    Args:
        repo: Name of the repository.
        revision: Branch, tag or commit; None: the main branch.
        patterns: Names of the files, or glob patterns.

    Raises:
        CheckpointError: The files cannot be downloaded; the message says why, and what to do.
        MissingExtraError: huggingface_hub is not installed.
    """
    with needs_extra("Downloading a checkpoint", "smolvla"):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    # The hub's client raises its own errors and those of httpx and of the system, which have no common root.
    except Exception as err:
        raise CheckpointError(
            f"There is no folder {repo!r} here, and the repository of this name could not be downloaded from the "
            f"Hugging Face hub: {_explain(err, repo, revision)}{_hint(Path(repo))}"
        ) from err


def snapshot_commit(snapshot: Path, revision: str | None) -> str | None:
    """Return the commit of a folder in the hub's cache, else ``revision``, to load all files from one commit."""
    return snapshot.name if _COMMIT.fullmatch(snapshot.name) else revision


def _explain(err: BaseException, repo: str, revision: str | None) -> str:
    """Return a sentence about the cause of an error, and a sentence about what to do."""
    from huggingface_hub import constants, errors

    chain = [err]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 20:
        chain.append(cause)
    url = f"{constants.ENDPOINT}/{repo}"

    def find[E: BaseException](*kinds: type[E]) -> E | None:
        return next((error for error in chain if isinstance(error, kinds)), None)

    if find(errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}. Give a branch, tag or commit of {url}/commits, or no revision."
    if find(errors.GatedRepoError):
        return f"it is gated. Ask for access on {url}, then log in with 'hf auth login' or set HF_TOKEN."
    if find(errors.RepositoryNotFoundError):
        return "it does not exist, or is private. Check the name; for a private one log in with 'hf auth login'."
    if find(errors.DisabledRepoError):
        return f"the hub has disabled it. See {url}, or take another checkpoint."
    if find(errors.HFValidationError):
        return "this is not the name of a repository. Give it as 'owner/name'."
    if find(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            "HF_HUB_OFFLINE is set, and the hub's cache does not hold it. Set HF_HUB_OFFLINE=0, or download it "
            f"elsewhere with 'hf download {repo} --local-dir policy' and give that folder."
        )
    response = getattr(find(errors.HfHubHTTPError), "response", None)
    if response is not None:
        return _explain_status(response, url)
    number = next((error.errno for error in chain if isinstance(error, OSError) and error.errno is not None), None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk of its cache, {constants.HF_HUB_CACHE}, is full. Make room, or set HF_HOME to another disk."
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"its cache, {constants.HF_HUB_CACHE}, cannot be written to. Set HF_HOME to a writable folder."
    return (
        f"the hub cannot be reached ({type(chain[-1]).__name__}). Check the network, or download it elsewhere with "
        f"'hf download {repo} --local-dir policy' and give that folder."
    )


def _explain_status(response: object, url: str) -> str:
    """Return the same sentences for an HTTP status without an error class."""
    status = int(getattr(response, "status_code", 0))
    if status == 429:
        wait = printable(getattr(response, "headers", {}).get("Retry-After") or "", 20)
        pause = f"{wait} s" if wait.isdigit() else "some minutes"
        return f"it has had too many requests (429). Wait {pause}, or log in with 'hf auth login' for a higher limit."
    if status in (401, 403):
        return f"it refuses access ({status}). Log in with 'hf auth login' or set HF_TOKEN, and see {url}."
    if status >= 500:
        return f"it has an internal error ({status}). Try again later; see https://status.huggingface.co."
    return f"it answers with status {status}. See {url}."
