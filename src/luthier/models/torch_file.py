"""A file of weights as torch writes them, converted once to safetensors; nothing but tensors is ever opened of it."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import ModelError
from luthier.core.run import file_hash
from luthier.models.catalogue import PACKAGED
from luthier.models.preprocessing import Preprocessing

ENDINGS = (".pth", ".th", ".pt")


def find_known(place: Path) -> tuple[str, Path] | None:
    """The base whose weights a file holds, or a folder's only such file; None where there is none that is known.

    Args:
        place: a file, or a folder in which it lies.

    Raises:
        ModelError: a folder holds several; or a file of that kind is none that is known.
    """
    hashes = {base.weights: name for name, base in PACKAGED.items() if base.file}
    if place.is_file() and place.suffix in ENDINGS:
        name = hashes.get(file_hash(place))
        if name is None:
            known = ", ".join(base.file for base in PACKAGED.values() if base.file)
            raise ModelError(
                f"{place} holds weights of a network that is not known", f"known files: {known}; a file that was changed is not opened"
            )
        return name, place
    if not place.is_dir():
        return None
    sizes = {base.file for base in PACKAGED.values() if base.file}
    candidates = [file for file in sorted(place.iterdir()) if file.name in sizes and file.is_file()]
    matches = [(hashes[taken], file) for file in candidates if (taken := file_hash(file)) in hashes]
    if len(matches) > 1:
        raise ModelError(f"{place} holds the weights of {', '.join(name for name, _ in matches)}", f"name one file: --base {matches[0][1]}")
    return matches[0] if matches else None


def convert_network(source: Path, target: Path, name: str) -> None:
    """Write the configuration, the weights and the preprocessing of a network for images.

    Args:
        source: the file, already checked against its hash.
        target: an existing folder.
        name: of the base.

    Raises:
        ModelError: the file holds other weights than the network has.
    """
    import torch
    from safetensors.torch import save_file

    from luthier.models import cifar_resnet, efficientnet_lite

    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    if name in efficientnet_lite.VARIANTS:
        config, room = efficientnet_lite.config_of(name), efficientnet_lite
        network, state = efficientnet_lite.EfficientNetLite(config), efficientnet_lite.rename(checkpoint, config)
    else:
        config, room = cifar_resnet.config_of(name), cifar_resnet
        network, state = cifar_resnet.CifarResNet(config), cifar_resnet.rename(checkpoint["state_dict"])
    counts = {key for key in network.state_dict() if key.endswith("num_batches_tracked")}
    missing = set(network.state_dict()) - set(state) - counts
    if missing or set(state) - set(network.state_dict()):
        raise ModelError(
            f"{source.name} lacks {sorted(missing)[0] if missing else 'nothing'}, or holds more than {name} has", "fetch it again"
        )
    network.load_state_dict(state, strict=False)
    save_file(
        {key: tensor.contiguous() for key, tensor in network.state_dict().items()}, target / "model.safetensors", metadata={"format": "pt"}
    )
    config.architectures = [type(network).__name__]
    (target / "config.json").write_text(config.to_json_string())
    Preprocessing(config.image_size, config.num_channels, room.MEAN, room.DEVIATION).save_pretrained(target)
