"""A small random DINOv2 as a folder of Hugging Face: config.json, model.safetensors, preprocessor_config.json."""

import itertools
import json
from pathlib import Path

import numpy as np

MEAN = 0.5307
STD = 0.2583


def write_dinov2(folder: Path, side: int) -> Path:
    """Write it with the names and shapes of weights that KerasHub's converter reads."""
    import keras_hub
    from keras_hub.src.utils.transformers import convert_dinov2
    from safetensors.numpy import save_file

    config = {
        **{"model_type": "dinov2", "image_size": side, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "mlp_ratio": 2, "layerscale_value": 1.0, "use_swiglu_ffn": False},
        **{"hidden_dropout_prob": 0.0, "drop_path_rate": 0.0},
    }
    backbone = keras_hub.models.DINOV2Backbone(**convert_dinov2.convert_backbone_config(config))
    recorder = _Recorder()
    convert_dinov2.convert_weights(backbone, recorder, config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(recorder.weights, folder / "model.safetensors")
    sizes = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    scales = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes | scales))
    return folder


class _Recorder:
    """Stands for the reader of a safetensors file: draws every weight that is asked for."""

    def __init__(self) -> None:
        self.weights: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def port_weight(self, keras_variable, hf_weight_key: str, hook_fn=lambda value, _: value) -> None:
        wanted = tuple(keras_variable.shape)
        flat = (int(np.prod(wanted)),)
        square = (16, 16)
        for shape in (*itertools.permutations(wanted), square, flat):
            value = self._random.normal(scale=1.0, size=shape).astype(np.float32)
            try:
                if np.asarray(hook_fn(value, wanted)).shape == wanted:
                    self.weights[hf_weight_key] = value
                    return
            except ValueError:  # this shape cannot be reshaped or transposed
                continue
        raise AssertionError(f"no shape of {hf_weight_key} gives {wanted}")
