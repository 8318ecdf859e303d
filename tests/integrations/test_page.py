"""The page of ``smolvla-gym view`` in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("viser")

import gymnasium as gym

import smolvla_gym
from smolvla_gym.cli.main import main
from smolvla_gym.integrations.viewer.meshes import triangles
from smolvla_gym.sim.shapes import visible_shapes

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip


@pytest.fixture
def serve():
    """Run ``smolvla-gym view`` and return its address."""
    programs = []

    def start(*arguments):
        command = [sys.executable, "-m", "smolvla_gym", "view", "--http-port", "8971", "--duration", "400", *arguments]
        program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        programs.append(program)
        for line in program.stderr:
            if found := re.search(r"smolvla-gym: (http://127\.0\.0\.1:\d+)", line):
                return found[1]
        raise AssertionError("it ended")

    yield start
    for program in programs:
        program.terminate()
        _, last = program.communicate(timeout=60)  # reads to the end: a program whose pipe breaks ends in another way
        assert program.returncode in (143, 130), last


@pytest.fixture
def page():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("env", [[], ["--env", "real", "--port", "twin", "--camera", "twin", "--lockstep"]])
def test_start_instruct_stop_and_emergency_stop(serve, page, tmp_path, env):
    address = serve("--policy", "expert", "--task", "reach", *env)
    page.set_default_timeout(60_000)  # the graphics are computed on the CPU, which others use, too
    page.goto(address)

    def button(name):
        return page.get_by_role("button", name=name, exact=True)

    def sees(text):
        page.get_by_text(text).first.wait_for(timeout=60_000)

    button("Start").wait_for(timeout=60_000)
    sees("idle")
    page.get_by_role("textbox").first.fill("go over there")
    page.get_by_role("textbox").first.press("Tab")
    time.sleep(0.5)
    button("Start").click()
    sees("started go over there")
    sees("succeeded")
    button("Stop").click()
    sees("stopped")
    button("EMERGENCY STOP").click()
    sees("FAULT operator_stop")
    page.mouse.move(200, 450)  # the hint of a button covers the others
    button("Start").click()
    sees("refused")
    button("Clear fault").click()
    sees("cleared")
    time.sleep(2)
    screenshot = tmp_path / "page.png"
    page.screenshot(path=screenshot)
    left = np.asarray(Image.open(screenshot))[200:, :850, :3].astype(int)
    orange = (left[..., 0] > 180) & (left[..., 1] < 140) & (left[..., 2] < 90)
    dark = left.sum(axis=2) < 150
    assert orange.sum() > 30  # the arm's rings
    assert dark.sum() > 2000  # its links


def test_what_cannot_be_served_is_refused(capsys):
    assert main(["view", "--http-port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err
    assert main(["view", "--policy", "nonsense"]) == 2


@pytest.mark.parametrize("gripper", ["ssg48", "pneumatic"])
def test_solids_have_the_size_of_their_shapes(gripper):
    with gym.make(smolvla_gym.SIM_ID, cameras=(), gripper=gripper) as env:
        env.reset(seed=0)
        shapes = visible_shapes(env.unwrapped.backend.world.model)
    kinds = set()
    for shape in shapes:
        vertices, faces = triangles(shape)
        assert faces.max() < len(vertices)
        extent = np.ptp(vertices, axis=0)
        kinds.add(shape.kind)
        wanted = {
            "box": 2 * shape.size,
            "cylinder": 2 * np.array([shape.size[0], shape.size[0], shape.size[1]]),
            "capsule": 2 * np.array([shape.size[0], shape.size[0], shape.size[0] + shape.size[1]]),
            "sphere": np.full(3, 2 * shape.size[0]),
            "ellipsoid": 2 * shape.size,
        }.get(shape.kind)
        if wanted is not None:
            np.testing.assert_allclose(extent, wanted, rtol=0.02)
        if shape.kind != "mesh":
            np.testing.assert_allclose(vertices.max(axis=0) + vertices.min(axis=0), 0, atol=1e-4)
    assert {"box", "cylinder", "mesh"} <= kinds
