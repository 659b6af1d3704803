"""Any network of timm (https://github.com/huggingface/pytorch-image-models) that gives feature maps, as a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Backbone, Classifier, check_freezing, check_levels, check_norm, pad_same
from boxwright.backbones.pretrained import read_weights
from boxwright.backbones.simple_pyramid import SimplePyramid
from boxwright.backbones.tail import REGION, Tail

ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""Options that let a network take inputs of any size: plain transformers, those with windows, convolutions anyway."""


class TimmBackbone(Backbone):
    """timm's `features_only` network; a level is its last map of that stride.

    A plain vision transformer, all of whose maps have one stride, gets a `SimplePyramid` on the last of them. Networks
    made for one size of input take any, where timm lets them.

    pretrained  the path of a local state dict of the whole network, with timm's names; timm's own way, a download, is
                left to the user
    others      names to suggest besides timm's where `name` is unknown
    options     of `timm.create_model`, such as `img_size`, where a transformer's weights are for another one
    """

    def __init__(
        self, name: str, levels: Sequence[int] = (3, 4, 5), pretrained: bool | str | Path = False,
        frozen_stages: int = 0, norm: str = "frozen", dilated: bool = False, others: Iterable[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        check_norm(norm)
        network = _Plan(name, pretrained, others, options)
        if network.plain is None:
            check_levels(levels, sorted(network.last), f"timm's {name}")
            outputs = [network.last[level] for level in levels]
        else:
            check_levels(levels, range(network.plain - 2, network.plain + 2), f"timm's {name}")
            outputs = [network.last[network.plain]]
        wide = dilated and network.plain is None and 5 in levels
        self.enlarged = wide and not network.dilate()
        body = network.build(outputs, norm)
        check_freezing(frozen_stages, outputs[-1] + 1)
        if frozen_stages:
            _freeze(body, str(body.feature_info.info[frozen_stages - 1]["module"]))
        self.body = body
        self.last_channel = _last_channel(body)
        self.multiple = network.strides[0]
        self.channels = tuple(body.feature_info.channels())
        self.strides = tuple(2 ** (min(level, 4) if dilated else level) for level in levels)
        self.neck: nn.Module = nn.Identity()
        if network.plain is not None:
            self.neck = SimplePyramid(self.channels[0], network.plain, [s.bit_length() - 1 for s in self.strides])
            self.channels = self.neck.channels
        mean, std = (body.pretrained_cfg.get(key) or () for key in ("mean", "std"))  # of pixels in 0..1
        self.pixel_mean = tuple(255 * value for value in mean) or Classifier.pixel_mean
        self.pixel_std = tuple(255 * value for value in std) or Classifier.pixel_std

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W) to a map (N, channels, H / stride, W / stride) per level, sizes rounded up."""
        # Patches are cut without a rest. Where convolutions cut them, this only is the padding they would do.
        height, width = x.shape[2:]
        maps = self.body(F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple)))
        maps = [y.permute(0, 3, 1, 2) for y in maps] if self.last_channel else list(maps)
        if self.enlarged:
            maps[-1] = F.interpolate(maps[-1], scale_factor=2.0, mode="bilinear")
        return self.neck(maps)


class TimmTail(Tail):
    """The modules of a timm network behind its level 4, where timm runs its modules one after the other."""

    def __init__(
        self, name: str, pretrained: bool | str | Path = False, norm: str = "frozen", others: Iterable[str] = (),
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        from timm.models import FeatureListNet

        check_norm(norm)
        network = _Plan(name, pretrained, others, options)
        if not issubclass(network.kind, FeatureListNet) or not {4, 5} <= set(network.last):
            raise ValueError(
                f"timm's {name} cannot be cut behind stride 16, so nothing of it can run on every region; take a "
                "pyramid of it (levels=(3, 4, 5)) with a head of its own, or a network such as resnet50 or "
                "timm:convnext_tiny"
            )
        body = network.build([network.last[4], network.last[5]], norm)
        level4, _ = body.return_layers
        parts = list(body.items())
        first = 1 + [part for part, _ in parts].index(level4)
        self.body = nn.ModuleDict(dict(parts[first:]))
        self.last_channel = _last_channel(body)
        self.in_channels, self.channels = body.feature_info.channels()
        self.size = REGION

    def forward(self, regions: Tensor) -> Tensor:
        """Regions (R, in_channels, size, size) to (R, channels, h, w)."""
        x = regions.permute(0, 2, 3, 1) if self.last_channel else regions
        for part in self.body.values():
            x = part(x)
        return x.permute(0, 3, 1, 2) if self.last_channel else x


class _Plan:
    """A network's strides and levels by timm's description, before it is built for good.

    strides  of all its maps, in order
    last     level to the index of its last map
    plain    the level of all maps of a network that has several and one stride; else None
    """

    def __init__(
        self, name: str, pretrained: bool | str | Path, others: Iterable[str], options: dict[str, Any]
    ) -> None:
        import timm  # here, because it takes seconds and most backbones do without

        if not timm.is_model(name):
            known = dict.fromkeys([*others, *timm.list_models()])
            raise ValueError(
                f"no backbone {name!r}, neither here nor in timm {timm.__version__}; {near(name, known)}"
                f"there are {', '.join(others)} and the names that timm.list_models() gives"
            )
        self.name, self.pretrained = name, bool(pretrained)
        self.weights = _weights(name, pretrained)
        body = self._sketch(options)
        self.kind = type(body)
        self.strides = [int(info["reduction"]) for info in body.feature_info.info]
        if self.strides[0].bit_count() != 1:
            raise ValueError(
                f"timm's {name} has maps of stride {self.strides[0]}, and a level is a power of two; "
                "a transformer takes patch_size=16"
            )
        self.last = {stride.bit_length() - 1: i for i, stride in enumerate(self.strides) if stride.bit_count() == 1}
        self.plain = next(iter(self.last)) if len(self.last) == 1 < len(self.strides) else None

    def dilate(self) -> bool:
        """Level 5 keeps stride 16, if timm can do that with this network."""
        try:
            self._sketch(self.options | {"output_stride": 16}, ({},))
        except ValueError:
            return False
        return True

    def _sketch(self, options: dict[str, Any], variants: Sequence[dict[str, Any]] = ANY_SIZE) -> Any:
        """The network without numbers, with the first of these further options that its class accepts."""
        for further in variants:
            try:
                with torch.device("meta"):
                    body = self._create(features_only=True, **further | options)
            except ValueError:
                if further is variants[-1]:
                    raise
            else:
                self.options = further | options
                return body

    def build(self, outputs: Sequence[int], norm: str) -> Any:
        """The network for maps of these indices, with its weights."""
        from timm.layers.norm_act import freeze_batch_norm_2d

        if self.pretrained:
            self._create(**self.options, **self.weights)  # strict about the weights; for features timm is not
        body = self._create(features_only=True, out_indices=tuple(outputs), **self.options, **self.weights)
        body.pretrained_cfg.pop("state_dict", None)
        _pad_inception(body)
        return freeze_batch_norm_2d(body) if norm == "frozen" else body

    def _create(self, **options: Any) -> Any:
        import timm

        try:
            return timm.create_model(self.name, **options)
        except (RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"timm cannot build {self.name!r} with these weights and feature maps: {error}") from error


def near(name: str, known: Iterable[str]) -> str:
    """A half sentence with the known names most like `name`, or nothing."""
    names = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(names)}? " if names else ""


def _pad_inception(body: nn.Module) -> None:
    """`pad_same`, and for the two blocks of Inception-v3 that pool in a function: a border around all they see."""
    from timm.models.inception_v3 import InceptionB, InceptionD

    for name, child in body.named_children():
        if isinstance(child, (InceptionB, InceptionD)):
            setattr(body, name, nn.Sequential(nn.ZeroPad2d(1), child))
        else:
            pad_same(child)


def _last_channel(body: nn.Module) -> bool:
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")


def _weights(name: str, pretrained: bool | str | Path) -> dict[str, Any]:
    """timm's arguments for weights from a file."""
    if pretrained is True:
        raise ValueError(
            f"no package has weights for timm's {name!r}, and nothing is downloaded unasked; pass pretrained=PATH with "
            "the path of a .safetensors or .pth state dict of the whole network"
        )
    if not pretrained:
        return {"pretrained": False}
    from timm.models import clean_state_dict

    # timm gets tensors, never the file: it would run the code in a pickle.
    return {
        "pretrained": True,
        "pretrained_cfg_overlay": {"state_dict": clean_state_dict(read_weights(Path(pretrained)))},
    }


def _freeze(body: Any, end: str) -> None:
    """No learning for what runs up to `end`, in parameters and in norms."""
    from timm.layers.norm_act import freeze_batch_norm_2d

    for part in _up_to(body, end):
        body.set_submodule(part, freeze_batch_norm_2d(body.get_submodule(part)))
        for parameter in body.get_submodule(part).parameters(recurse=False):
            parameter.requires_grad_(False)


def _up_to(body: nn.Module, end: str) -> list[str]:
    """The names of all modules that run before `end`, of `end` and of what is in it."""
    names = [name for name, _ in body.named_modules() if name]
    ends = (end, end.replace(".", "_"), "model." + end)  # timm flattens or wraps some networks
    last = max((i for i, name in enumerate(names) if any(f"{name}.".startswith(f"{e}.") for e in ends)), default=None)
    if last is None:
        raise ValueError(f"{type(body).__name__} has no module {end!r}: these stages cannot be frozen; pass 0")
    return names[: last + 1]
