"""How parameters move: the optimizer, the learning-rate schedule, and the fp32 master weights."""

from luthier.core.table import Table

OPTIMIZERS = Table(
    "optimizer",
    adamw="luthier.optim.optimizers:AdamW",
    adam="luthier.optim.optimizers:Adam",
    adagrad="luthier.optim.optimizers:Adagrad",
    sgd="luthier.optim.optimizers:Sgd",
)
SCHEDULES = Table(
    "schedule",
    constant="luthier.optim.schedules:Constant",
    linear="luthier.optim.schedules:Linear",
    cosine="luthier.optim.schedules:Cosine",
    wsd="luthier.optim.schedules:WarmupStableDecay",
)
