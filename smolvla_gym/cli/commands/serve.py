"""``smolvla-gym serve``: compute the chunks of a policy for agents on other machines."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smolvla_gym.cli.options.agent import PolicyOptions
from smolvla_gym.cli.options.arguments import integer
from smolvla_gym.cli.options.parser import AddParser, command, option
from smolvla_gym.cli.output import say
from smolvla_gym.errors import MissingExtraError
from smolvla_gym.utils.tokens import read_token

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.base import ChunkPolicy

_EXAMPLES: Final = """examples:
  smolvla-gym serve                                      the bundled policy, for programs on this machine
  smolvla-gym serve --policy you/smolvla_parol6 --device cuda
  ssh -L 8765:127.0.0.1:8765 gpu-machine                 on the arm's machine: its own port 8765 leads there
  smolvla-gym serve --host 0.0.0.0 --token-file token    for a network of your own; nothing is encrypted
"""


@dataclass(kw_only=True)
class ServeOptions(PolicyOptions):
    """Options of ``smolvla-gym serve``."""

    policy: str = option("bundled, a checkpoint folder, or a Hub repository OWNER/NAME", "bundled")
    host: str = option("interface to listen on; others than the loopback need a token", "127.0.0.1")
    port: int = option("port to listen on; 0 takes a free one", 8765, parse=integer)
    token_file: Path | None = option(
        "file with the token that clients have to send (default: the environment variable SMOLVLA_GYM_TOKEN)", None,
        metavar="FILE",
    )  # fmt: skip
    json: bool = option("once it is ready, print a line of JSON on stdout and nothing else there", False)


def run(options: ServeOptions) -> int:
    """Serve until the program is interrupted."""
    try:
        from smolvla_gym.agent.policies.remote.server import PolicyServer
    except ImportError as error:
        raise MissingExtraError("Serving a policy", "remote", error) from error
    token = None if options.token_file is None else read_token("--token-file", options.token_file)
    # The port is taken first: wrong arguments show before the seconds that a policy takes to load.
    with PolicyServer(host=options.host, port=options.port, token=token) as server:
        say(f"loading policy {options.policy} …")
        # Libraries that print have to stay out of stdout.
        with contextlib.redirect_stdout(sys.stderr):
            policy = _load(options)

        def ready() -> None:
            _announce(policy, server.address, as_json=options.json)

        _log_clients()
        server.serve(policy, ready)
    return 0


add_parser: AddParser = command(
    "serve", ServeOptions, run, examples=_EXAMPLES,
    help="Compute a policy's actions for agents on other machines.",
    description="Serves a policy over websockets; SmolVLAAgent.connect('host:port') connects the arm's machine to "
    "it.",
)  # fmt: skip


def _load(options: ServeOptions) -> ChunkPolicy:
    from smolvla_gym.agent.policies.load import load_policy

    return load_policy(
        options.policy, device=options.device, dtype=options.dtype, compile_mode=options.compile,
        camera_map=dict(options.camera_map),
    )  # fmt: skip


def _announce(policy: ChunkPolicy, address: str, *, as_json: bool) -> None:
    card = policy.card
    if as_json:
        cameras = {name: list(size) for name, size in card.cameras.items()}
        print(json.dumps({"address": address, "policy": card.name, "device": card.device, "cameras": cameras}))
    else:
        sizes = ", ".join(f"{name} {height}x{width}" for name, (height, width) in card.cameras.items())
        print(f"{address} serves the policy {card.name} on {card.device}; cameras: {sizes}")
        say("Ctrl-C ends it")
    sys.stdout.flush()


def _log_clients() -> None:
    """Log the connections of clients to standard error, a line each."""
    logger, handler = logging.getLogger("smolvla_gym"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("smolvla-gym: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries give the root a handler of its own
