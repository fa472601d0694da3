"""From params to the untrained Keras model: raw pixels or cached features in, logits out."""

import math
from typing import TYPE_CHECKING

from cxr.networks import assembly
from cxr.networks.extractors import Extractor
from cxr.networks.losses import positive_weights
from cxr.params import Params

if TYPE_CHECKING:
    import keras


def model_fn(
    params: Params,
    info: dict,
    features: dict[str, int] | None = None,
    *,
    extractors: dict[str, Extractor] | None = None,
) -> "keras.Model":
    """Build the untrained model of an experiment.

    Args:
        info: dataset.json of the images; its image_size shapes the input, its training positives set the output bias.
        features: number of cached features by extractor; the model is then only the head over them.
        extractors: the loaded extractors of params; default load them here.

    Returns:
        Model from {"image": uint8 [B, H, W, 1]}, or {<extractor>: float32 [B, D]} with `features`, to float32 logits
        [B, 14] in FINDINGS order; with params.metadata also from the patient inputs, see `patient.embed`. Cropping,
        resizing and standardisation are layers of the model, so every caller feeds the stored pixels.

    Raises:
        ValueError: crop_size is larger than the records.
    """
    import keras

    if params.extractors and features is None and extractors is None:
        extractors = assembly.load_extractors(params, info)
    if features is None and extractors is not None:
        features = {name: extractor.dimension for name, extractor in extractors.items()}
    keras.utils.set_random_seed(params.seed)  # initial weights and dropout
    model = assembly.trainable_part(params, info, features, output_bias=output_bias(params, info))
    return assembly.with_extractors(model, extractors) if extractors else model


def prevalence_logits(info: dict) -> list[float]:
    """log(p / (1 - p)) of each finding's prevalence p in the training images.

    With these as output biases the model need not spend its first steps on learning that most findings are rare (Lin et
    al. 2017, section 4.1). One image is added to each side, so that the logit of a finding without positives is finite.
    """
    train = info["splits"]["train"]
    positives = [train["positives"][finding] for finding in info["findings"]]
    return [math.log((n + 1) / (train["images"] - n + 1)) for n in positives]


def output_bias(params: Params, info: dict) -> list[float]:
    """The constant logits that minimise the loss: logits of the prevalences, shifted by the weight of positives.

    w n+ (1 - p) = n- p gives logit(p) = log(n+ / n-) + log w. Focal loss starts at the prevalences.
    """
    weights = positive_weights(params, info)
    return [logit + math.log(weight) for logit, weight in zip(prevalence_logits(info), weights, strict=True)]
