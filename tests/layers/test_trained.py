"""The training form of convolutions: what comes out is equal to the last bit, and so are gradients up to rounding."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.layers import trained
from boxwright.layers.conv import Conv2dSame, conv_norm, freeze_norms

CASES: dict[str, tuple[type[nn.Conv2d], dict[str, Any]]] = {
    "padded": (nn.Conv2d, {"kernel_size": 5, "padding": 2, "bias": False}),
    "bias, no padding": (nn.Conv2d, {"kernel_size": 5}),
    "SAME, strided": (Conv2dSame, {"kernel_size": 5, "stride": 2, "bias": False}),
    "SAME, strided, dilated": (Conv2dSame, {"kernel_size": 5, "stride": 2, "dilation": 2}),
    "dilated": (nn.Conv2d, {"kernel_size": 5, "padding": 4, "dilation": 2}),
    "uneven": (nn.Conv2d, {"kernel_size": (3, 7), "padding": (1, 3), "stride": (1, 2)}),
    "three columns": (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
}


def results(conv: nn.Conv2d, norm: Any, x: Tensor, active: bool, autocast: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    conv.zero_grad()
    form = trained.active() if active else nullcontext()
    with form, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv_norm(x, conv, norm, nn.ReLU6(), add=None)
    (y.float() * torch.arange(y.numel()).sin().view_as(y)).sum().backward()
    assert x.grad is not None
    parameters = [parameter.grad for parameter in conv.parameters() if parameter.grad is not None]
    return [y.detach(), x.grad, *parameters]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_are_equal_and_gradients_up_to_rounding(case: str, autocast: bool) -> None:
    kind, numbers = CASES[case]
    conv = kind(8, 8, groups=8, **numbers).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    frozen = freeze_norms(nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 11, 14).to(memory_format=torch.channels_last)
    for norm in (None, frozen, nn.BatchNorm2d(8).train()):
        plain, formed = (results(conv, norm, x, active, autocast) for active in (False, True))
        assert len(plain) == len(formed) >= 3
        assert torch.equal(plain[0], formed[0])
        for expected, found in zip(plain, formed, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_used_for_wide_depthwise_kernels_with_a_gradient_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    apply = trained._Depthwise.apply
    monkeypatch.setattr(trained._Depthwise, "apply", lambda *given: used.append(len(given[1])) or apply(*given))
    x = torch.randn(1, 8, 9, 9)
    hooked = nn.Conv2d(8, 8, 5, groups=8)
    hooked.register_forward_hook(lambda *_: None)
    wide = nn.Conv2d(8, 8, 5, groups=8)
    with trained.active():
        for conv in (nn.Conv2d(8, 8, 5), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 5, groups=4), hooked):
            conv_norm(x, conv)
        with torch.no_grad():
            conv_norm(x, wide)
        assert used == []
        conv_norm(x, wide)
        assert used == [8]
    conv_norm(x, wide)
    assert used == [8]
