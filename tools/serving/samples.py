"""Three radiographs to try: drawn, as no patient's may be given away."""

import io
from typing import NamedTuple

from tools.phantom import Study
from tools.phantom_findings import draw_radiograph

SIDE, SMALL = 512, 144  # pixels a side, of the image and of its button
SEED = 14  # tools/make_sample draws with 230 unless told otherwise, so a model of its images has not seen these
DRAWN = (("no finding", 3, ()), ("cardiomegaly", 5, ("Cardiomegaly",)), ("mass, effusion", 8, ("Mass", "Effusion")))


class Sample(NamedTuple):
    """One drawing."""

    name: str  # what was drawn into it
    png: bytes
    button: bytes  # JPEG


def draw_samples() -> list[Sample]:
    """Draw all three."""
    return [draw_sample(name, Study(SEED, patient, 0, findings=findings)) for name, patient, findings in DRAWN]


def draw_sample(name: str, study: Study) -> Sample:
    """Draw one."""
    from PIL import Image

    image = Image.fromarray(draw_radiograph(study, SIDE)[0])
    whole, button = io.BytesIO(), io.BytesIO()
    image.save(whole, "PNG")
    image.resize((SMALL, SMALL)).save(button, "JPEG", quality=80)
    return Sample(name, whole.getvalue(), button.getvalue())
