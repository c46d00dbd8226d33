"""The HTTP server: thin routes over `serving/`. Without its extra, importing it says what to install."""

from luthier.core.errors import RunError
from luthier.core.extras import require_extra

for _module in ("fastapi", "uvicorn"):
    require_extra(_module, "serving a model", RunError)
