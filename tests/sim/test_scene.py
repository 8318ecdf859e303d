"""The MuJoCo model of the arm against the documented dimensions, weights and limits."""

import mujoco
import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, STALL_TORQUE
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.randomization import MAX_LEVEL
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import CUBE, DISC, PUCK, ObjectKind, build_model
from smolvla_gym.sim.world import World, start_pose
from smolvla_gym.tasks import TASKS, Stage

# Rows (d in m, a in m, alpha in rad) of the published table; the sixth is that of each gripper: the air gripper's is
# published, the electric one's tool centre point lies 37 mm (flange) + 105 mm from the wrist on the tool axis.
DH = [(0.1105, 0.02342, -np.pi / 2), (0, 0.18, np.pi), (0, -0.0435, np.pi / 2), (-0.17635, 0, -np.pi / 2),
      (0, 0, np.pi / 2)]  # fmt: skip
ROW6 = {"pneumatic": (-0.0628, -0.04525, np.pi), "ssg48": (-0.142, 0.0, np.pi)}
FLANGE = [  # joints in deg, centre of the bare flange in mm
    ((0, -90, 180, 0, 0, 180), (236.77, 0, 334.00)),
    ((90, -90, 180, 0, 0, 180), (0, 236.77, 334.00)),
    ((0, -45, 180, 0, 0, 180), (332.32, 0, 117.68)),
    ((0, -90, 180, 0, 90, 180), (199.77, 0, 371.00)),
    ((30, -60, 150, 20, -30, 200), (211.21, 114.64, 98.97)),
]


def turn(axis, angle):
    """Rotation about a coordinate axis, by Rodrigues' formula, shape (3, 3)."""
    k = np.zeros((3, 3))
    i, j = {"z": (0, 1), "x": (1, 2)}[axis]
    k[i, j], k[j, i] = -1.0, 1.0
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def documented_tool(joints, gripper):
    """Position and orientation of the tool: joint by joint, turn q about z, go d along z, a along the new x, tilt."""
    position, rotation = np.zeros(3), np.eye(3)
    for q, (d, a, alpha) in zip(joints, [*DH, ROW6[gripper]], strict=True):
        position = position + rotation @ [0, 0, d]
        rotation = rotation @ turn("z", q)
        position = position + rotation @ [a, 0, 0]
        rotation = rotation @ turn("x", alpha)
    return position, rotation


@pytest.fixture(scope="module", params=sorted(GRIPPERS))
def scene(request):
    model = build_model(GRIPPERS[request.param], CUBE, goal=False, timestep=0.004)
    return request.param, model, mujoco.MjData(model)


def pose(model, data, joints):
    for i, q in enumerate(joints):
        data.joint(f"joint_{i + 1}").qpos[0] = q
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)


def test_tool_frame_is_that_of_the_dh_table(scene):
    gripper, model, data = scene
    rng = np.random.default_rng(7)
    site = data.site("gripper/tcp")
    far, turned = 0.0, 0.0
    for joints in rng.uniform(JOINT_LOWER, JOINT_UPPER, (1000, 6)):
        pose(model, data, joints)
        position, rotation = documented_tool(joints, gripper)
        far = max(far, np.linalg.norm(site.xpos - position))
        difference = rotation.T @ site.xmat.reshape(3, 3)
        # sin of the angle from the antisymmetric part: exact where the arc cosine of the trace is not.
        axis = [difference[2, 1] - difference[1, 2], difference[0, 2] - difference[2, 0],
                difference[1, 0] - difference[0, 1]]  # fmt: skip
        turned = max(turned, np.arctan2(np.linalg.norm(axis) / 2, (np.trace(difference) - 1) / 2))
    assert far <= 1e-5
    assert np.rad2deg(turned) <= 0.01


@pytest.mark.parametrize(("degrees", "millimetres"), FLANGE)
def test_flange_meets_the_documented_poses(scene, degrees, millimetres):
    _, model, data = scene
    pose(model, data, np.deg2rad(degrees))
    np.testing.assert_allclose(data.site("flange").xpos * 1000, millimetres, atol=0.006)


def test_positive_angles_turn_as_the_protocol_says(scene):
    _, model, data = scene
    pose(model, data, np.deg2rad([0, -90, 180, 0, 0, 180]))
    axes = [data.joint(f"joint_{i}").xaxis for i in range(1, 7)]
    expected = [[0, 0, 1], [0, 1, 0], [0, -1, 0], [-1, 0, 0], [0, -1, 0], [-1, 0, 0]]
    np.testing.assert_allclose(axes, expected, atol=1e-9)


def test_the_arm_weighs_what_the_data_sheet_says(scene):
    _, model, _ = scene
    links = ["base", *(f"link{i}" for i in range(1, 7))]
    masses = np.array([model.body(name).mass[0] for name in links])
    assert masses.sum() == pytest.approx(5.5, abs=0.01)
    assert np.all(masses > 0.05)


def test_inertias_are_those_of_bodies_that_can_exist(scene):
    _, model, _ = scene
    for body in range(1, model.nbody):
        a, b, c = np.sort(model.body_inertia[body])
        assert a > 0 or model.body_mass[body] == 0
        assert a + b >= c * (1 - 1e-9)
        # The radius of gyration stays below 20 cm: no link is longer than that.
        assert c <= max(model.body_mass[body], 1e-12) * 0.2**2


def test_joints_stop_beyond_the_soft_limits_and_close_to_them(scene):
    _, model, _ = scene
    stops = np.array([model.joint(f"joint_{i}").range for i in range(1, 7)])
    assert np.all(stops[:, 0] < JOINT_LOWER)
    assert np.all(stops[:, 1] > JOINT_UPPER)
    assert np.all(np.abs(stops - np.column_stack([JOINT_LOWER, JOINT_UPPER])) < np.deg2rad(2))


def test_motors_pull_no_harder_than_the_real_ones(scene):
    _, model, _ = scene
    force = np.array([model.actuator(f"joint_{i}").forcerange for i in range(1, 7)])
    np.testing.assert_allclose(force, np.column_stack([-STALL_TORQUE, STALL_TORQUE]), rtol=1e-3)


def test_the_arm_does_not_touch_itself_or_the_table_over_the_workspace(scene):
    gripper, model, data = scene
    (x0, x1), (y0, y1) = {"ssg48": ((0.12, 0.32), (-0.13, 0.13)), "pneumatic": ((0.27, 0.38), (-0.14, 0.14))}[gripper]
    stroke, checked = GRIPPERS[gripper].stroke, 0
    for x in np.linspace(x0, x1, 5):
        for y in np.linspace(y0, y1, 5):
            for z in (0.014, 0.06, 0.12):
                for yaw in np.linspace(0, np.pi, 4, endpoint=False):
                    joints = solve((x, y, z), yaw, GRIPPERS[gripper])
                    if joints is None:
                        assert z > 0.1  # only high above the edge of the workspace is out of reach
                        continue
                    for jaw in ("gripper/jaw_left", "gripper/jaw_right"):
                        data.joint(jaw).qpos[0] = stroke
                    pose(model, data, joints)
                    mujoco.mj_collision(model, data)
                    arm = data.contact.geom[: data.ncon]
                    bodies = {tuple(model.body(model.geom_bodyid[g]).name for g in pair) for pair in arm}
                    bodies -= {pair for pair in bodies if any(name.startswith("object_") for name in pair)}
                    assert not bodies, (x, y, z, yaw)
                    checked += 1
    assert checked >= 200


GEOM = mujoco.mjtGeom
KINDS = [
    ObjectKind("ball", GEOM.mjGEOM_SPHERE, (0.015, 0.0, 0.0)),
    ObjectKind("pill", GEOM.mjGEOM_CAPSULE, (0.01, 0.012, 0.0)),
    ObjectKind("egg", GEOM.mjGEOM_ELLIPSOID, (0.012, 0.014, 0.02)),
    ObjectKind("brick", GEOM.mjGEOM_BOX, (0.02, 0.01, 0.015)),
    ObjectKind("rod", GEOM.mjGEOM_CYLINDER, (0.012, 0.02, 0.0)),
]


def lowest(model, data, geom):
    """Height in m at which a ray straight up through a geom's centre enters it."""
    origin = data.geom_xpos[geom] - [0.0, 0.0, 1.0]
    shape = (data.geom_xpos[geom], data.geom_xmat[geom], model.geom_size[geom])
    return origin[2] + mujoco.mju_rayGeom(*shape, origin, np.array([0.0, 0.0, 1.0]), int(model.geom_type[geom]))


@pytest.mark.parametrize("kind", [*KINDS, *(task.kind for task in TASKS.values())], ids=lambda kind: kind.name)
def test_objects_begin_resting_on_the_table(kind):
    task = type("Any", (type(TASKS["lift"]),), {"kind": kind})()
    world = World(GRIPPERS["ssg48"], kind, goal=False, control_hz=30, cameras=(), image_size=(16, 16), depth=False,
                  quality=QUALITIES["fast"])  # fmt: skip
    try:
        stage = Stage(world, task, control_hz=30, randomization=MAX_LEVEL, num_objects=3, reward="dense")
        rng = np.random.default_rng(0)
        for _ in range(3):
            stage.draw(rng)
            world.reset(start_pose(GRIPPERS["ssg48"]))
            stage.arrange(rng)
            for i in range(3):
                assert lowest(world.model, world.data, world.model.geom(f"object_{i}").id) == pytest.approx(
                    0.0, abs=1e-9
                )
        before = [world.object_position(i)[2] for i in range(3)]
        world.drive(np.tile(start_pose(GRIPPERS["ssg48"]), (60, 1)), 1.0)
        assert [world.object_position(i)[2] for i in range(3)] == pytest.approx(before, abs=1e-3)
    finally:
        world.close()


def test_the_tasks_objects_lie_where_they_always_lay():
    assert [kind.half_height for kind in (CUBE, PUCK, DISC)] == [0.014, 0.012, 0.001]


@pytest.mark.parametrize(
    ("geom", "size", "option"),
    [
        (GEOM.mjGEOM_PLANE, (1, 1, 1), "geom"), (GEOM.mjGEOM_MESH, (1, 1, 1), "geom"),
        (GEOM.mjGEOM_SPHERE, (0.0, 0.0, 0.0), "size"), (GEOM.mjGEOM_BOX, (0.01, 0.01, 0.0), "size"),
        (GEOM.mjGEOM_CAPSULE, (0.01, np.nan, 0.0), "size"), (GEOM.mjGEOM_SPHERE, (0.01,), "size"),
    ],
)  # fmt: skip
def test_an_object_has_a_shape_that_stands_on_a_table(geom, size, option):
    with pytest.raises(OptionError) as error:
        ObjectKind("thing", geom, size)
    assert error.value.option == option
