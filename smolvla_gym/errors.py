"""Errors of this package.

They share one root, :class:`SmolVLAGymError`, and each also inherits the standard error that it is, so that
``except ValueError`` works in code that does not know this package.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class SmolVLAGymError(Exception):
    """Root of all errors of this package."""


class ActionError(SmolVLAGymError, ValueError):
    """An action of the wrong shape or type, or with a value that is not finite. Nothing moved."""


class OptionError(SmolVLAGymError, ValueError):
    """An option with a value that is not allowed."""

    def __init__(self, option: str, value: object, allowed: str) -> None:
        """Build the message.

        Args:
            option: Name of the option as the caller wrote it.
            value: What was given.
            allowed: What would have been accepted, in words.
        """
        super().__init__(f"{option}={_shown(value)} is not allowed: {allowed}.")
        self.option: str = option
        self.value: object = value
        self.allowed: str = allowed

    def __reduce__(self) -> tuple[type[OptionError], tuple[str, object, str]]:
        return type(self), (self.option, self.value, self.allowed)


class UnknownNameError(SmolVLAGymError, ValueError):
    """An unknown name; the message has the nearest known one."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        """Build the message.

        Args:
            kind: What the name stands for, such as ``"task"``.
            name: What was given.
            known: The names that exist.
        """
        self.kind: str = kind
        self.name: object = name
        self.known: tuple[str, ...] = tuple(known)
        near = difflib.get_close_matches(_shown(name).strip("'\""), self.known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"There is no {kind} {_shown(name)}.{hint} Known: {', '.join(self.known)}.")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, object, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class MissingExtraError(SmolVLAGymError, ImportError):
    """A package that an optional part needs is not installed."""

    def __init__(self, what: str, extra: str, cause: ImportError) -> None:
        """Build the message.

        Args:
            what: The part that cannot work.
            extra: The extra of this package that brings it.
            cause: The import that failed.
        """
        super().__init__(
            f"{what} needs the packages of the extra {extra!r} ({cause}). "
            f"Install them in the clone of this project with: pip install '.[{extra}]', or uv sync --extra {extra}"
        )
        self.what: str = what
        self.extra: str = extra
        self.cause: ImportError = cause

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, ImportError]]:
        return type(self), (self.what, self.extra, self.cause)


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Turn an ``ImportError`` of the block into a :class:`MissingExtraError`.

    Args:
        what: The part that cannot work without the imported packages.
        extra: The extra of this package that brings them.

    Raises:
        MissingExtraError: An import failed.
    """
    try:
        yield
    except ImportError as cause:
        raise MissingExtraError(what, extra, cause) from cause


class RenderingError(SmolVLAGymError, RuntimeError):
    """No OpenGL context could be made."""


class FaultError(SmolVLAGymError, RuntimeError):
    """The arm is held by a fault and refuses to move until ``clear_fault()`` and ``reset()``."""


class NotHomedError(SmolVLAGymError, RuntimeError):
    """The arm does not know its joint angles: it has to be homed before it may move."""


class DeviceError(SmolVLAGymError, ConnectionError):
    """A device that cannot be found or opened, or that does not answer."""


class CheckpointError(SmolVLAGymError, RuntimeError):
    """A checkpoint that cannot be read: absent, broken or truncated."""


class PolicyMismatchError(SmolVLAGymError, ValueError):
    """A checkpoint that loads but cannot drive this arm. Refused before anything moves."""


class ObservationError(PolicyMismatchError):
    """An image or a state of another type, shape or unit than a policy needs. No chunk is made of it."""


class InferenceError(SmolVLAGymError, RuntimeError):
    """A policy failed while it computed a chunk. The arm holds."""


class InferenceTimeoutError(SmolVLAGymError, TimeoutError):
    """A policy hangs, or takes longer for a chunk than it was allowed to. The arm holds."""


class PolicyConnectionError(SmolVLAGymError, ConnectionError):
    """A policy that runs elsewhere cannot be reached at the moment."""


class PolicyServerError(SmolVLAGymError, ConnectionError):
    """A policy server of another kind or version, or one that refuses this client. Trying again does not help."""


class RecordingError(SmolVLAGymError, OSError):
    """A video or summary could not be written. Nothing half-written is left under its final name."""


class CalibrationError(SmolVLAGymError, ValueError):
    """A calibration that is missing or broken, of another arm or camera, or measurements that give none."""


class DatasetError(SmolVLAGymError, ValueError):
    """A dataset of another arm, rate, camera or unit, a broken one, or frames that do not belong into one."""


def _shown(value: object) -> str:
    """Return a value as a message shows it, in one line of at most 200 characters."""
    try:
        text = repr(value)
    except Exception:  # such as an int of more digits than Python prints
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 200 else f"{text[:199]}…"


def with_causes(error: BaseException) -> str:
    """Return the message of an error and of the errors that led to it, in one line, the first one first."""
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    return "; ".join(f"{type(one).__name__}: {' '.join(str(one).split())[:200]}" for one in reversed(chain))
