"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[list[str] | None, typer.Option("--set", help="A change to the experiment, path=value; one or several.")]
Target = Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")]
Input = Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")]
Task = Annotated[
    str | None,
    typer.Option(
        help="What is learned. Of labelled texts: classification, multi_label, regression, token_labels, chat, preference, unpaired_preference, embedding, translation; "
        "of texts alone: causal_lm, masked_lm, word2vec, glove; of images: image_classification, image_regression (a number); to find unusual rows: autoencoder (of images), feature_autoencoder (of few images), text_autoencoder. Inferred when not given."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines, no progress bar.")]
