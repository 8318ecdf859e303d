"""``smolvla-gym serve``: computes a policy's chunks for agents on other machines."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.errors import MissingExtraError, OptionError
from smolvla_gym.utils.untrusted import read_file

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.base import ChunkPolicy

_MAX_TOKEN: Final = 4096
"""Largest size of a token's file in bytes."""

_EXAMPLES: Final = """examples:
  smolvla-gym serve                                      the bundled policy, for programs on this machine
  smolvla-gym serve --policy you/smolvla_parol6 --device cuda
  ssh -L 8765:127.0.0.1:8765 gpu-machine                 on the arm's machine: its own port 8765 leads there
  smolvla-gym serve --host 0.0.0.0 --token-file token    for a network of your own; nothing is encrypted
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "serve",
        help="Compute a policy's actions for agents on other machines.",
        description="Serves a policy over websockets; SmolVLAAgent.connect('host:port') takes it on the arm's machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--policy",
        default="bundled",
        help="bundled, a checkpoint folder, or a Hub repository OWNER/NAME (default: %(default)s)",
    )
    agent_options.add_computing(add)
    agent_options.add_camera_map(add)
    add(
        "--host",
        default="127.0.0.1",
        help="interface to listen on; others than the loopback need a token (default: %(default)s)",
    )
    add("--port", type=int, default=8765, help="port to listen on; 0 takes a free one (default: %(default)s)")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token that clients have to know (default: the environment variable SMOLVLA_GYM_TOKEN)",
    )
    add("--json", action="store_true", help="once it is ready, print a line of JSON on stdout and nothing else there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to end."""
    try:
        from smolvla_gym.agent.policies.remote.server import PolicyServer
    except ImportError as error:
        raise MissingExtraError("Serving a policy", "remote", error) from error
    agent_options.check_compile(arguments.compile)
    token = None if arguments.token_file is None else _read_token(arguments.token_file)
    # The port is taken first: what is wrong with the arguments shows before the seconds that a policy takes to load.
    with PolicyServer(host=arguments.host, port=arguments.port, token=token) as server:
        print(f"smolvla-gym: loading policy {arguments.policy} …", file=sys.stderr, flush=True)
        # Libraries that print have to stay out of stdout.
        with contextlib.redirect_stdout(sys.stderr):
            policy = _load(arguments)

        def ready() -> None:
            _announce(policy, server.address, as_json=arguments.json)

        with _logging():
            server.serve(policy, ready)
    return 0


def _load(arguments: argparse.Namespace) -> ChunkPolicy:
    from smolvla_gym.agent.checkpoint.load import load_checkpoint
    from smolvla_gym.agent.policies.local import LocalPolicy

    checkpoint = load_checkpoint(arguments.policy, device=arguments.device, dtype=arguments.dtype)
    return LocalPolicy(
        checkpoint,
        name=arguments.policy,
        compile_mode=arguments.compile,
        camera_map=dict(arguments.camera_map),
    )


def _announce(policy: ChunkPolicy, address: str, *, as_json: bool) -> None:
    card = policy.card
    if as_json:
        cameras = {name: list(size) for name, size in card.cameras.items()}
        print(json.dumps({"address": address, "policy": card.name, "device": card.device, "cameras": cameras}))
    else:
        sizes = ", ".join(f"{name} {height}x{width}" for name, (height, width) in card.cameras.items())
        print(f"{address} serves the policy {card.name} on {card.device}; cameras: {sizes}")
        print("smolvla-gym: Ctrl-C ends it", file=sys.stderr)
    sys.stdout.flush()


def _read_token(file: Path) -> str:
    try:
        token = read_file(file, _MAX_TOKEN).decode("utf-8", "replace").strip()
    except ValueError as error:
        raise OptionError("--token-file", str(file), f"a file that holds a token; {error}") from error
    if not token:
        raise OptionError("--token-file", str(file), "a file that holds a token, such as `openssl rand -hex 32` prints")
    return token


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Shows who comes and goes on stderr, a line each."""
    logger = logging.getLogger("smolvla_gym")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("smolvla-gym: %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries give the root a handler of its own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
