"""Statistics of a checkpoint with wrong units or with spreads near zero are refused."""

import json

import numpy as np
import pytest

from smolvla_gym.agent.checkpoint.spec import read_spec
from smolvla_gym.agent.checkpoint.validation import check_checkpoint
from smolvla_gym.errors import PolicyMismatchError

pytest.importorskip("lerobot")

POST = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
PRE = "policy_preprocessor_step_5_normalizer_processor.safetensors"
JOINTS = np.float32([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.4])


def tensors(path, change):
    from safetensors.numpy import load_file, save_file

    content = {key: value.copy() for key, value in load_file(path).items()}
    change(content)
    save_file(content, path)


def use(folder, kind, mode):
    """Has a checkpoint normalise by another mode."""
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
        content = json.loads((folder / name).read_text())
        if name == "config.json":
            content["normalization_mapping"][kind] = mode
        for step in content.get("steps", ()):
            if "norm_map" in step.get("config", {}):
                step["config"]["norm_map"][kind] = mode
        (folder / name).write_text(json.dumps(content))


def check(folder):
    check_checkpoint(read_spec(folder))


@pytest.mark.parametrize(("file", "key"), [(PRE, "observation.state.std"), (POST, "action.std")])
@pytest.mark.parametrize("value", [0.0, -0.5, 1e-8, 1e-4])
def test_deviations_that_blow_numbers_up_are_refused(copy, file, key, value):
    tensors(copy / file, lambda content: content[key].__setitem__(3, value))
    with pytest.raises(PolicyMismatchError, match=r"std .* \(joint_4\)"):
        check(copy)


def test_a_deviation_at_the_floor_of_record_and_train_is_fine(copy):
    from smolvla_gym.data.statistics import MIN_STD

    tensors(copy / PRE, lambda content: content["observation.state.std"].fill(MIN_STD))
    check(copy)


BOUNDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}


@pytest.mark.parametrize("mode", BOUNDS)
@pytest.mark.parametrize(("kind", "file", "key"), [("STATE", PRE, "observation.state"), ("ACTION", POST, "action")])
def test_bounds_are_checked(copy, mode, kind, file, key):
    use(copy, kind, mode)
    low, high = (f"{key}.{name}" for name in BOUNDS[mode])
    center = np.float32([0, 0, 0, 0, 0, 0, 0.5])
    tensors(copy / file, lambda content: content.update({low: center - JOINTS, high: center + JOINTS}))
    check(copy)
    for wrong in (center - JOINTS, center - 2 * JOINTS):  # none between them, and the wrong way round
        tensors(copy / file, lambda content, wrong=wrong: content.update({high: wrong}))
        with pytest.raises(PolicyMismatchError, match=r"joint_1|contradict"):
            check(copy)
    tensors(copy / file, lambda content: content.update({high: center + JOINTS * 90}))
    with pytest.raises(PolicyMismatchError, match="degrees"):
        check(copy)
    tensors(copy / file, lambda content: content.pop(high))
    with pytest.raises(PolicyMismatchError, match="no normalisation statistics"):
        check(copy)


@pytest.mark.parametrize(
    ("file", "key", "component", "value"),
    [
        (PRE, "observation.state.mean", 2, 180.0),
        (PRE, "observation.state.max", 0, 120.0),
        (PRE, "observation.state.min", 1, -145.0),
        (PRE, "observation.state.std", 2, 40.0),
        (PRE, "observation.state.max", 6, 100.0),
        (POST, "action.max", 0, 120.0),
        (POST, "action.max", 6, 100.0),
        (POST, "action.std", 6, 30.0),
    ],
)
def test_degrees_and_percentages_are_seen_in_any_statistic(copy, file, key, component, value):
    tensors(copy / file, lambda content: content[key].__setitem__(component, value))
    with pytest.raises(PolicyMismatchError, match="degrees or percent"):
        check(copy)


def test_statistics_that_contradict_each_other_are_refused(copy):
    tensors(copy / POST, lambda content: content["action.min"].__setitem__(0, 3.0))
    with pytest.raises(PolicyMismatchError, match="contradict"):
        check(copy)


def test_another_mode_than_that_of_the_training_is_refused(copy):
    content = json.loads((copy / "config.json").read_text())
    content["normalization_mapping"]["ACTION"] = "MIN_MAX"
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(PolicyMismatchError, match="MIN_MAX"):
        check(copy)


def test_a_state_that_is_left_out_of_the_normalisation_is_refused(copy):
    path = copy / "policy_preprocessor.json"
    content = json.loads(path.read_text())
    content["steps"][5]["config"]["normalize_observation_keys"] = ["observation.images.wrist"]
    path.write_text(json.dumps(content))
    with pytest.raises(PolicyMismatchError, match="no normalisation"):
        check(copy)


@pytest.mark.parametrize(("mean", "std", "right"), [(0.5, 0.2, True), (120.0, 50.0, False), (0.5, 0.0, False)])
def test_statistics_of_images_are_of_0_to_1(copy, mean, std, right):
    use(copy, "VISUAL", "MEAN_STD")
    for camera in ("wrist", "scene"):
        key = f"observation.images.{camera}"
        values = {
            f"{key}.mean": np.full((3, 1, 1), mean, np.float32),
            f"{key}.std": np.full((3, 1, 1), std, np.float32),
        }
        tensors(copy / PRE, lambda content, values=values: content.update(values))
    if right:
        check(copy)
        return
    with pytest.raises(PolicyMismatchError, match=r"observation\.images"):
        check(copy)
