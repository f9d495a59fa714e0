"""Two pictures of one scene under a slider: left of it the one before, right of it the one after."""

from __future__ import annotations

import base64
import io

from markupsafe import Markup
from PIL import Image

from ommatid.report.page import element

JPEG_QUALITY = 88


def before_after(before: str, after: str, name: str) -> Markup:
    """The slider; `before` and `after` are data URIs of pictures of the same size.

    It is a range input, so that arrow keys, touch and screen readers move it as they do any other (assets/page.js).
    """
    return element(
        "div",
        element("img", src=after, alt=f"{name}, after", class_="after"),
        element("img", src=before, alt=f"{name}, before", class_="before"),
        element("span", "before", class_="before", aria_hidden="true"),
        element("span", "after", class_="after", aria_hidden="true"),
        element("i", aria_hidden="true"),
        element("input", type="range", min=0, max=100, value=50, aria_label=f"{name}: share shown as before, per cent"),
        class_="before-after",
    )


def jpeg_uri(image: Image.Image) -> str:
    """The picture as a data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
