"""Templates and pictures of pages.

Jinja2 fills the templates and escapes whatever comes from files. Pictures are within the page: SVG
by Matplotlib, whose greys are read on light and on dark paper, or JPEG as data.
"""

from __future__ import annotations

import base64
import io
import math
import os
import pathlib
import re
from typing import Any

import jinja2
import markupsafe
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from finecausal_jax.data import seeding
from finecausal_jax.runtime.files import write_atomically

# Read on white and on near-black alike.
INK, FAINT, MODEL, OTHER = "#808890", "#80889055", "#1f8fcf", "#c9822b"


def write_html(path: str | os.PathLike[str], template: str, **values: Any) -> pathlib.Path:
    """Fills a template and writes the page, whole or not at all; returns its path.

    Args:
      path: where the page goes.
      template: its name in `templates/`.
      **values: what the template asks for; a missing one is an error.
    """
    text = _templates().get_template(template).render(**values)
    return write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def new_figure(width: float, height: float) -> Figure:
    """An empty picture without a background, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    FigureCanvasSVG(figure)  # bound to this figure alone: no global state
    return figure


def svg(figure: Figure, title: str) -> markupsafe.Markup:
    """A figure as SVG to be put into a page.

    Args:
      figure: the figure.
      title: says what it shows to who cannot see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # Names of clip paths and glyphs have to differ between the pictures of one page.
    mark = f"p{seeding.digest(title) % 10**8}"
    text = re.sub(r'(id="|url\(#|xlink:href="#|href="#)', rf"\1{mark}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = markupsafe.escape(title)
    head = f'<svg role="img" aria-label="{label}"'
    return markupsafe.Markup(text.replace("<svg", head, 1))


def jpeg(image: UInt8[np.ndarray, "h w 3"], quality: int = 75) -> str:
    """An image as the address of an `img`."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def number(value: float, digits: int = 3) -> str:
    """A number, or "none"."""
    return "none" if math.isnan(value) else f"{value:.{digits}f}"


def style_axes(axes: Any) -> None:
    """Axes that are read on any paper."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finecausal_jax.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment
