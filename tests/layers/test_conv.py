"""Convolutions, padding and fixed batch norm against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.layers.conv import (
    Conv2dSame,
    ConvSequential,
    FrozenBatchNorm2d,
    conv_norm,
    freeze_norms,
    init_convs,
    round_channels,
)


def lived_in_norm(channels: int, eps: float = 1e-3) -> nn.BatchNorm2d:
    """A batch norm whose numbers are not the initial ones."""
    norm = nn.BatchNorm2d(channels, eps)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean):
        assert value is not None
        value.normal_()
    assert norm.running_var is not None
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def test_same_padding_puts_the_odd_cell_at_the_end() -> None:
    conv = Conv2dSame(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    ones = torch.ones(1, 1, 4, 5)
    # Width 5 wants one cell on either side; height 4 wants a single one, below.
    assert conv(ones).tolist() == [[[[6, 9, 6], [4, 6, 4]]]]


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 2, 7), (3, 2, 8), (5, 2, 9), (5, 2, 10), (3, 1, 6), (1, 2, 5)]
)
def test_same_padding_gives_ceil_of_size_over_stride(kernel: int, stride: int, size: int) -> None:
    conv = Conv2dSame(2, 3, kernel, stride=stride)
    assert conv(torch.zeros(1, 2, size, size + 1)).shape == (1, 3, -(-size // stride), -(-(size + 1) // stride))


def test_frozen_norm_is_batch_norm_in_eval_mode_and_never_changes() -> None:
    norm = lived_in_norm(4).eval()
    frozen = freeze_norms(copy.deepcopy(norm)).train()
    x = torch.randn(2, 4, 5, 3)
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    torch.testing.assert_close(frozen(x), norm(x))
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert not list(frozen.parameters())
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


def test_frozen_norm_takes_a_batch_norm_state_dict_with_or_without_its_counter() -> None:
    state = lived_in_norm(4).state_dict()
    FrozenBatchNorm2d(4).load_state_dict(state, strict=True)
    state.pop("num_batches_tracked")
    FrozenBatchNorm2d(4).load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match="running_var"):
        FrozenBatchNorm2d(4).load_state_dict({key: state[key] for key in ("weight", "bias", "running_mean")})


def value_and_gradients(y: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), wanted)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_convolution_and_fixed_norm_in_one_pass_equal_the_two(kind: type[nn.Conv2d], bias: bool) -> None:
    conv, norm = kind(4, 6, 3, stride=2, groups=2, bias=bias), lived_in_norm(6).eval()
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    wanted = [x, *conv.parameters()]
    two = value_and_gradients(norm(conv(x)), wanted)
    for fixed in (norm, freeze_norms(copy.deepcopy(norm))):
        assert isinstance(fixed, nn.BatchNorm2d | FrozenBatchNorm2d)
        torch.testing.assert_close(value_and_gradients(conv_norm(x, conv, fixed), wanted), two, rtol=1e-4, atol=1e-4)


def test_a_norm_in_training_still_learns_its_statistics() -> None:
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    x = torch.randn(8, 3, 6, 6)
    y = conv_norm(x, conv, norm)
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 1
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)


def test_a_sequence_with_and_without_fusion_is_the_same() -> None:
    parts = [nn.Conv2d(3, 8, 3), lived_in_norm(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3), lived_in_norm(4)]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ConvSequential(*parts).eval()(x), nn.Sequential(*parts).eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ConvSequential(nn.ReLU(), parts[0])(x), parts[0](x.relu()))


def test_depthwise_stays_in_float32_under_cpu_autocast_and_the_rest_does_not() -> None:
    depthwise, dense = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3)
    norm = freeze_norms(lived_in_norm(8))
    assert isinstance(norm, FrozenBatchNorm2d)
    x = torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv_norm(x.bfloat16(), depthwise, norm).dtype == torch.float32
        assert conv_norm(x, dense, norm).dtype == torch.bfloat16
        inside = conv_norm(x, depthwise, norm)
    torch.testing.assert_close(inside, norm(depthwise(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_map_narrower_than_the_stride_are_right_under_cpu_autocast(
    size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    """oneDNN's weight gradient in bfloat16 may be nan or random there: P6 of 64 pixels."""
    for _ in range(4):  # it depends on what the memory held before
        conv = nn.Conv2d(64, 64, 3, stride=2, padding=1).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        x = torch.randn(2, 64, *size).to(memory_format=memory_format)
        gradients = []
        for precision in (torch.float32, torch.bfloat16):
            conv.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
                conv_norm(x.to(precision), conv).float().square().sum().backward()
            assert conv.weight.grad is not None
            gradients.append(conv.weight.grad)
        torch.testing.assert_close(*gradients, rtol=0.1, atol=0.1 * gradients[0].abs().max().item())


def test_autocast_compiles_to_the_same() -> None:
    sequence = ConvSequential(nn.Conv2d(8, 8, 3, groups=8), freeze_norms(lived_in_norm(8)), nn.Conv2d(8, 4, 1)).eval()
    compiled = torch.compile(sequence, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        x = torch.randn(1, 8, 6, 6)
        assert torch.equal(compiled(x), sequence(x))


def test_initial_weights_keep_the_variance_of_the_gradient_for_depthwise_too() -> None:
    depthwise = nn.Conv2d(512, 512, 3, groups=512)
    init_convs(nn.Sequential(depthwise))
    assert depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert depthwise.bias is not None and not depthwise.bias.any()
    # A gradient of variance 1 behind the ReLU, half of it let through, keeps variance 1 on its way back.
    y = F.conv_transpose2d(
        torch.randn(1, 512, 20, 20) * (torch.rand(1, 512, 20, 20) < 0.5), depthwise.weight, groups=512
    )
    assert y[..., 3:-3, 3:-3].var().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("wanted", "channels"), [(17.6, 16), (26.4, 24), (44, 48), (123.2, 120), (11.9, 16), (3, 8)])
def test_channels_round_to_eights(wanted: float, channels: int) -> None:
    assert round_channels(wanted) == channels
