"""Datasets of this arm as another recorder would have written them."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.spec import DatasetSpec
from smolvla_gym.parol6 import ACTION_NAMES, STANDBY

VECTORS = ("observation.state", "action")
PERCENT = np.append(np.full(6, 180 / np.pi), 100.0)


def make_moving_dataset(root, seeds=(7, 8), frames=20):
    """Record a smooth motion inside the limits, seen by two cameras; returns the folder."""
    spec = DatasetSpec(30, ("wrist", "scene"), (64, 64), "ssg48")
    dataset = Dataset(root, spec)
    rng = np.random.default_rng(0)
    for seed in seeds:
        episode = Episode.begin(f"lift the red cube {seed}", seed, "expert", spec.cameras)
        for frame in range(frames):
            pixels = {camera: rng.integers(0, 255, (64, 64, 3), np.uint8) for camera in spec.cameras}
            position = np.append(STANDBY + 0.02 * (frame + seed) * np.arange(1, 7) / 6, frame / frames)
            episode.note({"pixels": pixels, "agent_pos": position.astype(np.float32)}, position + 0.01)
        dataset.add(episode)
    return root


def disguise(root, to, *, cameras=None, names=None, order=range(7), degrees=True, robot_type="parol6_sim", seeds=False):
    """Write a copy as LeRobot's programs record it; returns the folder.

    Args:
        root: A dataset of ours.
        to: The copy.
        cameras: New names of cameras by old ones.
        names: New names of components by old ones, without the ``.pos`` that they get.
        order: Of the components.
        degrees: Whether to count in degrees and percent.
        robot_type: Name of the robot.
        seeds: Whether to keep ``parol6.json``.
    """
    shutil.copytree(root, to)
    full = {f"observation.images.{old}": f"observation.images.{new}" for old, new in (cameras or {}).items()}
    order = list(order)
    for path in (to / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for name in VECTORS:
            values = np.array(table[name].to_pylist(), np.float64) * (PERCENT if degrees else 1)
            column = pa.array(values[:, order].astype(np.float32).tolist(), pa.list_(pa.float32()))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table.replace_schema_metadata(None), path)
    for path in (to / "meta" / "episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        renamed = []
        for column in table.column_names:
            start, slash, rest = column.partition("/")
            feature, slash2, end = rest.partition("/")
            renamed.append(f"{start}{slash}{full.get(feature, feature)}{slash2}{end}")
        pq.write_table(table.rename_columns(renamed), path)
    for old, new in full.items():
        (to / "videos" / old).rename(to / "videos" / (new + ".moved"))
    for new in full.values():
        (to / "videos" / (new + ".moved")).rename(to / "videos" / new)
    info = json.loads((to / "meta" / "info.json").read_text())
    info["robot_type"] = robot_type
    info["features"] = {full.get(name, name): entry for name, entry in info["features"].items()}
    called = [(names or {}).get(name, name) + ".pos" for name in ACTION_NAMES]
    for name in VECTORS:
        del info["features"][name]["units"]
        info["features"][name] |= {"names": [called[i] for i in order], "shape": [len(order)]}
    (to / "meta" / "info.json").write_text(json.dumps(info))
    stats = json.loads((to / "meta" / "stats.json").read_text())
    (to / "meta" / "stats.json").write_text(json.dumps({full.get(name, name): v for name, v in stats.items()}))
    if not seeds:
        (to / "meta" / "parol6.json").unlink()
    return to
