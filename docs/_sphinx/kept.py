"""Of each notebook the latest outputs are kept; those of code that is gone are not."""

from pathlib import Path

from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata


def prune(app: Sphinx, error: Exception | None) -> None:
    """Called when the site is built."""
    if error is not None:
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    latest: dict[str, int] = {}
    for record in sorted(cache.list_cache_records(), key=lambda record: record.created):
        name = Path(record.uri).name  # of the page, wherever the project lies
        if name in latest:
            cache.remove_cache(latest[name])
        latest[name] = record.pk


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("build-finished", prune)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
