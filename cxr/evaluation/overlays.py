"""Pictures of an image beside its heat map, with annotated and detected boxes."""

import io
import itertools
from typing import TYPE_CHECKING

import numpy as np

from cxr.findings import NIH_SIZE

if TYPE_CHECKING:
    from PIL import ImageDraw

SIDE = 512  # pixels on the longer side of each of the two panels
GAP = 8  # pixels between panels
LINE = 22  # pixels per line of text
# They differ in brightness too, for colour-blind readers.
WHITE = (255, 255, 255)
ORANGE = (255, 150, 0)
BLACK = (0, 0, 0)
DASH = 7  # pixels
OPACITY = 0.6  # of the heat map at its maximum
LEGEND = "annotated: white, solid      detected: orange, dashed"


def overlay(
    pixels: np.ndarray,
    heat: np.ndarray,
    *,
    annotated_nih: np.ndarray,
    detected_nih: np.ndarray,
    caption: list[str],
) -> bytes:
    """Draw a PNG: on the left the image, on the right the image under its heat map; boxes on both, text below.

    Args:
        pixels: uint8 [height, width].
        heat: float [rows, columns] over exactly the image; its minimum is transparent, its maximum yellow.
        annotated_nih, detected_nih: [n, 4] in the frame of BBox_List_2017.csv.
        caption: lines of text above the legend.
    """
    from PIL import Image, ImageDraw, ImageFont

    grey = fitted(pixels)
    height, width = grey.shape[:2]
    lines = [*caption, LEGEND]
    canvas = Image.new("RGB", (2 * width + GAP, height + LINE * len(lines) + GAP))
    for left, picture in ((0, grey), (width + GAP, warmed(grey, heat))):
        panel = Image.fromarray(picture)
        draw = ImageDraw.Draw(panel)
        for box in detected_nih * (SIDE / NIH_SIZE):
            draw_box(draw, box, ORANGE, dash=DASH)
        for box in annotated_nih * (SIDE / NIH_SIZE):
            draw_box(draw, box, WHITE, dash=None)
        canvas.paste(panel, (left, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for number, line in enumerate(lines):
        draw.text((4, height + 5 + LINE * number), line, fill=WHITE, font=font)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def fitted(pixels: np.ndarray) -> np.ndarray:
    """Grey pixels [height, width] as RGB [h, w, 3] with SIDE pixels on the longer side."""
    import cv2

    scale = SIDE / max(pixels.shape)
    size = [max(1, round(side * scale)) for side in pixels.shape[::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.repeat(small[..., None], 3, axis=2)


def warmed(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] under a heat map in viridis, which colour-blind readers can order; transparent at its minimum."""
    import cv2

    heat = cv2.resize(heat.astype(np.float32), grey.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    low, high = float(heat.min()), float(heat.max())
    heat = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    colors = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    opacity = OPACITY * heat[..., None]
    return np.rint(grey * (1 - opacity) + colors * opacity).astype(np.uint8)


def draw_box(draw: "ImageDraw.ImageDraw", box: np.ndarray, color: tuple[int, int, int], *, dash: int | None) -> None:
    """Draw the outline of a box (x0, y0, x1, y1), two pixels wide inside a black rim; solid without `dash`."""
    x0, y0, x1, y1 = (float(edge) for edge in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # the last pixel inside
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        length = max(abs(bx - ax), abs(by - ay))
        step = length + 1 if dash is None else 2 * dash
        pieces = [(start, min(start + (dash or length), length)) for start in np.arange(0, max(length, 1), step)]
        for line_width, fill in ((4, BLACK), (2, color)):
            for start, stop in pieces:
                near, far = start / max(length, 1), stop / max(length, 1)
                ends = [ax + (bx - ax) * near, ay + (by - ay) * near, ax + (bx - ax) * far, ay + (by - ay) * far]
                draw.line(ends, fill=fill, width=line_width)
