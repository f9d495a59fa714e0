"""serve: a page on this machine, to compose models on, or to try a trained one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ommatid.models.config import require

CSS = """
.architecture rect.plate { fill: var(--secondary-100, #dbeafe); stroke: var(--secondary-600, #2563eb); }
.architecture text { font-size: 11px; fill: var(--body-text-color, #222); }
.architecture .plate ~ text:not(.label) { fill: #1e293b; }
table.stages { border-collapse: collapse; margin-top: 1rem; width: 100%; }
table.stages td, table.stages th { text-align: left; padding: 0.2rem 0.8rem; border-bottom: 1px solid #8884; }
.message { border-left: 4px solid #b91c1c; padding: 0.4rem 0.8rem; font-weight: 600; }
"""


def serve(
    run: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """Serves the page until it is interrupted, to this machine alone unless another `host` is named.

    Args:
        run: a trained classifier to try; the workshop, where models are composed, where None.
        host, port: where to listen; port 0 is any that is free.
        ready: called with the page's address and a function that ends it, once it is there; then this returns at once.

    Raises:
        ValueError: no trained classifier, gradio is not installed, or the port is taken.
    """
    require(0 <= port <= 65535, "port", port, "from 0 (any that is free) to 65535")
    port = _free_port(host, port)
    blocks, appearance = _page(run)
    _, address, _ = blocks.queue(max_size=20).launch(
        server_name=host,
        server_port=port,
        max_file_size=_upload_limit(),
        allowed_paths=[],
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
        **appearance,
    )
    if ready is None:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()
    else:
        ready(address, blocks.close)


def _page(run: str | Path | None) -> tuple[Any, dict[str, Any]]:
    """The page, and how it looks: fonts of the machine itself, because nothing is asked of the network."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise ValueError("this needs the package gradio: pip install 'ommatid[serve]'") from None
    from ommatid.workshop.compose_page import compose_page
    from ommatid.workshop.run_page import run_page

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    title = "ommatid workshop" if run is None else f"ommatid: {Path(run).name}"
    if run is not None:
        from ommatid.runs.trained import open_trained

        trained = open_trained(run)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        if run is None:
            compose_page()
        else:
            run_page(trained)
    return blocks, {"theme": theme, "css": CSS}


def _upload_limit() -> str:
    from ommatid.workshop.pictures import MAX_MEGABYTES

    return f"{MAX_MEGABYTES}mb"


def _free_port(host: str, port: int) -> int:
    """Raises ValueError where the port is taken, or there is no such host."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"port = {port} of {host} is not possible ({error.strerror or error}): allowed is one that is free, "
                "as --port 0 finds"
            ) from None
        return int(probe.getsockname()[1])
