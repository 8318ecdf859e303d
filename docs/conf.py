"""Configuration of Sphinx: ``make docs``, or ``sphinx-build -W -n docs docs/_build``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import smolvla_gym

project = "smolvla_gym"
author = "the authors of smolvla_gym"
copyright = author
release = smolvla_gym.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "smolvla_gym"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# The reference needs the base installation alone, and no import of torch that takes longer than all the rest.
autodoc_mock_imports = [
    "accelerate", "cv2", "cyclonedds", "datasets", "huggingface_hub", "lerobot", "libusb_package", "matplotlib",
    "mcap_ros2", "msgpack", "pyarrow", "pygame", "pyrealsense2", "ray", "rclpy", "rerun", "safetensors", "serial",
    "tokenizers", "torch", "transformers", "trimesh", "usb", "viser", "websockets",
]  # fmt: skip
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Class attributes", "Attributes")]
napoleon_use_ivar = True
napoleon_use_rtype = False
suppress_warnings = ["ref.python"]  # a type such as object, which a class has as an attribute, too

# -n checks every reference into this package. Those into other packages would need their inventories from the network.
nitpick_ignore_regex = [(r"py:.*", r"(?!smolvla_gym\b).*")]
