"""Draw one made-up radiograph: its anatomy, its findings and its exposure."""

import numpy as np

from tools.sample import findings
from tools.sample.anatomy import RadiographSpec, draw_anatomy, inflate_lungs, raise_diaphragm, widen_heart
from tools.sample.findings import Box
from tools.sample.phantom import Chest, expose

MOVING = {"Infiltration", "Nodule", "Pneumonia"}  # in another place at every visit; the other findings do not move
RESHAPE = {"Atelectasis": raise_diaphragm, "Cardiomegaly": widen_heart, "Emphysema": inflate_lungs}
DRAW = {  # in drawing order: first what removes lung markings, last what covers everything
    "Emphysema": findings.draw_emphysema,
    "Cardiomegaly": findings.draw_cardiomegaly,
    "Pneumothorax": findings.draw_pneumothorax,
    "Edema": findings.draw_edema,
    "Infiltration": findings.draw_infiltration,
    "Fibrosis": findings.draw_fibrosis,
    "Pneumonia": findings.draw_pneumonia,
    "Consolidation": findings.draw_consolidation,
    "Atelectasis": findings.draw_atelectasis,
    "Pleural_Thickening": findings.draw_pleural_thickening,
    "Effusion": findings.draw_effusion,
    "Mass": findings.draw_mass,
    "Nodule": findings.draw_nodule,
    "Hernia": findings.draw_hernia,
}


def draw_radiograph(spec: RadiographSpec, size: int) -> tuple[np.ndarray, dict[str, Box]]:
    """Draw one chest with its findings.

    Returns:
        uint8 [size, size], and the box of each finding of the spec.
    """
    anatomy = draw_anatomy(spec)
    for finding in spec.findings:
        if finding in RESHAPE:
            anatomy = RESHAPE[finding](anatomy, spec.rng(finding, per_image=False))
    chest = Chest(spec, anatomy, size)
    present = [finding for finding in DRAW if finding in spec.findings]
    boxes = {name: DRAW[name](chest, spec.rng(name, per_image=name in MOVING)) for name in present}
    return expose(spec, chest.density), boxes
