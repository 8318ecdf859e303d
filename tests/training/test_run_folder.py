"""A run that is gone on with may come from elsewhere: its files are refused or read, and nothing is written outside."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.run_folder import read_run

RUN = {"dataset": "/data", "start": "tiny", "trainer": "memory", "steps": 4, "cameras": ["wrist"], "units": None}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder


def test_what_a_run_was_begun_with_is_read(run):
    assert read_run(run) == RUN


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
                *(("rename", "a=b"), ("units", "miles")),
            )
        ),
    ],
)
def test_other_files_are_refused_in_a_sentence(run, tmp_path, content, capsys):
    (run / "run.json").write_text(content)
    assert main(["train", "--dataset", str(tmp_path / "data"), "--out", str(run), "--resume"]) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_fifo_is_not_waited_for(run, tmp_path, capsys):
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


def test_the_link_to_lerobots_latest_saving_is_no_matter(run, tmp_path):
    last = run / "lerobot" / "checkpoints" / "last"
    (last.parent / "000004").mkdir(parents=True)
    last.symlink_to("000004")
    assert read_run(run) == RUN
    last.unlink()
    last.symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="link"):
        read_run(run)


@pytest.mark.parametrize("what", ["fifo", "text", "compressed", "negative", "endless"])
def test_a_state_of_others_is_refused(tmp_path, what):
    torch = pytest.importorskip("torch")
    from smolvla_gym.training.tiny.imitation import step_of

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
    with pytest.raises(CheckpointError, match="cannot be gone on from"):
        step_of(path)


def test_cached_frames_of_others_are_decoded_again(tmp_path):
    from smolvla_gym.training.recordings import _cached

    path, shape = tmp_path / "frames.npy", (2, 4, 4, 3)
    assert _cached(path, shape) is None
    pictures = np.arange(96, dtype=np.uint8).reshape(shape)
    np.save(path, pictures)
    assert np.array_equal(_cached(path, shape), pictures)
    for other in (pictures.astype(np.float32), pictures[:1], np.array([{}], dtype=object)):
        np.save(path, other, allow_pickle=True)
        assert _cached(path, shape) is None
    path.write_bytes(pickle.dumps(pictures))
    assert _cached(path, shape) is None
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(96))
    assert _cached(path, shape) is None


def test_lerobots_file_of_a_run_chooses_neither_arm_nor_repository(tiny, tmp_path):
    from smolvla_gym.training.lerobot.finetune import _check_saving

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
    _check_saving(tiny, Recording())
    kept = json.loads(path.read_text())
    assert kept.keys() == {"policy", "dataset", "steps", "optimizer", "env_eval_freq"}
    assert (kept["env_eval_freq"], kept["policy"]["push_to_hub"], kept["dataset"]["root"]) == (
        0, False, str(tmp_path / "data"),
    )  # fmt: skip
    path.write_text(json.dumps({**content, "policy": {**policy, "path": "someone/else"}}))
    with pytest.raises(CheckpointError, match="path"):
        _check_saving(tiny, Recording())


@pytest.mark.parametrize("content", ["{}", '{"step": "x"}', '{"step": -1}', '{"step": 1.5}', "[]"])
def test_a_broken_step_of_lerobots_is_refused(tmp_path, content):
    from smolvla_gym.training.lerobot.finetune import _step_of

    state = tmp_path / "lerobot" / "checkpoints" / "last" / "training_state"
    state.mkdir(parents=True)
    (state.parent / "pretrained_model").mkdir()
    (state / "training_step.json").write_text(content)
    with pytest.raises(CheckpointError):
        _step_of(tmp_path)


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint that a test may change."""
    import shutil

    pytest.importorskip("lerobot")
    from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint

    return shutil.copytree(bundled_checkpoint(), tmp_path / "policy", copy_function=shutil.copyfile)
