"""The token that a server of this package may require from its clients."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from smolvla_gym.errors import OptionError
from smolvla_gym.utils.untrusted import read_file

TOKEN_VARIABLE: Final = "SMOLVLA_GYM_TOKEN"  # noqa: S105 - a name, not a secret
"""Environment variable that holds the token, for the server and for its clients."""

_MAX_TOKEN: Final = 4096
"""Largest size of a token file in bytes."""

_SCHEME: Final = "Api-Key"


def choose_token(token: str | None = None) -> str | None:
    """Return a token: the given one, else that of the environment, else None.

    Raises:
        OptionError: The token is empty, or has characters that a header cannot carry.
    """
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token)):
        # An error never repeats a token, not even an invalid one.
        raise OptionError("token", "…", "printable ASCII characters without blanks, at least one")
    return token


def read_token(option: str, file: Path) -> str:
    """Return the token in a file.

    Args:
        option: Name of the option that names the file, for errors.
        file: The file.

    Raises:
        OptionError: The file holds none.
        OSError: The file is missing or cannot be read.
    """
    try:
        token = read_file(file, _MAX_TOKEN).decode("utf-8", "replace").strip()
    except ValueError as error:
        raise OptionError(option, str(file), f"a file that holds a token ({error})") from error
    if not token:
        raise OptionError(option, str(file), "a file that holds a token, such as `openssl rand -hex 32` prints")
    return token


def authorization(token: str) -> dict[str, str]:
    """Return the HTTP header that carries a token."""
    return {"Authorization": f"{_SCHEME} {token}"}


def is_authorized(headers: Sequence[str], token: str) -> bool:
    """Return whether a request carries a token, in constant time.

    Args:
        headers: The values of all ``Authorization`` headers of the request.
        token: The expected token.
    """
    expected = authorization(token)["Authorization"]
    given = headers[0] if len(headers) == 1 else ""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
