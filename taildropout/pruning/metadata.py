"""Numbers of features in the metadata of a state_dict: those of slices and of normalisations without weights.

No tensor of a state_dict tells these numbers, and its keys shall be those of torch's own modules.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .kinds import CHANNEL_NORMS


def write_features(destination: Any, prefix: str, features: int) -> None:
    """Write the number of features into the metadata of a state_dict, not among its keys."""
    metadata = getattr(destination, "_metadata", {})
    metadata.setdefault(prefix[:-1], {})["features"] = features


def read_features(state_dict: Any) -> dict[str, int]:
    """Return the numbers of features that the metadata of a state_dict holds, by the names of modules."""
    metadata = getattr(state_dict, "_metadata", {})
    return {name: entries["features"] for name, entries in metadata.items() if "features" in entries}


def channels_without_tensors(module: nn.Module) -> int | None:
    """Return the number of channels of a normalisation without weights and running statistics; None for other modules."""
    if not isinstance(module, (nn.GroupNorm, *CHANNEL_NORMS)) or [*module.parameters(), *module.buffers()]:
        return None
    return module.num_channels if isinstance(module, nn.GroupNorm) else int(module.num_features)


def record_channels(network: nn.Module) -> None:
    """Have all normalisations without tensors write how many channels they have, whenever their state_dict is made."""
    for module in network.modules():
        if channels_without_tensors(module) is not None and "" not in read_features(module.state_dict()):
            module.register_state_dict_post_hook(_write_channels)


def _write_channels(module: nn.Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
    channels = channels_without_tensors(module)
    if channels is not None:
        write_features(state_dict, prefix, channels)
