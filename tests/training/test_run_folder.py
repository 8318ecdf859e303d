"""A resumed run may come from elsewhere: its files are checked, and no file outside its folder is written."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.cli.options.training import TrainOptions
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.run_folder import read_run

RUN = {"dataset": "/data", "start": "tiny", "trainer": "memory", "steps": 4, "cameras": ["wrist"], "units": None}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder


def test_the_options_of_a_run_are_read(run):
    assert read_run(run) == RUN


def test_what_train_stores_is_read_again(run):
    chosen = {
        **{"start": "bundled", "trainer": "lerobot", "cameras": ["wrist"], "batch_size": 8, "learning_rate": 1e-4},
        **{"freeze_vision": True, "rtc_delay": 6, "seed": 5, "rename": ["a=b"], "units": "degrees"},
        **{"steps": 9, "save_steps": 3},
    }
    stored = TrainOptions(dataset=run / "data", **chosen).run_values()
    assert stored.keys() == {"dataset", *chosen}  # no option is left out above
    (run / "run.json").write_text(json.dumps(stored))
    assert read_run(run) == stored


@pytest.mark.parametrize(
    ("option", "highest"), [("steps", 10**9), ("save-steps", 10**9), ("batch-size", 2**20), ("seed", 2**63 - 1)]
)
def test_the_highest_values_that_train_takes_can_be_resumed(run, option, highest, capsys):
    (run / "run.json").write_text(json.dumps(RUN | {option.replace("-", "_"): highest}))
    assert read_run(run)[option.replace("-", "_")] == highest
    assert main(["train", "--dataset", str(run / "data"), f"--{option}", str(highest + 1)]) == 2
    assert f"to {highest}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "5", "[" * 200_000, "{}", '{"dataset": 5}', '{"dataset": "/data", "env": "real"}'),
        *(
            json.dumps({**RUN, name: value})
            for name, value in (
                *(("start", 5), ("start", ["a"]), ("steps", "9"), ("steps", -5), ("steps", 10**400), ("save_steps", 0)),
                *(("seed", -1), ("seed", "x"), ("batch_size", -1), ("batch_size", 10**12), ("learning_rate", "x")),
                *(("cameras", "wrist"), ("cameras", [5]), ("freeze_vision", "yes"), ("trainer", "other")),
                *(("rename", "a=b"), ("units", "miles"), ("rtc_delay", -1), ("rtc_delay", 4096)),
            )
        ),
    ],
)
def test_other_files_are_refused(run, tmp_path, content, capsys):
    (run / "run.json").write_text(content)
    assert main(["train", "--dataset", str(tmp_path / "data"), "--out", str(run), "--resume"]) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_fifo_does_not_block(run, tmp_path, capsys):
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    assert main(["train", "--dataset", str(tmp_path / "data"), "--out", str(run), "--resume"]) == 2
    assert "regular" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["policy", "start.part", "frames", "lerobot/checkpoints/000001", "state.part"])
def test_a_link_in_a_run_is_refused(run, tmp_path, name):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="link"):
        read_run(run)


def test_the_link_to_lerobots_last_checkpoint_is_accepted(run, tmp_path):
    last = run / "lerobot" / "checkpoints" / "last"
    (last.parent / "000004").mkdir(parents=True)
    last.symlink_to("000004")
    assert read_run(run) == RUN
    last.unlink()
    last.symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="link"):
        read_run(run)


@pytest.mark.parametrize("what", ["fifo", "text", "compressed", "negative", "endless"])
def test_another_state_file_is_refused(tmp_path, what):
    torch = pytest.importorskip("torch")
    from smolvla_gym.training.tiny.state_file import step_of

    path = tmp_path / "state.pt"
    torch.save({"step": -1 if what == "negative" else 3, "seconds": float("inf") if what == "endless" else 1.0}, path)
    if what == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif what == "text":
        path.write_text("step")
    elif what == "compressed":
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
            archive.writestr("state/data/bomb", bytes(1 << 20))
    with pytest.raises(CheckpointError, match="state"):
        step_of(path)


def test_other_cache_files_are_ignored(tmp_path):
    from smolvla_gym.data.decoding import load_cached

    path, shape = tmp_path / "frames.npy", (2, 4, 4, 3)
    assert load_cached(path, shape) is None
    images = np.arange(96, dtype=np.uint8).reshape(shape)
    np.save(path, images)
    assert np.array_equal(load_cached(path, shape), images)
    for other in (images.astype(np.float32), images[:1], np.array([{}], dtype=object)):
        np.save(path, other, allow_pickle=True)
        assert load_cached(path, shape) is None
    path.write_bytes(pickle.dumps(images))
    assert load_cached(path, shape) is None
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(96))
    assert load_cached(path, shape) is None


def test_lerobots_configuration_chooses_neither_env_nor_repository(tiny, tmp_path):
    from smolvla_gym.training.lerobot.finetune import check_resumed

    class Recording:
        root = tmp_path / "data"

    policy = json.loads((tiny / "config.json").read_text())
    content = {
        "policy": {**policy, "push_to_hub": True, "repo_id": "someone/else"},
        "env": {"type": "parol6_real", "home": True}, "env_eval_freq": 1, "job": {"target": "a100"},
        "wandb": {"enable": True}, "dataset": {"repo_id": "someone/data"}, "steps": 4, "optimizer": {"type": "adamw"},
    }  # fmt: skip
    path = tiny / "train_config.json"
    path.write_text(json.dumps(content))
    check_resumed(tiny, Recording())
    kept = json.loads(path.read_text())
    assert kept.keys() == {"policy", "dataset", "steps", "optimizer", "env_eval_freq"}
    assert (kept["env_eval_freq"], kept["policy"]["push_to_hub"], kept["dataset"]["root"]) == (
        0, False, str(tmp_path / "data"),
    )  # fmt: skip
    path.write_text(json.dumps({**content, "policy": {**policy, "path": "someone/else"}}))
    with pytest.raises(CheckpointError, match="path"):
        check_resumed(tiny, Recording())


@pytest.mark.parametrize("content", ["{}", '{"step": "x"}', '{"step": -1}', '{"step": 1.5}', "[]"])
def test_a_broken_step_of_lerobot_is_refused(tmp_path, content):
    from smolvla_gym.training.lerobot.finetune import recover

    state = tmp_path / "lerobot" / "checkpoints" / "last" / "training_state"
    state.mkdir(parents=True)
    (state.parent / "pretrained_model").mkdir()
    (state / "training_step.json").write_text(content)
    with pytest.raises(CheckpointError):
        recover(tmp_path)


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint that a test may change."""
    import shutil

    pytest.importorskip("lerobot")
    from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint

    return shutil.copytree(bundled_checkpoint(), tmp_path / "policy", copy_function=shutil.copyfile)
