"""A linear layer has the same result with each library."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from smolvla_gym.agent.sampler.layers import VisionLayer, vision_attention
from smolvla_gym.agent.sampler.linear import has_bfloat16_instructions, is_plain, linear, uses_onednn
from smolvla_gym.benchmark.stages import count_flops

LARGE = (256, 512, 1024)
SMALL = (8, 16, 32)


def _parts(rows: int, inner: int, columns: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, rows // 2, inner), (columns, inner), (columns,))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_it_agrees_with_torch(dtype: torch.dtype, shape: tuple[int, int, int], gelu: bool, biased: bool) -> None:
    states, weight, bias = _parts(*shape, dtype)
    wanted = F.linear(states.double(), weight.double(), bias.double() if biased else None)
    wanted = F.gelu(wanted, approximate="tanh") if gelu else wanted
    got = linear(states, weight, bias if biased else None, gelu=gelu)
    assert (got.dtype, got.shape) == (dtype, wanted.shape)
    bound = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]
    assert (got - wanted).abs().max() <= bound * wanted.abs().max()


@torch.no_grad()
def test_large_products_of_types_that_it_knows_go_to_onednn() -> None:
    for dtype, known in ((torch.float32, True), (torch.bfloat16, has_bfloat16_instructions()), (torch.float64, False)):
        assert uses_onednn(*_parts(*LARGE, dtype)[:2]) == known
        assert not uses_onednn(*_parts(*SMALL, dtype)[:2])
    states, weight, _ = _parts(*LARGE, torch.float32)
    assert not uses_onednn(states, weight.bfloat16())
    with torch.backends.mkldnn.flags(enabled=False):
        assert not uses_onednn(states, weight)


def test_gradients_reach_states_and_weights() -> None:
    states, weight, bias = _parts(*LARGE, torch.float32)
    states.requires_grad_()
    weight.requires_grad_()
    linear(states, weight, bias, gelu=True).sum().backward()
    assert states.grad is not None
    assert weight.grad is not None


@torch.no_grad()
def test_operations_are_counted_with_each_library() -> None:
    rows, inner, columns = LARGE
    states, weight, bias = _parts(*LARGE, torch.float32)
    product = 2 * rows * inner * columns
    assert count_flops(lambda: linear(states, weight, bias, gelu=True)) == product
    assert count_flops(lambda: F.linear(states, weight, bias)) == product
    room = torch.zeros((rows, columns))
    assert count_flops(lambda: room.addmm_(states.flatten(0, 1), weight.t())) == product
    for dtype in (torch.float32, torch.bfloat16):
        heads = torch.randn((3, 2, 4, 600, 32)).to(dtype).unbind()
        assert count_flops(lambda heads=heads: vision_attention(*heads)) == 2 * 2 * (2 * 4) * 600 * 600 * 32


@pytest.mark.parametrize("strided", ["states", "rows", "weight", "bias"])
@torch.no_grad()
def test_memory_may_have_gaps_or_another_order(strided: str) -> None:
    states, weight, bias = _parts(*LARGE, torch.float32)
    wanted = F.linear(states, weight, bias)
    if strided == "states":
        states = states.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    elif strided == "rows":
        states = torch.cat([states, states], dim=-1)[..., : states.shape[-1]]
    elif strided == "weight":
        weight = weight.t().contiguous().t()
    else:
        bias = torch.stack([bias, -bias], dim=1)[:, 0]
    torch.testing.assert_close(linear(states, weight, bias), wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_part_of_a_larger_weight_can_be_one() -> None:
    states, weight, bias = _parts(*LARGE, torch.float32)
    whole, part = linear(states, weight, bias), linear(states, weight[256:], bias[256:])
    torch.testing.assert_close(part, whole[..., 256:], rtol=0, atol=1e-4)


def test_layers_with_more_than_a_weight_are_not_plain() -> None:
    class Adapted(nn.Linear):
        pass

    layer = nn.Linear(4, 4)
    assert is_plain(layer)
    assert not is_plain(Adapted(4, 4))
    hook = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    assert not is_plain(layer)
    hook.remove()
    assert is_plain(layer)


@torch.no_grad()
def test_attention_head_by_head_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn((2, 600, 3, 4, 32), generator=generator)
    query, key, value = wide.bfloat16().permute(2, 0, 3, 1, 4).unbind()
    got = vision_attention(query, key, value)
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert got.dtype == torch.bfloat16
    assert got.transpose(1, 2).is_contiguous()
    assert (got - wanted).abs().max() <= 0.02 * wanted.abs().max()
    assert F.cosine_similarity(got.double().flatten(), wanted.flatten(), dim=0) > 0.9999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu", "relu"])
@torch.no_grad()
def test_a_vision_layer_equals_its_module_with_hooks(activation: str, dtype: torch.dtype) -> None:
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMEncoderLayer

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "attn_implementation": "sdpa"}
    layer = SmolVLMEncoderLayer(SmolVLMVisionConfig(**shape, hidden_act=activation)).to(dtype).eval()
    wrapped, states = VisionLayer(layer), torch.randn((2, 520, 256)).to(dtype)
    bound = 1e-5 if dtype == torch.float32 else 0.04
    earlier = None
    for hooked in (None, layer.mlp.activation_fn, layer.mlp.fc1, layer.mlp, layer.self_attn.out_proj):
        if hooked is not None:
            hooked.register_forward_hook(lambda module, inputs, output: 0.5 * output - 1)
        wanted = layer(states, attention_mask=None)
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        torch.testing.assert_close(wrapped(states), wanted, rtol=bound, atol=bound)
        assert earlier is None or (wanted - earlier).abs().max() > 2 * bound
        earlier = wanted
