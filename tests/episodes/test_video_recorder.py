import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from smolvla_gym.episodes.overlay import Caption, compose_frame
from smolvla_gym.episodes.video_recorder import VideoRecorder
from smolvla_gym.errors import RecordingError


def noise(height=96, width=128, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(path, frames, fps=30.0):
    with VideoRecorder(path, fps) as video:
        for frame in frames:
            video.add(frame)


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_file_plays_everywhere(tmp_path):
    path = tmp_path / "new" / "folder" / "video.mp4"
    record(path, [np.full((96, 128, 3), 2 * i, np.uint8) for i in range(45)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height, stream.average_rate, stream.frames) == (128, 96, 30, 45)
        assert float(stream.duration * stream.time_base) == pytest.approx(1.5)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index has to stand in front"
    assert len(decode(path)) == 45
    assert list(path.parent.iterdir()) == [path]


def test_images_survive(tmp_path):
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, :64] = (200, 40, 40)
    image[:, 64:] = (40, 60, 200)
    record(tmp_path / "video.mp4", [image] * 3)
    decoded = decode(tmp_path / "video.mp4")[1].astype(int)
    away_from_edge = np.r_[0:60, 68:128]
    assert np.abs(decoded - image)[:, away_from_edge].max() < 12


def test_odd_sizes_are_padded(tmp_path):
    record(tmp_path / "video.mp4", [noise(95, 127)] * 2)
    assert decode(tmp_path / "video.mp4")[0].shape == (96, 128, 3)


def test_fractional_rates(tmp_path):
    record(tmp_path / "video.mp4", [noise()] * 10, fps=12.5)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)


def test_the_caller_may_reuse_its_array(tmp_path):
    frame = np.zeros((96, 128, 3), np.uint8)
    with VideoRecorder(tmp_path / "video.mp4", 30) as video:
        for value in (0, 100, 200):
            frame[:] = value
            video.add(frame)
            frame[:] = 255
    assert [int(round(image.mean(), -1)) for image in decode(tmp_path / "video.mp4")] == [0, 100, 200]


def test_without_frames_there_is_no_file(tmp_path):
    record(tmp_path / "video.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_leaves_a_playable_file(tmp_path, error):
    def frames():
        yield from [noise()] * 7
        raise error

    with pytest.raises(error):
        record(tmp_path / "video.mp4", frames())
    assert len(decode(tmp_path / "video.mp4")) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_an_older_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_text("old")
    with VideoRecorder(path, 30) as video:
        video.add(noise())
        assert path.read_text() == "old"
        assert not video.saved
    assert video.saved
    assert len(decode(path)) == 1


@pytest.mark.parametrize(
    "frame",
    [noise().astype(float), noise()[..., :1], noise()[0], noise(100, 128)],
    ids=["float", "grey", "row", "other size"],
)
def test_wrong_frames_are_refused_and_the_rest_is_kept(tmp_path, frame):
    with VideoRecorder(tmp_path / "video.mp4", 30) as video:
        video.add(noise())
        with pytest.raises(ValueError, match=r"\(H, W, 3\)|one shape"):
            video.add(frame)
    assert len(decode(tmp_path / "video.mp4")) == 1


def test_a_closed_recorder_refuses_frames(tmp_path):
    video = VideoRecorder(tmp_path / "video.mp4", 30)
    video.add(noise())
    video.close()
    video.close()
    with pytest.raises(ValueError, match="closed"):
        video.add(noise())


def test_a_path_that_cannot_be_written_shows_at_the_first_frame(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="could not be written"):
        VideoRecorder(tmp_path / "file" / "video.mp4", 30)
    with VideoRecorder(tmp_path / "video.mp4", 30) as video:
        (tmp_path / "video.part.mp4").mkdir()
        with pytest.raises(RecordingError, match="could not be written"):
            video.add(noise())
        (tmp_path / "video.part.mp4").rmdir()
        with pytest.raises(RecordingError):  # and it stays so
            video.close()


FULL_DISK = """
import json, os, pathlib, resource, sys
import numpy as np
from smolvla_gym.episodes.video_recorder import VideoRecorder
from smolvla_gym.errors import RecordingError
frames = np.random.default_rng(0).integers(0, 256, (60, 96, 128, 3), dtype=np.uint8)
folder = pathlib.Path(sys.argv[1])
results = {}
for limit in map(int, sys.argv[2:]):
    path = folder / f"{limit}.mp4"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit or resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        with VideoRecorder(path, 30) as video:
            for frame in frames:
                video.add(frame)
        results[limit] = path.stat().st_size
    except RecordingError as error:
        results[limit] = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(results))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX can")
def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    def run(*limits):
        command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *map(str, limits)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    whole = run(0)["0"]
    (tmp_path / "0.mp4").unlink()
    # From "at once" over "while the index is moved to the front" to "by one byte".
    limits = [1, 10_000, whole // 2, *range(whole - 3000, whole, 500), whole - 1, whole]
    results = run(*limits)
    assert results.pop(str(whole)) == whole
    assert all("File too large" in str(result) for result in results.values()), results
    assert [file.name for file in tmp_path.iterdir()] == [f"{whole}.mp4"]
    assert len(decode(tmp_path / f"{whole}.mp4")) == 60


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_space(tmp_path, monkeypatch):
    real = av.open
    monkeypatch.setattr(av, "open", lambda path, *args, **options: real("/dev/full", *args, **options))
    with pytest.raises(RecordingError, match="No space left on device"):
        record(tmp_path / "video.mp4", [noise()] * 3)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "video.part.mp4").symlink_to(tmp_path / "mine")
    record(tmp_path / "video.mp4", [noise()] * 3)
    assert (tmp_path / "mine").read_text() == "precious"
    assert len(decode(tmp_path / "video.mp4")) == 3


def test_the_composed_frame_has_all_parts():
    scene, wrist = np.full((480, 640, 3), 200, np.uint8), np.full((256, 256, 3), (10, 20, 200), np.uint8)
    plain = compose_frame(scene, None, Caption())
    assert np.array_equal(plain, scene)
    assert plain is not scene
    lines = ("Pick up the red cube.", "step 1")
    full = compose_frame(scene, wrist, Caption(lines, success=True))
    assert full.dtype == np.uint8
    assert (full[:480, :640] == 200).all(), "nothing covers the scene"
    assert (full[:480, 640:] == (10, 20, 200)).all(), "the wrist view stands beside it"
    assert full.shape[1] == 640 + 480
    strip = full[480:].astype(int)
    assert strip.max(axis=(0, 1)).min() > 240, "white text"
    assert (strip[..., 1] - strip[..., 0]).max() > 80, "green SUCCESS"
    running = compose_frame(scene, wrist, Caption(lines))[480:].astype(int)
    assert np.ptp(running, axis=2).max() == 0
    failed = compose_frame(scene, wrist, Caption(lines, failure="dropped"))[480:].astype(int)
    assert (failed[..., 0] - failed[..., 1]).max() > 80, "red failure"
    assert failed.shape == running.shape == strip.shape


@pytest.mark.parametrize("size", [(480, 640), (128, 128), (95, 127), (20, 30), (1080, 1920)])
def test_frames_of_any_size_and_texts_of_any_length(size):
    scene, wrist = noise(*size), noise(64, 48)
    for text in ("", "x", "pick up " * 50, "Bitte den Würfel auf den Teller! 把红色方块拿起来"):
        for outcome in (Caption((text, "step 1"), success=True), Caption((text, "step 1"), failure=text)):
            frame = compose_frame(scene, wrist, outcome)
            assert np.array_equal(frame[: size[0], : size[1]], scene)
