"""The physics of the arm and its grippers."""

import mujoco
import numpy as np
import pytest

from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, STANDBY
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.belt import BELT_HEIGHT, belt_x
from smolvla_gym.sim.extras import NO_EXTRAS, Extras
from smolvla_gym.sim.rendering import QUALITIES
from smolvla_gym.sim.scene import CUBE, CUBE_SIZE, PARKING
from smolvla_gym.sim.world import World, start_pose

STRETCHED = {
    "ahead": (0, -5, 265, 0, 0, 180),
    "to_the_side": (100, -10, 260, 90, 80, 90),
    "up": (-60, -60, 265, -90, 45, 300),
    "folded": (20, -140, 115, 0, 30, 20),
}


def make(gripper="ssg48", control_hz=30.0, extras=NO_EXTRAS):
    world = World(
        GRIPPERS[gripper], CUBE, goal=False, control_hz=control_hz, cameras=(), image_size=(64, 64), depth=False,
        quality=QUALITIES["fast"], extras=extras,
    )  # fmt: skip
    world.reset(start_pose(world.gripper))
    for i in range(len(PARKING)):
        world.place_object(i, PARKING[i], 0.0)
    world.settle()
    return world


def advance(world, setpoint):
    """One control step, in which the motors turn straight to a setpoint."""
    world.drive(np.linspace(world.joints, setpoint[:6], world.steps + 1)[1:], setpoint[6])


def measured(world):
    """Joint angles of the bodies themselves, not of the step counters."""
    return np.array([world.data.joint(f"joint_{i}").qpos[0] for i in range(1, 7)])


def arm_contacts(world):
    bodies = world.model.geom_bodyid[world.data.contact.geom[: world.data.ncon]]
    objects = {world.model.body(f"object_{i}").id for i in range(3)}
    return [pair for pair in bodies.tolist() if not objects & set(pair)]


def free_poses(world, count):
    rng, poses = np.random.default_rng(3), []
    while len(poses) < count:
        pose = rng.uniform(JOINT_LOWER, JOINT_UPPER)
        world.reset(pose)
        world.settle()
        # Well clear of everything: the lowest body 5 cm above the table.
        low = min(world.data.xpos[world.model.body(f"link{i}").id][2] for i in range(2, 7))
        if not arm_contacts(world) and min(low, world.tool_position[2]) > 0.05:
            poses.append(pose)
    return poses


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_a_held_pose_does_not_sag(gripper):
    world = make(gripper)
    poses = [STANDBY, start_pose(world.gripper), *(np.deg2rad(p) for p in STRETCHED.values()), *free_poses(world, 6)]
    for pose in poses:
        world.reset(pose)
        world.settle()
        assert not arm_contacts(world), np.rad2deg(pose)
        assert world.data.tree_asleep[0] < 0  # it is held, not frozen
        deflections = []
        for _ in range(60):
            advance(world, np.append(pose, 1.0))
            deflections.append(np.rad2deg(np.abs(measured(world) - pose)))
        assert np.max(deflections) < 0.1, np.rad2deg(pose).round(1)
        drift = np.abs(np.subtract(deflections[-1], deflections[29]))
        assert np.max(drift) < 0.01, np.rad2deg(pose).round(1)


def test_a_payload_of_half_a_kilogram_is_held_too():
    world = make()
    pose = np.deg2rad(STRETCHED["ahead"])
    world.reset(pose)
    world.settle()
    world.data.body("gripper/gripper").xfrc_applied[2] = -0.5 * 9.81
    for _ in range(60):
        advance(world, np.append(pose, 1.0))
    deflection = np.rad2deg(measured(world) - pose)
    assert deflection[4] < -0.05  # the rotor gives way a little in its magnetic field, as a real one does
    assert np.max(np.abs(deflection)) < 0.2


@pytest.mark.parametrize("control_hz", [5.0, 29.97, 30.0, 50.0, 100.0])
def test_a_control_step_takes_its_time_exactly(control_hz):
    world = make(control_hz=control_hz)
    start = np.append(start_pose(world.gripper), 1.0)
    for n in range(1, 21):
        advance(world, start)
        assert world.data.time == pytest.approx(n / control_hz, abs=1e-9)
    assert world.timestep <= 0.004 + 1e-12


@pytest.mark.parametrize("joint", range(6))
def test_a_joint_follows_its_motor_without_a_lag_of_the_model(joint):
    world, time = make(), 0.0
    start, angles, motors = STANDBY.copy(), [], []
    world.reset(start)
    world.settle()
    for _ in range(600):
        time += world.timestep
        path = start.copy()
        path[joint] += np.deg2rad(12.0) * np.sin(np.pi * time) * min(time, 1.0)
        world.drive(path[None], 1.0)
        angles.append(measured(world)[joint])
        motors.append(path[joint])
    motors, angles = np.array(motors[300:]), np.array(angles[300:])
    speeds = np.gradient(motors, world.timestep)
    bases = np.column_stack([speeds, np.gradient(speeds, world.timestep), np.ones_like(speeds)])
    lag, *_ = np.linalg.lstsq(bases, motors - angles, rcond=None)[0]
    assert abs(lag) < 0.0005  # s
    assert np.rad2deg(np.abs(motors - angles).max()) < 0.1


def test_a_motor_that_loses_steps_does_not_throw_its_joint():
    world = make()
    pose = start_pose(world.gripper)
    for joint, slip in enumerate(np.deg2rad([0.3] * 6)):
        world.shift_motor(joint, slip)
    world.drive(world.joints[None], 1.0)
    speed = world.data.qvel[[world.model.joint(f"joint_{i + 1}").dofadr[0] for i in range(6)]]
    assert np.all(np.sign(speed) >= 0)  # pulled to the new place, and not beyond it
    assert np.all(measured(world) < pose + np.deg2rad(0.6))


def test_what_is_derived_belongs_to_the_state_it_is_read_with():
    world = make()
    advance(world, np.append(start_pose(world.gripper) + 0.02, 0.0))
    tool = world.tool_position
    mujoco.mj_kinematics(world.model, world.data)
    np.testing.assert_array_equal(world.tool_position, tool)


def grip(gripper, seconds=1.0):
    """Close a gripper around a cube on the table; return the world and the force of each pad in N."""
    world = make(gripper)
    spot = np.array([0.30, 0.05, CUBE_SIZE / 2])
    joints = solve(spot, np.arctan2(spot[1], spot[0]) + np.pi / 2, world.gripper)
    world.reset(joints)
    world.place_object(0, spot, float(np.arctan2(spot[1], spot[0])))
    for i in (1, 2):
        world.place_object(i, PARKING[i], 0.0)
    world.settle()
    for _ in range(int(30 * seconds)):
        advance(world, np.append(joints, 0.0))
    cube = world.model.geom("object_0").id
    forces = dict.fromkeys(("gripper/pad_left", "gripper/pad_right"), 0.0)
    for i in range(world.data.ncon):
        pair = set(world.data.contact[i].geom.tolist())
        names = {world.model.geom(g).name for g in pair - {cube}}
        if cube in pair and names & set(forces):
            wrench = np.zeros(6)
            mujoco.mj_contactForce(world.model, world.data, i, wrench)
            forces[names.pop()] += wrench[0]
    return world, joints, forces


def test_the_electric_gripper_presses_with_its_documented_force():
    world, _, forces = grip("ssg48")
    assert all(5.0 <= force <= 80.0 for force in forces.values()), forces
    assert world.grasped(0)
    assert 0.4 < world.opening < 0.65  # the 28 mm cube in its 48 mm


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_a_gripped_cube_is_carried_and_falls_when_let_go(gripper):
    world, joints, _ = grip(gripper)
    assert world.grasped(0)
    x, y, z = world.tool_position
    up = solve((x, y, z + 0.06), np.pi / 2, world.gripper, joints[5])
    for share in np.linspace(0, 1, 45):
        advance(world, np.append(joints + share * (up - joints), 0.0))
    for _ in range(30):
        advance(world, np.append(up, 0.0))
    assert world.object_position(0)[2] > 0.06
    assert np.linalg.norm(world.object_position(0) - world.tool_position) < 0.006
    for _ in range(30):
        advance(world, np.append(up, 1.0))
    assert world.released(0)
    assert world.object_position(0)[2] < 0.03


@pytest.mark.parametrize(("gripper", "seconds"), [("ssg48", 0.24), ("pneumatic", 0.15)])
def test_jaws_take_their_time_and_meet_their_ends(gripper, seconds):
    world = make(gripper)
    hold = start_pose(world.gripper)
    jaw = world.data.joint("gripper/jaw_left").qpos
    advance(world, np.append(hold, 0.0))
    assert jaw[0] > 0.5 * world.gripper.stroke
    for _ in range(int(np.ceil(30 * seconds)) + 3):
        advance(world, np.append(hold, 0.0))
    assert jaw[0] == pytest.approx(0.0, abs=0.0005)
    for _ in range(int(np.ceil(30 * seconds)) + 3):
        advance(world, np.append(hold, 1.0))
    assert jaw[0] == pytest.approx(world.gripper.stroke, rel=0.03)


def test_an_electric_gripper_stops_half_way_and_an_air_gripper_does_not():
    for gripper, expected in (("ssg48", [0.25, 0.6]), ("pneumatic", [0.0, 1.0])):
        world = make(gripper)
        reported = []
        for opening in (0.25, 0.6):
            for _ in range(20):
                advance(world, np.append(start_pose(world.gripper), opening))
            reported.append(world.opening)
        assert reported == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("extras", [NO_EXTRAS, Extras(belt_speed=0.02)])
def test_only_what_the_arm_penetrates_is_in_contact_with_it(extras):
    world = make(extras=extras)
    height = CUBE_SIZE / 2 + (0.0 if extras is NO_EXTRAS else BELT_HEIGHT)
    pose, inside = start_pose(world.gripper), world.data.body("link4").xpos.copy()

    def arrange():
        world.place_object(0, np.array([belt_x("ssg48"), 0.1, height - 0.001]), 0.3)  # into what it stands on
        world.place_object(1, inside, 0.0)
        world.place_object(2, PARKING[2], 0.0)

    assert world.objects_in_contact(pose, 1.0, arrange) == [1]
