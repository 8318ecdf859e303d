"""Invalid instructions are refused, and instructions that a policy would misread cause an error or a warning."""

import json
import time
import warnings

import pytest

from smolvla_gym.agent.checkpoint.provenance import Provenance
from smolvla_gym.agent.instructions import MAX_CHARACTERS, InstructionReader, check_instruction
from smolvla_gym.errors import OptionError

RED = "pick up the red cube"


@pytest.mark.parametrize(
    "text", [RED, f" {RED} ", "Nimm den roten Würfel!", "拿起红色方块", "می\u200cخواهم", "take 🟥"]
)
def test_plain_text_stays_as_it_is(text):
    assert check_instruction(text) == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_end_makes_no_difference(end):
    assert check_instruction(RED + end) == RED


@pytest.mark.parametrize(
    "text",
    ["", " \n", "a\nb", "a\tb", "a\0b", "\x1b[2J", "re\u200bd", "\u202ered", "\ud800", "a\u2028b", None, 3, b"x"],
)
def test_invalid_instructions_are_refused(text):
    with pytest.raises(OptionError) as refused:
        check_instruction(text)
    assert refused.value.option == "instruction"
    str(refused.value).encode()  # it can be printed


def test_a_million_characters_are_refused_before_tokenizing():
    reader = InstructionReader("policy", lambda text: pytest.fail("it was tokenized"), limit=48)
    began = time.perf_counter()
    with pytest.raises(OptionError, match="1000000 characters") as refused:
        reader.read("x" * 1_000_000)
    assert time.perf_counter() - began < 0.5
    assert len(str(refused.value)) < 500
    assert check_instruction("x" * MAX_CHARACTERS)


def test_too_many_tokens_are_refused_with_both_numbers():
    reader = InstructionReader("policy", lambda text: len(text.split()) + 1, limit=6)
    assert reader.read(RED) == RED
    with pytest.raises(OptionError, match=r"7 tokens.* first 6"):
        reader.read(f"{RED} now")
    assert reader.read(RED) == RED


def test_only_a_policy_trained_in_lower_case_gets_lower_case():
    def read(provenance):
        return InstructionReader("policy", len, provenance=provenance).read("Pick up the RED cube")

    assert read(None) == read(Provenance(30)) == "Pick up the RED cube"
    assert read(Provenance(30, lowercase=True)) == RED


def test_marks_of_the_tokenizer_are_no_words():
    reader = InstructionReader("policy", len, special=("<image>",), provenance=Provenance(30, lowercase=True))
    with pytest.raises(OptionError, match="<image>"):
        reader.read("pick up the <IMAGE>")


def test_unknown_words_are_named_once():
    reader = InstructionReader("policy", len, provenance=Provenance(30, words=("the", "pick", "up", "red", "cube")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader.read("Pick up the red cube.")
    with pytest.warns(UserWarning, match="'mauve', 'teapot'"):
        reader.read("pick up the mauve teapot")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader.read("the mauve teapot")
        reader.read("pick up the mauve teapot")


# With a tokenizer.


@pytest.fixture(scope="module")
def bundled():
    pytest.importorskip("lerobot")
    from smolvla_gym.agent import SmolVLAAgent

    return SmolVLAAgent.from_pretrained("bundled", device="cpu")


def tokens(agent, instruction):
    text = agent.policy.check_instruction(instruction)
    batch = agent.policy.checkpoint.preprocessor({"task": text, "observation.state": __import__("torch").zeros(7)})
    return batch["observation.language.tokens"][0].tolist()


def test_the_bundled_policy_ignores_case(bundled):
    assert tokens(bundled, "Pick up the Red CUBE") == tokens(bundled, RED)


def test_the_bundled_policy_reads_all_or_refuses(bundled):
    steps = bundled.policy.checkpoint.preprocessor.steps
    tokenizer = next(step.input_tokenizer for step in steps if hasattr(step, "input_tokenizer"))
    for count in range(30, 60):
        text = "cube" + " red" * count
        needed = len(tokenizer(f"{text}\n")["input_ids"])
        if needed <= 48:
            assert len(tokens(bundled, text)) == needed
        else:
            with pytest.raises(OptionError, match=f"{needed} tokens.* 48"):
                bundled.reset(text)


def test_another_checkpoint_gets_the_text_unchanged(loaded):
    from smolvla_gym.agent.policies.local import LocalPolicy

    assert LocalPolicy(loaded).check_instruction("Pick up the Red CUBE") == "Pick up the Red CUBE"


def test_a_checkpoint_can_list_its_vocabulary(copy):
    from smolvla_gym.agent.checkpoint.load import load_checkpoint
    from smolvla_gym.agent.policies.local import LocalPolicy

    content = {"control_hz": 15, "gripper": "pneumatic", "lowercase": True, "words": ["cube", "the"]}
    (copy / "parol6.json").write_text(json.dumps(content))
    policy = LocalPolicy(load_checkpoint(copy, device="cpu"))
    assert (policy.card.control_hz, policy.card.gripper) == (15.0, "pneumatic")
    with pytest.warns(UserWarning, match="'lift'"):
        assert policy.check_instruction("Lift the cube") == "lift the cube"
