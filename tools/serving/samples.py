"""Three drawn radiographs to try the page with; images of real patients may not be shipped."""

import io

from tools.sample.anatomy import RadiographSpec
from tools.sample.radiograph import draw_radiograph

SIDE = 512  # pixels a side
SEED = 14  # not the default of tools/make_sample, so that a model trained on its images has not seen these
DRAWN = {"no finding": (3, ()), "cardiomegaly": (5, ("Cardiomegaly",)), "mass, effusion": (8, ("Mass", "Effusion"))}


def draw_samples() -> dict[str, bytes]:
    """Draw all three: {what was drawn: PNG}."""
    specs = {name: RadiographSpec(SEED, patient, 0, findings=findings) for name, (patient, findings) in DRAWN.items()}
    return {name: draw_sample(spec) for name, spec in specs.items()}


def draw_sample(spec: RadiographSpec) -> bytes:
    """Draw one as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_radiograph(spec, SIDE)[0]).save(buffer, "PNG")
    return buffer.getvalue()
