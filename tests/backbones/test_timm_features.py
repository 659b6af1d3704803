"""Networks of timm as backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from boxwright.backbones import build_backbone, build_tail
from boxwright.backbones.simple_pyramid import SimplePyramid

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "levels", "channels"),
    [
        ("timm:resnet18", (3, 4, 5), (128, 256, 512)),
        ("timm:efficientnet_b0", (2, 3), (24, 40)),
        ("convnext_atto", (3, 4, 5), (80, 160, 320)),
        ("vit_tiny_patch16_224", (4,), (192,)),
    ],
)
def test_any_timm_network_keeps_the_contract(name: str, levels: tuple[int, ...], channels: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    backbone, x = build_backbone(name, levels), torch.randn(1, 3, 224, 224)
    maps = backbone(x)
    assert backbone.channels == channels and backbone.strides == tuple(2**level for level in levels)
    assert [tuple(y.shape) for y in maps] == [
        (1, c, 224 // s, 224 // s) for c, s in zip(channels, backbone.strides, strict=True)
    ]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.testing.assert_close(torch.export.export(backbone, (x,)).module()(x), maps)


SMALL_SWIN = {"img_size": 56, "embed_dim": 24, "num_heads": (3, 6, 12, 24), "depths": (2, 2, 2, 2)}


def test_a_swin_transformers_maps_come_channels_first_and_from_any_size() -> None:
    backbone = build_backbone("swin_tiny_patch4_window7_224", (2, 5), **SMALL_SWIN)
    assert backbone.channels == (24, 192)
    for height, width in ((56, 56), (96, 64), (50, 75)):
        maps = backbone(torch.randn(1, 3, height, width))
        wanted = [(-(-height // s), -(-width // s)) for s in (4, 32)]
        assert [tuple(y.shape[1:]) for y in maps] == [(c, *size) for c, size in zip((24, 192), wanted, strict=True)]


PADDED, DROPPED, PATCHES = ((7, 10), (4, 5), (2, 3)), ((6, 9), (3, 4), (1, 2)), ((8, 10), (4, 5), (2, 3))
"""Maps of 50x75 pixels: rounded up; of whole 2x2 neighbourhoods in maps of 13x19; of 4x5 patches of 16x16."""


@pytest.mark.parametrize(
    ("name", "channels", "odd"),
    [
        ("inception_v3", (288, 768, 2048), PADDED),
        ("inception_resnet_v2", (320, 1088, 1536), PADDED),
        ("convnext_tiny", (192, 384, 768), DROPPED),
        ("vit_tiny_patch16_224", (96, 192, 192), PATCHES),
        ("swin_tiny_patch4_window7_224", (192, 384, 768), PADDED),
    ],
)
def test_the_usual_networks_have_the_detectors_levels_at_any_size(
    name: str, channels: tuple[int, ...], odd: tuple[tuple[int, int], ...]
) -> None:
    with torch.device("meta"):
        backbone, coarse = build_backbone(f"timm:{name}", frozen_stages=2), build_backbone(f"timm:{name}", (4, 5))
        even, uneven = backbone(torch.empty(1, 3, 64, 96)), backbone(torch.empty(1, 3, 50, 75))
    assert backbone.channels == channels and coarse.channels == channels[1:] and coarse.strides == (16, 32)
    assert [tuple(y.shape[1:]) for y in even] == list(zip(channels, (8, 4, 2), (12, 6, 3), strict=True))
    assert [tuple(y.shape[1:]) for y in uneven] == [(c, *size) for c, size in zip(channels, odd, strict=True)]
    learning = sum(parameter.requires_grad for parameter in backbone.parameters())
    assert 0 < learning < len(list(backbone.parameters()))


def test_an_inceptions_cells_lie_where_their_stride_says(middle_of_what_sees: Callable) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("timm:inception_v3", (3,)).eval()
    assert middle_of_what_sees(backbone, 128) == 128 / 8


@pytest.mark.parametrize(
    ("name", "options"),
    [("convnext_atto", {}), ("swin_tiny_patch4_window7_224", SMALL_SWIN), ("vit_tiny_patch16_224", {"depth": 3})],
)
def test_a_dilated_level_5_has_stride_16(name: str, options: dict) -> None:
    """By dilation in ConvNeXt, by interpolation in Swin, as it is in a plain transformer."""
    backbone = build_backbone(f"timm:{name}", (4, 5), dilated=True, **options)
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert backbone.strides == (16, 16)
    assert [tuple(y.shape) for y in maps] == [(1, c, 4, 6) for c in backbone.channels]


@pytest.mark.parametrize(
    ("name", "options"),
    [("convnext_atto", {}), ("resnet18", {}), ("swin_tiny_patch4_window7_224", SMALL_SWIN)],
)
def test_a_tail_makes_level_5_of_level_4(name: str, options: dict, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model(name, **options).state_dict(), path)
    level4, level5 = (build_backbone(f"timm:{name}", (level,), pretrained=path, **options).eval() for level in (4, 5))
    tail = build_tail(f"timm:{name}", pretrained=path, **options).eval()
    assert (tail.in_channels,) == level4.channels and (tail.channels,) == level5.channels and tail.size == 14
    with torch.no_grad():
        x = torch.randn(2, 3, 64, 96)
        torch.testing.assert_close(tail(level4(x)[0]), level5(x)[0], rtol=1e-4, atol=1e-5)


def test_a_transformer_without_stages_has_no_tail() -> None:
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 cannot be cut behind stride 16.*take a pyramid"):
        build_tail("timm:vit_tiny_patch16_224")


def test_a_plain_transformer_learns_behind_its_frozen_blocks() -> None:
    backbone = build_backbone("timm:vit_tiny_patch16_224", (2, 3, 4, 5), frozen_stages=2, depth=3)
    assert backbone.channels == (48, 96, 192, 192)
    torch.stack([y.square().mean() for y in backbone(torch.randn(1, 3, 64, 64))]).sum().backward()
    learning = {key for key, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert learning == {
        key for key, _ in backbone.named_parameters() if key.startswith(("body.model.blocks.2", "neck"))
    }


def test_a_simple_pyramid_by_hand() -> None:
    pyramid = SimplePyramid(4, level=4, levels=(3, 4, 5))
    x = torch.arange(4 * 6, dtype=torch.float32).reshape(1, 1, 4, 6).expand(1, 4, 4, 6)
    fine, same, coarse = pyramid([x])
    assert same is x and pyramid.channels == (2, 4, 4)
    assert coarse[0, 0].tolist() == [[7, 9, 11], [19, 21, 23]]
    weight, bias = pyramid.scales[0].parameters()  # (in, out, 2, 2): each cell is spread over four
    spread = torch.einsum("nchw,coij->nohiwj", x, weight).reshape(1, 2, 8, 12) + bias[:, None, None]
    torch.testing.assert_close(fine, spread)
    with pytest.raises(ValueError, match=r"among 2..5 over level 4, got \(1, 4\)"):
        SimplePyramid(4, level=4, levels=(1, 4))


def test_local_weights_make_timms_resnet_ours(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    ours, theirs = build_backbone("resnet18", pretrained=path), build_backbone("timm:resnet18", pretrained=path)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert ours.pixel_mean == pytest.approx(theirs.pixel_mean) and ours.pixel_std == pytest.approx(theirs.pixel_std)
    with pytest.raises(ValueError, match="Missing key"):
        build_backbone("timm:resnet26", pretrained=path)


@pytest.mark.parametrize(("stages", "first"), [(0, "conv1"), (1, "layer1"), (2, "layer2")])
def test_frozen_stages(stages: int, first: str) -> None:
    backbone = build_backbone("timm:resnet18", frozen_stages=stages, norm="batch").train()
    learning = [name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    norms = [name.split(".")[1] for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert learning[0] == first
    assert norms[0] == ("bn1" if stages == 0 else first)


def test_levels_that_a_network_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"among \(2, 3, 4, 5\) for timm's vit_tiny_patch16_224, got \(3, 6\)"):
        build_backbone("vit_tiny_patch16_224", (3, 6))
    with pytest.raises(ValueError, match=r"among \(2, 3, 4, 5\) for timm's convnext_atto, got \(1, 2\)"):
        build_backbone("convnext_atto", (1, 2))
    with pytest.raises(ValueError, match="maps of stride 14, .* takes patch_size=16"):
        build_backbone("vit_small_patch14_dinov2")


def test_an_unknown_name_is_met_with_close_ones() -> None:
    with pytest.raises(ValueError, match="no backbone 'effcientnet_lite0'.*did you mean efficientnet_lite0 or"):
        build_backbone("effcientnet_lite0")


def test_nothing_is_downloaded_unasked() -> None:
    with pytest.raises(ValueError, match="nothing is downloaded unasked; pass pretrained=PATH"):
        build_backbone("timm:resnet18", pretrained=True)


def test_a_file_that_is_damaged_or_would_run_code_never_reaches_timm(tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pth", tmp_path / "was_run"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (trace,))

    torch.save({"weight": Evil()}, path)
    for content in (path.read_bytes(), b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="net.pth is refused: .* Nothing in it was executed"):
            build_backbone("timm:convnext_atto", pretrained=path)
    assert not trace.exists()
    with pytest.raises(FileNotFoundError, match="there is no such weights file"):
        build_backbone("timm:convnext_atto", pretrained=tmp_path / "none.pth")
