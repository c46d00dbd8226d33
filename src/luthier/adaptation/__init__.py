"""Which parameters move, and when."""

from luthier.core.table import Table

ADAPTATIONS = Table(
    "adaptation",
    full="luthier.adaptation.freeze:Full",
    freeze="luthier.adaptation.freeze:Freeze",
    gradual="luthier.adaptation.freeze:Gradual",
    lora="luthier.adaptation.lora:Lora",
)
