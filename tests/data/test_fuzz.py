"""Datasets with random defects are read, or refused with an error of this package, without any other effect.

Each example spoils a small valid dataset in one to three places, and opens it in every way there is. Beside it lies a
tree of files that has to stay as it is, byte for byte.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.checks.check import check_dataset
from smolvla_gym.data.dataset import Dataset
from smolvla_gym.data.reader import open_recording
from smolvla_gym.data.replay import ReplayAgent
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.data.transaction import repair
from smolvla_gym.errors import SmolVLAGymError
from tests.training.datasets import make_dataset

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and FIFOs")

LIMIT_S = 1.0
"""Limit of the computing time in s; an alarm ends a test that blocks, as on a FIFO."""

SPEC = DatasetSpec(30, ("wrist", "scene"), (64, 64), "ssg48")

JSONS = ("meta/info.json", "meta/parol6.json", "meta/stats.json", ".meta_before/info.json")
TABLES = ("data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet")
FILES = (*JSONS[:3], *TABLES, "videos/observation.images.wrist/chunk-000/file-001.mp4")
FOLDERS = ("data", "videos", "meta", "meta/episodes", "data/chunk-000", "videos/observation.images.scene")
NEW = (".meta_before", ".meta_before.part", ".removed", "images", "tmp1", "data/extra", "../.data.parol6.lock",
       "../.data.parol6.part", "../.data.parol6.removed")  # fmt: skip

VALUES = (
    None, True, -1, 0, 3, 1e300, 2**70, "", "x", "v2.1", "so101_follower", "../../elsewhere", "/etc/passwd",
    "{0.__class__}", "{x:>1000000000}", "{chunk_index.__class__}", "data/../../elsewhere/{file_index}", [], [7],
    [-1, 0, 3], [10**9, 64, 3], {}, {"seed": "7"}, [{"seed": 7}], ["rad"] * 7, float("nan"), float("inf"),
)  # fmt: skip
TEXTS = ("", "{", "[]", "[" * 100_000, '{"a":' * 5000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe", "NaN")
COLUMNS = (
    pa.string(), pa.int64(), pa.float32(), pa.list_(pa.float32()), pa.list_(pa.string()), pa.binary(), pa.bool_(),
    pa.null(), pa.struct([("a", pa.int64())]), pa.timestamp("us"), pa.decimal128(10, 2), pa.uint64(),
)  # fmt: skip
CELLS = {
    "string": "../../elsewhere", "int64": -7, "float": float("nan"), "list<item: float>": [1.0, 2.0], "binary": b"\0",
    "list<item: string>": ["x"], "bool": True, "null": None, "struct<a: int64>": {"a": 1}, "timestamp[us]": 5,
    "uint64": 2**64 - 1, "decimal128(10, 2)": 1,
}  # fmt: skip

SPOILS = st.one_of(
    st.tuples(st.just("entry"), st.sampled_from(JSONS), st.integers(0, 10**6), st.sampled_from(VALUES)),
    st.tuples(st.just("text"), st.sampled_from(JSONS), st.integers(0, len(TEXTS) - 1), st.just(None)),
    st.tuples(st.just("column"), st.sampled_from(TABLES), st.integers(0, 10**6), st.sampled_from(COLUMNS)),
    st.tuples(st.just("rows"), st.sampled_from(TABLES), st.integers(0, 40), st.just(None)),
    st.tuples(st.just("drop"), st.sampled_from(TABLES), st.integers(0, 10**6), st.just(None)),
    st.tuples(st.just("cut"), st.sampled_from(FILES), st.just(0), st.floats(0, 1)),
    st.tuples(st.just("bytes"), st.sampled_from(FILES), st.integers(0, 10**6), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("fifo"), st.sampled_from(FILES + NEW), st.just(0), st.just(None)),
    st.tuples(st.just("folder"), st.sampled_from(FILES + NEW), st.just(0), st.just(None)),
    st.tuples(st.just("link"), st.sampled_from(FILES + FOLDERS + NEW), st.integers(0, 3), st.just(None)),
    st.tuples(st.just("hard link"), st.sampled_from(FILES + NEW), st.just(0), st.just(None)),
    st.tuples(st.just("crash"), st.just(""), st.just(0), st.just(None)),
)


def spoil(root, kind, name, number, value):
    path = root / name
    if kind == "entry":
        content = json.loads(path.read_text())
        places = list(entries(content))
        holder, key = places[number % len(places)]
        holder[key] = value
        path.write_text(json.dumps(content))
    elif kind == "text":
        text = TEXTS[number]
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    elif kind in ("column", "rows", "drop"):
        table = pq.read_table(path)
        index = number % table.num_columns
        if kind == "column":
            column = pa.array([CELLS[str(value)]] * len(table), value)
            table = table.set_column(index, pa.field(table.column_names[index], value), column)
        else:
            table = table.slice(0, number) if kind == "rows" else table.remove_column(index)
        pq.write_table(table, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: int(value * path.stat().st_size)])
    elif kind == "bytes":
        content = bytearray(path.read_bytes())
        content[number % len(content) : number % len(content) + len(value)] = value
        path.write_bytes(content)
    elif kind == "crash":
        shutil.copytree(root / "meta", root / ".meta_before", symlinks=True)
    else:
        place(root, kind, path, number)


def place(root, kind, path, number):
    """Replace a file or folder, or make one that a program would use."""
    elsewhere = root.parent / "elsewhere"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "file.txt").write_text("x")
    elif kind == "link":
        path.symlink_to((elsewhere, elsewhere / "data", elsewhere / "thesis.tex", path)[number])
    else:
        path.hardlink_to(elsewhere / "thesis.tex")


def entries(value):
    """Yield each place in a JSON value as what holds it and the key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from entries(inner)


def tree(folder):
    return {
        path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data")


@contextlib.contextmanager
def alarm(seconds):
    def ring(*_):
        raise AssertionError(f"it takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


WAYS = {
    "train": open_recording,
    "replay": ReplayAgent,
    "check": check_dataset,
    "repair": repair,
    "record": lambda root: Dataset(root, SPEC),
}


# Shrinking takes minutes, and the examples are short as they are.
@settings(
    max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
@given(st.lists(SPOILS, min_size=1, max_size=3))
def test_any_defect_is_read_or_refused(recorded, spoils):
    with tempfile.TemporaryDirectory() as folder:
        root, elsewhere = Path(folder, "data"), Path(folder, "elsewhere")
        shutil.copytree(recorded, root)
        (elsewhere / "data").mkdir(parents=True)
        for name in ("thesis.tex", "data/file-000.parquet", "data/photo.jpg", "info.json"):
            (elsewhere / name).write_text("precious")
        for one in spoils:
            # The one before may have taken the place away.
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError, RecursionError, pa.ArrowException):
                spoil(root, *one)
        before = tree(elsewhere)
        for way, open_it in WAYS.items():
            unread = tree(Path(folder)) if way in ("train", "replay", "check") else None
            begin = time.process_time()
            with alarm(20), contextlib.suppress(SmolVLAGymError):
                open_it(root)
            assert time.process_time() - begin < LIMIT_S, way
            assert tree(elsewhere) == before, way
            assert unread is None or tree(Path(folder)) == unread, way
