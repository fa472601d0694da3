"""A radiograph beside its heat map, with the boxes that were drawn round a finding and those that the map gives."""

import io
import itertools
from typing import TYPE_CHECKING

import numpy as np

from cxr.findings import NIH_SIZE

if TYPE_CHECKING:
    from PIL import ImageDraw

SIDE = 512  # pixels of the longer side of each of the two pictures
GAP, LINE = 8, 22  # pixels between pictures, and of a line of text
WHITE, ORANGE, BLACK = (255, 255, 255), (255, 150, 0), (0, 0, 0)  # apart by brightness too, for colour-blind eyes
DASH = 7  # pixels
OPACITY = 0.6  # of the heat map where it is hottest
LEGEND = "annotated: white, solid      detected: orange, dashed"


def overlay(
    pixels: np.ndarray,
    heat: np.ndarray,
    *,
    annotated_nih: np.ndarray,
    detected_nih: np.ndarray,
    caption: list[str],
) -> bytes:
    """Draw a PNG: on the left the image, on the right the same under its heat map; boxes on both, text below.

    Args:
        pixels: uint8 [height, width].
        heat: float [rows, columns] over exactly the image; from its minimum, drawn clear, to its maximum, in yellow.
        annotated_nih, detected_nih: [n, 4] in the frame of BBox_List_2017.csv.
        caption: lines of text; the legend is added.
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
    """RGB [h, w, 3] under a heat map: viridis, which keeps its order for colour-blind eyes, clear where it is cold."""
    import cv2

    heat = cv2.resize(heat.astype(np.float32), grey.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    low, high = float(heat.min()), float(heat.max())
    heat = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    colors = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    opacity = OPACITY * heat[..., None]
    return np.rint(grey * (1 - opacity) + colors * opacity).astype(np.uint8)


def draw_box(draw: "ImageDraw.ImageDraw", box: np.ndarray, color: tuple[int, int, int], *, dash: int | None) -> None:
    """Draw the outline of a box (x0, y0, x1, y1), two pixels wide inside a black rim, dashed or solid."""
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
