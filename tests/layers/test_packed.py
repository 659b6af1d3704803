"""The inference form of convolutions gives what `conv_norm` gives, of the weights as they are now."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.backbones import build_backbone
from boxwright.layers import packed as module
from boxwright.layers.conv import Conv2dSame, FrozenBatchNorm2d, conv_norm, freeze_norms
from boxwright.layers.packed import Packed

CONVS: dict[str, Callable[[], nn.Conv2d]] = {
    "3x3": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "1x1 without bias": lambda: nn.Conv2d(16, 8, 1, bias=False),
    "strided, one side": lambda: nn.Conv2d(16, 24, (3, 5), (2, 1), (1, 0)),
    "dilated groups": lambda: nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False),
    "SAME": lambda: Conv2dSame(16, 16, 3, 2, groups=16),
}


@pytest.fixture(autouse=True)
def _is_available() -> None:
    if not module.is_available():
        pytest.skip("this PyTorch has no oneDNN operators")


def norm_of(channels: int) -> nn.BatchNorm2d:
    """A batch norm whose numbers are not the initial ones."""
    norm = nn.BatchNorm2d(channels).eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return norm


def both(packed: Packed, *arguments: Any) -> tuple[Tensor, Tensor]:
    """What `conv_norm` gives packed, and without."""
    with torch.inference_mode():
        expected = conv_norm(*arguments)
        with packed.active():
            return conv_norm(*arguments), expected


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU()])
def test_equals_conv_norm(name: str, activation: nn.Module | None) -> None:
    torch.manual_seed(0)
    conv, packed = CONVS[name](), Packed()
    norm = norm_of(conv.out_channels)
    for shape in ((1, 16, 12, 17), (3, 16, 12, 17), (1, 16, 5, 7)):
        x = 3 * torch.randn(shape)
        shortcut = torch.randn_like(conv(x))
        for arguments in ((None,), (norm,), (freeze_norms(norm),), (norm, activation), (norm, activation, shortcut)):
            found, expected = both(packed, x, conv, *arguments)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert packed._weights


def test_one_pixel_one_channel_and_no_regions() -> None:
    conv, packed = nn.Conv2d(1, 3, 3, padding=1), Packed()
    for shape in ((1, 1, 1, 1), (2, 1, 1, 4), (0, 1, 4, 4)):
        torch.testing.assert_close(*both(packed, torch.randn(shape), conv))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "efficientnet_lite0", "mobilenet_v2", "mobilenet_v3_small", "vgg11"]
)
def test_backbones(name: str) -> None:
    torch.manual_seed(0)
    backbone, packed = build_backbone(name, (3, 4, 5), pretrained=False).eval(), Packed()
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = backbone(x)
        with packed.active():
            found = backbone(x)
    convs = {conv for conv in backbone.modules() if isinstance(conv, nn.Conv2d)}
    assert {conv for conv, _ in packed._weights} == convs, "every convolution is packed"
    for y, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(y, reference, atol=1e-4 * float(reference.abs().max()), rtol=1e-4)


def _in_place(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(2)


def _epsilon(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    norm.eps = 10.0


def _loaded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    norm.load_state_dict(norm_of(norm.num_features).state_dict())


def _exchanged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))


def _fused_optimizer(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True)
    conv.weight.grad = torch.ones_like(conv.weight)
    optimizer.step()


def _statistics(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    norm.train()(5 + torch.randn(4, norm.num_features, 3, 3))
    norm.eval()


@pytest.mark.parametrize("change", [_in_place, _epsilon, _loaded, _exchanged, _fused_optimizer, _statistics])
def test_changed_weights_are_packed_anew(change: Callable[[nn.Conv2d, nn.BatchNorm2d], None]) -> None:
    torch.manual_seed(0)
    conv, packed, x = nn.Conv2d(16, 16, 3), Packed(), torch.randn(1, 16, 8, 8)
    norm = norm_of(16)
    before, _ = both(packed, x, conv, norm)
    weights = packed._weights[conv, norm]
    both(packed, x, conv, norm)
    assert packed._weights[conv, norm] is weights, "nothing changed, so nothing is packed"
    change(conv, norm)
    after, expected = both(packed, x, conv, norm)
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_weights_exchanged_by_hand_are_packed_anew() -> None:
    """Memory that was packed and then freed may hold other weights, at the same address."""
    conv, packed, x = nn.Conv2d(8, 8, 3), Packed(), torch.randn(1, 8, 6, 6)
    for _ in range(20):
        for _ in range(2):
            conv.weight.data = torch.randn(8, 8, 3, 3)
        torch.testing.assert_close(*both(packed, x, conv), atol=1e-4, rtol=1e-4)


def test_another_number_of_threads_may_want_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, packed = nn.Conv2d(32, 32, 3, padding=1), Packed()
    with torch.inference_mode(), packed.active():
        for threads in (1, 2, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            conv_norm(torch.zeros(1, 32, 8, 8), conv)
    (weights,) = packed._weights.values()
    assert [threads for _, threads in weights.of_shape] == [1, 2]


def test_weights_are_kept_once_for_all_shapes_of_one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SHAPES", 10)
    conv, packed = nn.Conv2d(32, 32, 3, padding=1), Packed()
    with torch.inference_mode(), packed.active():
        for size in range(8, 40):
            conv_norm(torch.zeros(1, 32, size, size + 3), conv)
    (weights,) = packed._weights.values()
    assert len(weights.of_layout) <= 6
    assert len(weights.of_shape) <= 10


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_only_for_inference_in_its_precision() -> None:
    conv, packed = nn.Conv2d(8, 8, 3), Packed()
    hooked = nn.Conv2d(8, 8, 3)
    hooked.register_forward_hook(lambda *_: None)
    norm = norm_of(8).train()
    x = torch.randn(1, 8, 6, 6)
    with packed.active():
        conv_norm(x, conv).sum().backward()  # outside of inference mode, with a gradient
        with torch.inference_mode():
            conv_norm(x, hooked)
            conv_norm(x, conv, norm)  # whose statistics are those of the batch
            conv_norm(x.double(), nn.Conv2d(8, 8, 3).double())
            conv_norm(x, nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"))
            conv_norm(x, nn.Conv2d(8, 8, 3))  # made here: changes of its weights are not counted
            with torch.autocast("cpu"):
                conv_norm(x, conv)
            with torch.backends.mkldnn.flags(enabled=False), packed.active():
                conv_norm(x, conv)
    with torch.inference_mode():
        conv_norm(x, conv)
    assert conv.weight.grad is not None
    assert not packed._weights


@pytest.mark.parametrize("shortcut", [None, torch.ones(1, 8, 4, 4)])
def test_hooks_of_an_activation_run(shortcut: Tensor | None) -> None:
    conv, packed, activation, seen = nn.Conv2d(8, 8, 3), Packed(), nn.ReLU(), list[Any]()
    activation.register_forward_hook(lambda *given: seen.append(given[-1]))
    found, _ = both(packed, torch.randn(1, 8, 6, 6), conv, None, activation, shortcut)
    assert packed._weights
    expected, hooked = seen
    torch.testing.assert_close(hooked, expected)
    assert hooked is found


def test_faults_are_reported_as_usual() -> None:
    conv, packed = nn.Conv2d(8, 8, 3), Packed()
    for shape, error in (((1, 4, 6, 6), "to have 8 channels, but got 4"), ((1, 8, 2, 2), "greater than actual input")):
        with pytest.raises(RuntimeError, match=error), torch.inference_mode(), packed.active():
            conv_norm(torch.zeros(shape), conv)


def test_without_the_operators_it_is_computed_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_available", lambda: False)
    conv, packed = nn.Conv2d(8, 8, 3), Packed()
    found, expected = both(packed, torch.randn(1, 8, 6, 6), conv)
    assert torch.equal(found, expected) and not packed._weights


def test_the_check_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    with torch.autocast("cpu"), torch.inference_mode():
        assert module.is_available.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_packs_for_itself() -> None:
    packed = Packed()
    both(packed, torch.randn(1, 8, 6, 6), nn.Conv2d(8, 8, 3), FrozenBatchNorm2d(8))
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert other.dtype == packed.dtype and not other._weights


def test_compiled_code_does_not_use_it() -> None:
    conv, packed, x = nn.Conv2d(8, 8, 3), Packed(), torch.randn(1, 8, 6, 6)
    compiled = torch.compile(lambda x: conv_norm(x, conv), fullgraph=True, backend="eager")
    with torch.inference_mode(), packed.active():
        torch.testing.assert_close(compiled(x), conv(x))
    assert not packed._weights
