"""What the networks for images share that transformers has none for: stages one behind the other, the mean of the last one's maps, and a head."""

from __future__ import annotations

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class StagedNetwork(PreTrainedModel):
    """A network with `stages` and a `classifier`; what comes before the stages is its own."""

    base_model_prefix = ""
    main_input_name = "pixel_values"
    stages: nn.ModuleList
    classifier: nn.Linear

    def _init_weights(self, module: nn.Module) -> None:
        """A head that is new knows nothing; all else comes from the weights' file."""
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def stem_maps(self, pixels: Tensor) -> Tensor:
        """What the first stage reads, # (examples, channels, height, width)

        Args:
            pixels: normalised, # (examples, 3, height, width)
        """
        raise NotImplementedError

    def stage_maps(self, pixels: Tensor) -> list[Tensor]:
        """What each stage makes of images, # each (examples, channels, height, width)

        Args:
            pixels: normalised, # (examples, 3, height, width)
        """
        maps, results = self.stem_maps(pixels), []
        for stage in self.stages:
            maps = stage(maps)
            results.append(maps)
        return results

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """The score of each class, # logits: (examples, classes)"""
        return ImageClassifierOutput(logits=self.classifier(self.stage_maps(pixel_values)[-1].mean((2, 3))))  # type: ignore[arg-type]
