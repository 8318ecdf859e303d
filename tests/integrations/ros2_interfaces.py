"""Builds the part of ``control_msgs`` that MoveIt uses into a virtual environment with rclpy: ``ros2_interfaces.py``.

The package index has no wheel of it; the wheels of rclpy bring ROS's generators. It needs a C++ compiler and
``catkin_pkg``, is run by the Python of that environment, and imports nothing of this project.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

PREFIX = Path(sys.prefix)
os.environ["AMENT_PREFIX_PATH"] = str(PREFIX)

from rosidl_cli.command.translate.api import translate  # noqa: E402
from rosidl_generator_c.cli import GenerateC  # noqa: E402
from rosidl_generator_py.cli import GeneratePython  # noqa: E402
from rosidl_generator_type_description.cli import HashTypeDescription  # noqa: E402
from rosidl_typesupport_c.cli import GenerateCTypesupport  # noqa: E402
from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport  # noqa: E402
from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport  # noqa: E402

FILES = {
    "msg/JointTolerance.msg": "string name\nfloat64 position\nfloat64 velocity\nfloat64 acceleration\n",
    "msg/JointComponentTolerance.msg": "string joint_name\nuint16 component\nfloat64 position\nfloat64 velocity\n"
    "float64 acceleration\n",
    "action/FollowJointTrajectory.action": """trajectory_msgs/JointTrajectory trajectory
trajectory_msgs/MultiDOFJointTrajectory multi_dof_trajectory
control_msgs/JointTolerance[] path_tolerance
control_msgs/JointComponentTolerance[] component_path_tolerance
control_msgs/JointTolerance[] goal_tolerance
control_msgs/JointComponentTolerance[] component_goal_tolerance
builtin_interfaces/Duration goal_time_tolerance
---
int32 error_code
string error_string
---
std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint desired
trajectory_msgs/JointTrajectoryPoint actual
trajectory_msgs/JointTrajectoryPoint error
""",
}
NAME = "control_msgs"
USED = ("trajectory_msgs", "std_msgs", "builtin_interfaces", "action_msgs", "unique_identifier_msgs", "service_msgs",
        "geometry_msgs")  # fmt: skip
GENERATED, TYPES = "rosidl_generator_c", "rosidl_typesupport_c"
SUPPORTS = {"rosidl_typesupport_fastrtps_c": "*.cpp", "rosidl_typesupport_introspection_c": "*.c"}
SITE, LIB, SHARE = Path(sysconfig.get_paths()["purelib"]), PREFIX / "lib", PREFIX / "share"


def main(folder):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    os.chdir(folder)
    described = folder / "share" / NAME
    interfaces = [
        str(path)
        for path in translate(
            package_name=NAME, interface_files=list(FILES), include_paths=[str(SHARE)], output_format="idl",
            output_path=described,
        )
    ]  # fmt: skip
    places = [str(SHARE), str(folder / "share")]
    hashes = HashTypeDescription("hash").generate_type_hashes(NAME, interfaces, places, described)
    GenerateC("c").generate(NAME, interfaces, places, folder / GENERATED / NAME, type_description_files=hashes)
    for name, kind in (
        (TYPES, GenerateCTypesupport),
        ("rosidl_typesupport_fastrtps_c", GenerateFastRTPSCTypesupport),
        ("rosidl_typesupport_introspection_c", GenerateIntrospectionCTypesupport),
    ):
        kind(name).generate(NAME, interfaces, places, folder / name / NAME)
    package = SITE / NAME
    GeneratePython("py").generate(NAME, interfaces, places, package)
    (package / "__init__.py").touch()

    library(
        folder, f"{NAME}__{GENERATED}", (folder / GENERATED).rglob("*.c"), GENERATED, ["rosidl_runtime_c", "rcutils"]
    )
    mine = [f"{NAME}__{GENERATED}"]
    for name, pattern in SUPPORTS.items():
        more = ["fastcdr", "rmw", "rosidl_typesupport_fastrtps_cpp"] if "fastrtps" in name else []
        library(folder, f"{NAME}__{name}", (folder / name).rglob(pattern), name, [*mine, name, *more])
    library(folder, f"{NAME}__{TYPES}", (folder / TYPES).rglob("*.cpp"), TYPES, [*mine, TYPES])
    generator = "rosidl_generator_py"
    library(folder, f"{NAME}__{generator}", package.rglob("*_s.c"), generator, mine)
    extension = package / f"{NAME}_s__{TYPES}.so"
    libraries = [f"{NAME}__{generator}", f"{NAME}__{TYPES}", *mine]
    build(folder, extension, [package / f"_{NAME}_s.ep.{TYPES}.c"], libraries)


def library(folder, name, sources, part, others):
    """Builds a library that uses the same part of other packages."""
    build(folder, LIB / f"lib{name}.so", sorted(sources), [*others, *(f"{used}__{part}" for used in USED)])


def build(folder, target, sources, libraries):
    headers = [path for path in (PREFIX / "include").iterdir() if path.is_dir()]
    headers += [folder / name for name in (GENERATED, TYPES, *SUPPORTS)]
    headers += [PREFIX / "include", sysconfig.get_paths()["include"], np.get_include()]
    command = [
        "g++" if any(source.suffix == ".cpp" for source in sources) else "gcc", "-shared", "-fPIC", "-O0", "-w",
        "-o", target, *(f"-I{header}" for header in headers), *sources, f"-L{LIB}", f"-Wl,-rpath,{LIB}",
        *(f"-l{name}" for name in libraries),
    ]  # fmt: skip
    subprocess.run(command, check=True)


with tempfile.TemporaryDirectory() as made:
    main(Path(made))
