"""Three drawn radiographs to try the page with; images of real patients may not be shipped."""

import io

from tools.sample.findings import draw_radiograph
from tools.sample.phantom import Study

SIDE = 512  # pixels
SEED = 14  # differs from the default of tools/make_sample, so that no model was trained on these drawings
DRAWN = {"no finding": (3, ()), "cardiomegaly": (5, ("Cardiomegaly",)), "mass, effusion": (8, ("Mass", "Effusion"))}


def draw_samples() -> dict[str, bytes]:
    """Draw the samples: {name: PNG}."""
    return {
        name: draw_sample(Study(SEED, patient, 0, findings=findings)) for name, (patient, findings) in DRAWN.items()
    }


def draw_sample(study: Study) -> bytes:
    """Draw one sample as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_radiograph(study, SIDE)[0]).save(buffer, "PNG")
    return buffer.getvalue()
