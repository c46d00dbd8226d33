"""What objectives share whose model answers the last turn of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.core.types import Example
from luthier.objectives.objective import BaseObjective


class AnswersTurns(BaseObjective):
    """Examples keep their conversation as `facts["messages"]`; the last message is the reference."""

    writes = True

    def prompt_text(self, example: Example) -> str:
        """The last turn before the answer."""
        return "".join(message["content"] for message in example.facts["messages"][:-1][-1:])

    def reference(self, example: Example) -> str:
        """The last answer."""
        return example.facts["messages"][-1]["content"]

    def answer(self, model: Any, examples: Sequence[Example], limit: int) -> list[str]:
        """The likeliest token each time."""
        from luthier.models.generate import generate_answers

        return generate_answers(model, self.tokenizer, [self.prompt_tokens(example) for example in examples], limit)
