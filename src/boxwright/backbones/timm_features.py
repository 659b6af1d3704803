"""Any network of timm (https://github.com/huggingface/pytorch-image-models) that gives feature maps, as a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from boxwright.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Triple, check_freezing, check_levels


class TimmBackbone(Backbone):
    """timm's `features_only` network; a level is its last map of that stride.

    pretrained  the path of a local state dict of the whole network, with timm's names; timm's own way, a download, is
                left to the user
    others      names to suggest besides timm's where `name` is unknown
    options     of `timm.create_model`, such as `img_size` or `dynamic_img_size=True` of a transformer
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[int] = (3, 4, 5),
        pretrained: bool | str | Path = False,
        frozen_stages: int = 0,
        norm: str = "frozen",
        others: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        import timm  # here, because it takes seconds and most backbones do without
        from timm.layers.norm_act import freeze_batch_norm_2d

        if not timm.is_model(name):
            known = dict.fromkeys([*others, *timm.list_models()])
            raise ValueError(
                f"no backbone {name!r}, neither here nor in timm {timm.__version__}; {near(name, known)}"
                f"there are {', '.join(others)} and the names that timm.list_models() gives"
            )
        options |= _weights(name, pretrained)
        try:
            if pretrained:
                timm.create_model(name, **options)  # strict about the weights, which the call for features is not
            body: Any = timm.create_model(name, features_only=True, **options)
            strides = [int(info["reduction"]) for info in body.feature_info.info]
            last = {stride.bit_length() - 1: index for index, stride in enumerate(strides) if stride.bit_count() == 1}
            check_levels(levels, sorted(last), f"timm's {name}")
            outputs = tuple(last[level] for level in levels)
            if outputs != tuple(body.feature_info.out_indices):
                body = timm.create_model(name, features_only=True, out_indices=outputs, **options)
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"timm cannot build {name!r} with these weights and feature maps: {error}") from error
        check_freezing(frozen_stages, outputs[-1] + 1, norm)
        if norm == "frozen":
            body = freeze_batch_norm_2d(body)
        if frozen_stages:
            end = str(body.feature_info.info[frozen_stages - 1]["module"])
            for part in _up_to(body, end):
                body.set_submodule(part, freeze_batch_norm_2d(body.get_submodule(part)))
                for parameter in body.get_submodule(part).parameters(recurse=False):
                    parameter.requires_grad_(False)
        self.body = body
        self.last_channel = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self.channels = tuple(body.feature_info.channels())
        self.strides = tuple(2**level for level in levels)
        self.pixel_mean = _triple(body.pretrained_cfg.get("mean")) or IMAGENET_MEAN
        self.pixel_std = _triple(body.pretrained_cfg.get("std")) or IMAGENET_STD

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [y.permute(0, 3, 1, 2) for y in maps] if self.last_channel else list(maps)


def near(name: str, known: Iterable[str]) -> str:
    """A half sentence with the known names most like `name`, or nothing."""
    names = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(names)}? " if names else ""


def _triple(values: Sequence[float] | None) -> Triple | None:
    """timm's numbers for 0..1 on our scale of 0..255."""
    if not values:
        return None
    red, green, blue = (255 * value for value in values)
    return red, green, blue


def _weights(name: str, pretrained: bool | str | Path) -> dict[str, Any]:
    """timm's arguments for weights from a file."""
    if pretrained is True:
        raise ValueError(
            f"no package has weights for timm's {name!r}, and nothing is downloaded unasked; pass pretrained=PATH with "
            "the path of a .safetensors or .pth state dict of the whole network"
        )
    if not pretrained:
        return {"pretrained": False}
    if not Path(pretrained).is_file():
        raise FileNotFoundError(f"{pretrained}: there is no such weights file; pass the path of a .safetensors or .pth")
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(pretrained)}}


def _up_to(body: nn.Module, end: str) -> list[str]:
    """The names of all modules that run before `end`, of `end` and of what is in it."""
    names = [name for name, _ in body.named_modules() if name]
    ends = (end, end.replace(".", "_"), "model." + end)  # timm flattens or wraps some networks
    last = max((i for i, name in enumerate(names) if any(f"{name}.".startswith(f"{e}.") for e in ends)), default=None)
    if last is None:
        raise ValueError(f"{type(body).__name__} has no module {end!r}: these stages cannot be frozen; pass 0")
    return names[: last + 1]
