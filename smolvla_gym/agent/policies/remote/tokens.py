"""The secret that a policy server may ask of its clients."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Sequence
from typing import Final

from smolvla_gym.errors import OptionError

TOKEN_VARIABLE: Final = "SMOLVLA_GYM_TOKEN"  # noqa: S105 - a name, not a secret
"""Environment variable that holds it, for the server and for its clients."""

_SCHEME: Final = "Api-Key"


def choose_token(token: str | None = None) -> str | None:
    """Returns a token, or that of the environment where it is None, or None where that has none either.

    Raises:
        OptionError: It is empty, or has characters that a header cannot carry.
    """
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token)):
        # A secret is not repeated, not even a wrong one.
        raise OptionError("token", "…", "printable ASCII characters without blanks, at least one")
    return token


def authorization(token: str) -> dict[str, str]:
    """Returns the header that carries a token."""
    return {"Authorization": f"{_SCHEME} {token}"}


def is_authorized(headers: Sequence[str], token: str) -> bool:
    """Tells, in a time that does not depend on how much of it is right, whether a request carries a token.

    Args:
        headers: The values of all its headers ``Authorization``.
        token: The token.
    """
    wanted = authorization(token)["Authorization"]
    given = headers[0] if len(headers) == 1 else ""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
