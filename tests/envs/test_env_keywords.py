from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from smolvla_gym.envs.env_keywords import RealKeywords, SimKeywords
from smolvla_gym.envs.make_real import make_real_env
from smolvla_gym.envs.make_sim import make_sim_env


@pytest.mark.parametrize(("keywords", "make"), [(SimKeywords, make_sim_env), (RealKeywords, make_real_env)])
def test_keywords_have_the_types_of_the_factory(keywords: type, make: Callable[..., Any]) -> None:
    def hints(of: Callable[..., Any]) -> dict[str, Any]:
        return inspect.get_annotations(of)

    declared: dict[str, Any] = {}
    for base in (SimKeywords, keywords):
        declared |= {name: hint.__forward_arg__ for name, hint in hints(base).items()}
    assert declared == {name: hint for name, hint in hints(make).items() if name not in ("image_size", "return")}
