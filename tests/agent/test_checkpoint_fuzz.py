"""Randomly changed checkpoints are read correctly or refused within a second, without side effects."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolvla_gym.agent.checkpoint.load import check_checkpoint_files, load_checkpoint
from smolvla_gym.agent.checkpoint.spec import WEIGHTS, read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.errors import SmolVLAGymError

pytest.importorskip("lerobot")
resource = pytest.importorskip("resource")

MEMORY = 200 << (20 if sys.platform == "darwin" else 10)
"""200 MB in the unit of ``ru_maxrss``."""

JSON_FILES = (
    "config.json",
    "policy_preprocessor.json",
    "policy_postprocessor.json",
    "vlm/config.json",
    "vlm/tokenizer_config.json",
    "vlm/tokenizer.json",
)
FILES = (
    *JSON_FILES,
    "model.safetensors",
    "policy_preprocessor_step_5_normalizer_processor.safetensors",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
)
TRAP = "smolvla_gym_trap_of_the_fuzz_test"
"""A module that leaves a file behind when it is imported."""


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 3, 7, 64, 10**4, 10**9, 10**18, 10**300, -(10**9), 0.0, -0.5, 1e308, 1e-300, 0.3]),
    st.integers(-10, 5000),
    st.sampled_from(["", "..", "../x", "/etc/passwd", "a/b", "\0", "vlm", "smolvla", "MIN_MAX", "IDENTITY", "\ud800"]),
    st.sampled_from(["owner/name", f"{TRAP}.Step", "bundled", "\x1b[31m", "x" * 5000]),
    st.just([]),
    st.just({}),
    st.just([7]),
    st.just({"type": "VISUAL", "shape": [3, 10**6, 10**6]}),
    st.builds(nested, st.sampled_from([5, 40, 600])),
)
KEYS = (
    "auto_map trust_remote_code class state_file _name_or_path quantization_config config attn_implementation use_peft "
    "registry_name tokenizer_file observation.images.top torch_dtype"
)
keys = st.sampled_from(KEYS.split())
steps = st.sampled_from(
    [
        {"class": f"{TRAP}.Step", "config": {}},
        {"registry_name": "normalizer_processor", "class": f"{TRAP}.Step", "config": {}},
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": "float16"}},
        {"registry_name": "absolute_actions_processor", "config": {"enabled": True}},
        {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "/etc", "max_length": 10**9}},
        {"registry_name": "device_processor", "state_file": "../outside/mark"},
        "device_processor",
    ]
)
spots = st.lists(st.integers(0, 30), min_size=1, max_size=6)
changes = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(JSON_FILES), spots, values),
    st.tuples(st.just("set"), st.just("config.json"), spots, values),
    st.tuples(st.just("delete"), st.sampled_from(JSON_FILES), spots, st.none()),
    st.tuples(st.just("add"), st.sampled_from(JSON_FILES), spots, st.tuples(keys, values)),
    st.tuples(st.just("step"), st.sampled_from(JSON_FILES[1:3]), spots, steps),
    st.tuples(st.just("turn"), st.sampled_from(JSON_FILES[1:3]), spots, st.none()),
    st.tuples(st.just("cut"), st.sampled_from(FILES), spots, st.integers(-200, 400)),
    st.tuples(st.just("bytes"), st.sampled_from(FILES), spots, st.binary(max_size=60)),
    st.tuples(st.just("bomb"), st.sampled_from(FILES), spots, st.sampled_from([b"[" * 200_000, b'{"a":' * 100_000])),
    st.tuples(st.just("header"), st.sampled_from(FILES[-3:]), spots, st.sampled_from([2**40, 2**63, 10**7])),
    st.tuples(st.just("place"), st.sampled_from(FILES), spots, st.sampled_from(["fifo", "folder", "zero", "loop"])),
    st.tuples(st.just("swap"), st.sampled_from(FILES), spots, st.sampled_from(FILES)),
    st.tuples(st.just("remove"), st.sampled_from(FILES), spots, st.none()),
    st.tuples(st.just("sparse"), st.just("model.safetensors"), spots, st.sampled_from([10**10, 10**12])),
)


def holders(content):
    """Returns each list and object of a JSON value."""
    found = [content]
    for value in content.values() if isinstance(content, dict) else content:
        if isinstance(value, dict | list) and value:
            found += holders(value)
    return found


def change_json(path, kind, where, what):
    content = json.loads(path.read_text())
    if kind == "step":
        content["steps"].insert(where[0] % (len(content["steps"]) + 1), what)
    elif kind == "turn":
        content["steps"].insert(0, content["steps"].pop(where[0] % len(content["steps"])))
    else:
        inner = holders(content)
        # Most of them are the tokenizer's merges; the first are the likelier ones to matter.
        holder = inner[where[0] * where[-1] % min(len(inner), 40)]
        if kind == "add" and isinstance(holder, dict):
            holder[what[0]] = what[1]
        else:
            names = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if names and kind == "set":
                holder[names[where[-1] % len(names)]] = what
            elif names:
                del holder[names[where[-1] % len(names)]]
    path.unlink()  # it is a second name of the whole one's
    path.write_text(json.dumps(content))


def change(folder, kind, name, where, what):
    path = folder / name
    if kind in ("set", "delete", "add", "step", "turn"):
        if not path.is_file():
            return  # an earlier change put a FIFO or a device there, which reading would wait for
        try:
            change_json(path, kind, where, what)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # an earlier change broke the file
        return
    content = path.read_bytes() if path.is_file() and path.stat().st_size < 10**8 else b""
    other = folder / what if kind == "swap" else None
    swapped = other.read_bytes() if other is not None and other.is_file() and other.stat().st_size < 10**8 else b""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == "place":
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if what == "zero" else path.name)
    elif kind == "sparse":
        path.write_bytes(content[:50_000])
        os.truncate(path, what)
    elif kind != "remove":
        results = {"cut": lambda: content[:what], "swap": lambda: swapped, "header": lambda: b""}
        path.write_bytes(results.get(kind, lambda: what)())
        if kind == "header":
            path.write_bytes(int(what).to_bytes(8, "little") + content[8:])


def check(folder):
    spec = read_spec(folder)
    check_checkpoint(spec)
    check_checkpoint_files(spec)
    return spec


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with a checkpoint to be copied, the trap, and a folder beside it that must stay as it is."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "outside").mkdir()
    (root / "outside" / "mark").write_text("untouched")
    (root / f"{TRAP}.py").write_text(f"from pathlib import Path\nPath({str(root / 'outside' / 'ran')!r}).touch()\n")
    sys.path.insert(0, str(root))
    check(shutil.copytree(tiny, root / "whole"))  # everything that has to be imported is
    yield root
    sys.path.remove(str(root))


def outside(root):
    return sorted((path.name, path.read_text()) for path in (root / "outside").iterdir())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(changes, min_size=1, max_size=3))
def test_a_changed_checkpoint_is_read_or_refused_at_once(place, drawn):
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = shutil.copytree(place / "whole", Path(name) / "copy", copy_function=os.link)
        for one in drawn:
            change(folder, *one)
        memory, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            spec, message = check(folder), ""
        except SmolVLAGymError as error:
            message = str(error)
        else:
            assert 1 <= spec.n_action_steps <= spec.chunk_size <= 4096
            assert spec.cameras
            assert all(1 <= side <= 4096 for size in spec.cameras.values() for side in size)
        assert time.process_time() - begin < 1.0
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY
    assert len(message) < 3000
    assert all(char.isprintable() for char in message)  # on any terminal
    assert outside(place) == [("mark", "untouched")]
    assert TRAP not in sys.modules


harmless = st.one_of(
    st.tuples(st.just("chunk_size"), st.integers(16, 40)),
    st.tuples(st.just("num_steps"), st.integers(1, 4)),
    st.tuples(st.just("tokenizer_max_length"), st.integers(4, 60)),
    st.tuples(st.just("num_vlm_layers"), st.integers(-1, 6)),
    st.tuples(st.just("num_expert_layers"), st.integers(-1, 6)),
    st.tuples(st.just("self_attn_every_n_layers"), st.integers(-1, 5)),
    st.tuples(st.just("attention_mode"), st.sampled_from(["cross_attn", "self_attn"])),
    st.tuples(st.just("expert_width_multiplier"), st.sampled_from([0.5, 0.75, 1.0])),
    st.tuples(st.just("max_state_dim"), st.integers(6, 9)),
    st.tuples(st.just("resize_imgs_with_padding"), st.sampled_from([[64, 64], [32, 32], [64, 32], [96, 96], None])),
    st.tuples(st.just("prefix_length"), st.sampled_from([-1, 0, 80])),
    st.tuples(st.just("empty_cameras"), st.integers(0, 2)),
)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.nothing(), st.nothing()) | st.lists(harmless, min_size=1, max_size=2).map(dict))
def test_a_checkpoint_of_other_sizes_runs_or_is_refused(place, fields):
    import torch

    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = shutil.copytree(place / "whole", Path(name) / "copy")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))
        try:
            checkpoint = load_checkpoint(folder, device="cpu")
        except SmolVLAGymError:
            assert fields
            return
    frame = {"task": "Pick up the red cube.", "observation.state": torch.zeros(7)}
    frame |= {f"observation.images.{camera}": torch.full((3, 64, 64), 0.5) for camera in ("wrist", "scene")}
    chunk = checkpoint.postprocessor(checkpoint.policy.predict_action_chunk(checkpoint.preprocessor(frame))).numpy()
    assert chunk.shape == (1, checkpoint.spec.chunk_size, 7)
    assert np.isfinite(chunk).all()
    assert len(list(place.glob("tmp*"))) == 0
    assert (place / "whole" / WEIGHTS).is_file()
