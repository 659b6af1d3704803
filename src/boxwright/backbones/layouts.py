"""Classification weights of other layouts under our networks' names: timm's, and a plain VGG-16's for SSD's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from boxwright.backbones.vgg import reduce_fc
from boxwright.layers.conv import FrozenBatchNorm2d, change_epsilon

TIMM_EPSILON = 1e-5
"""Of the batch norms of timm's MobileNets; ours, as torchvision's, have 1e-3 in a MobileNet-v3."""

_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}

# In what order timm's MobileNets run: the network, a block that expands, a block that does not.
_NETWORK = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier")
_EXPANDING = ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3")
_DIRECT = ("conv", "conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2")


def as_own(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names of `network`, with its shapes; what has another layout comes out as it is.

    Known are timm's VGGs and MobileNets (`mobilenetv2_100`, `mobilenetv3_large_100`, `mobilenetv3_small_100`), whose
    fully connected layers are 1x1 or 7x7 convolutions; timm's ResNets and ResNeXts have torchvision's names. (Its `tf_`
    MobileNets have the names of the others and pad otherwise: their weights load and give other scores.) `vgg16_ssd`
    takes fc6 and fc7 of a plain VGG-16 (`reduce_fc`); of a file without those, its own stay at their initialisation.
    """
    state = network.state_dict()
    if "pre_logits.fc1.weight" in weights:
        weights = _renamed(weights, _VGG)
    elif "conv_stem.weight" in weights and "features.0.0.weight" in state:
        weights = _renamed(weights, _mobilenet_names(weights, state))
        weights = fold_epsilon(weights, network, TIMM_EPSILON)
    if "fc6.weight" in state and "fc6.weight" not in weights:
        weights = _with_reduced_fc(weights, state)
    return {
        key: value.flatten(1) if value.ndim == 4 and key in state and state[key].ndim == 2 else value
        for key, value in weights.items()
    }


def fold_epsilon(weights: Mapping[str, Tensor], network: nn.Module, epsilon: float) -> dict[str, Tensor]:
    """`weights` that were made with batch norms of this epsilon, for `network`, which has another one."""
    folded = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)) and f"{name}.running_var" in folded:
            change_epsilon(folded, name, epsilon, module.eps)
    return folded


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Modules of these names under those; the others keep theirs."""
    split = {key: key.rpartition(".") for key in weights}
    return {f"{names.get(module, module)}.{part}": weights[key] for key, (module, _, part) in split.items()}


def _mobilenet_names(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """timm's modules to ours, both in the order in which they run; nothing if these are no MobileNet's.

    The order is made from the names, because a .safetensors file keeps none.
    """
    theirs, ours = (list(dict.fromkeys(key.rpartition(".")[0] for key in keys)) for keys in (weights, state))
    try:
        theirs.sort(key=lambda module: _place(module, weights))
    except ValueError:  # a part that these networks have not
        return {}
    return dict(zip(theirs, ours, strict=False))  # a file may end before the classifier; shapes are checked on loading


def _place(module: str, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Where a module runs in timm's network: `blocks.STAGE.INDEX.PART`, or a part of the network."""
    whole, _, rest = module.partition(".")
    if not rest:
        return (_NETWORK.index(whole),)
    stage, index, part = rest.split(".", 2)
    expands = f"{whole}.{stage}.{index}.conv_pwl.weight" in weights
    return _NETWORK.index(whole), int(stage), int(index), (_EXPANDING if expands else _DIRECT).index(part)


def _with_reduced_fc(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain VGG-16's weights with fc6 and fc7 for SSD, and without its classifier."""
    reduced = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    for part in ("weight", "bias"):
        fc6, fc7 = weights.get(f"classifier.0.{part}"), weights.get(f"classifier.3.{part}")
        hidden = (state[f"fc6.{part}"], state[f"fc7.{part}"]) if fc6 is None or fc7 is None else reduce_fc(fc6, fc7)
        reduced[f"fc6.{part}"], reduced[f"fc7.{part}"] = hidden
    return reduced
