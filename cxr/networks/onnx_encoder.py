"""Encoders in ONNX files, exported from any framework, as networks of OpenVINO. Frozen.

They run on the CPU in every precision. They have no layers of Keras, so an experiment with one has no gradients and
cannot be exported: see `NO_KERAS`.
"""

import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks import ranges
from cxr.networks.conversion import load_openvino, openvino_core
from cxr.networks.extractors import Extractor
from cxr.networks.pixels import crop_start
from cxr.seen import where_published

if TYPE_CHECKING:
    import openvino

NO_KERAS = (
    "an encoder of source 'onnx' has no Keras layers: it cannot be exported as SavedModel, TFLite or ONNX, has no heat "
    "maps but those by occlusion, and cannot be part of an extractor of source 'experiment'"
)
EXTERNAL = rb"\n\x08location\x12([\x01-\x7f])"  # of a file with weights, as protobuf writes the key and the length


def onnx_extractor(spec: dict, name: str, *, record_size: int, crop_size: int, normalization: str) -> Extractor:
    """An ONNX encoder as an extractor: an openvino.Model from "image", uint8 [?, H, W, 1], to float32 [?, D].

    Args:
        spec: an extractor of source "onnx", see cxr/specs.py.
        record_size: H and W.
        crop_size: pixels per side of the centre crop that it sees, before resizing.

    Raises:
        ImportError: OpenVINO is not installed.
        FileNotFoundError: the file does not exist.
        ValueError: OpenVINO cannot read it, or its input or output is not what an encoder has, or the spec lacks its
            range or size.
    """
    load_openvino("encoders of source 'onnx'")
    path = pathlib.Path(spec["path"])
    if not path.is_file():
        raise FileNotFoundError(f'no ONNX file {path}; correct "path" in params.json. {where_published(spec)}')
    to_range = None
    if normalization == "extractor" and (to_range := ranges.stated_range(spec)) is None:
        raise ValueError(f'{path} does not state the range of its images; add "range", or "mean" and "std"')
    encoder = read_model(path)
    axis, channels, size = image_layout(encoder, spec)
    image = _image(record_size)
    pixels = _prepared(image, (record_size, crop_size, size), to_range=to_range, channels=channels, where=str(path))
    model = _connected(encoder, image, pixels, channels_axis=axis, spec=spec)
    fed = ranges.fed(size, to_range)
    return Extractor(name, spec, model, file_sha256(path, f"{fed} {spec.get('output')} {spec.get('token')}"), fed)


def read_model(path: pathlib.Path) -> "openvino.Model":
    """Read an ONNX file; ValueError if OpenVINO cannot, or if it takes more than one input."""
    try:
        encoder = openvino_core().read_model(path)
    except Exception as error:  # OpenVINO's errors have no common base class
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"OpenVINO cannot read {path}: {reason}") from error
    if len(encoder.inputs) != 1:
        names = [one.any_name for one in encoder.inputs]
        raise ValueError(f"{path} has the inputs {names}, expected one batch of images; export the image encoder alone")
    return encoder


def image_layout(encoder: "openvino.Model", spec: dict) -> tuple[int, int, int]:
    """The axis of the channels in an encoder's input (1 or 3), their number (1 or 3), and the pixels per side."""
    path, shape = spec["path"], encoder.inputs[0].partial_shape
    if shape.rank.is_dynamic or len(shape) != 4:
        raise ValueError(f"{path} takes {shape}, expected images [B, 3, S, S], [B, S, S, 3] or [B, 1, S, S]")
    lengths = [None if one.is_dynamic else one.get_length() for one in shape]
    axes = [axis for axis in (1, 3) if lengths[axis] in (1, 3)]
    if len(axes) != 1:
        raise ValueError(f"{path} takes {shape}: which axis has the 1 or 3 channels is not clear; export it with that")
    sides = {lengths[axis] for axis in (1, 2, 3) if axis != axes[0]} - {None}
    wanted = spec.get("image_size")
    if wanted is None and not sides:
        raise ValueError(f'{path} takes images of any size; add the "image_size" of its training')
    size = wanted or max(sides)
    if sides - {size}:
        raise ValueError(f'{path} takes {shape}, not images of {size} x {size} pixels; correct "image_size"')
    return axes[0], lengths[axes[0]], size


def _image(record_size: int):
    from openvino import opset13

    image = opset13.parameter([-1, record_size, record_size, 1], np.uint8, name="image")
    image.output(0).tensor.set_names({"image"})
    return image


def _prepared(image, sizes: tuple[int, int, int], *, to_range: Callable | None, channels: int, where: str):
    """The graph from records to float32 [?, S, S, channels]: crop, resize, scale, as the layers of other extractors.

    Args:
        sizes: pixels per side of records, of the crop, and S.
        to_range: None standardises each image.
    """
    from openvino import opset13

    record_size, crop_size, size = sizes
    pixels = opset13.convert(image, "f32")
    start = crop_start(record_size, crop_size)
    if crop_size != record_size:
        pixels = opset13.slice(pixels, [start, start], [start + crop_size] * 2, [1, 1], [1, 2])
    if crop_size != size:
        # Bilinear with antialiasing, as the layer Resizing.
        pixels = opset13.interpolate(pixels, np.array([size, size]), "bilinear_pillow", "sizes", axes=np.array([1, 2]))
    if to_range is None:
        return opset13.multiply(_standardized(pixels, size), np.ones((1, 1, 1, channels), np.float32))
    black, white = (np.asarray(to_range(np.full((1, 1, 1, 3), grey, np.float32))) for grey in (0, 255))  # [1, 1, 1, 3]
    if channels == 1 and np.ptp(np.concatenate([black, white]), axis=-1).max() > 0:
        raise ValueError(f"{where} takes one channel, but its range differs between red, green and blue")
    scale = ((white - black) / 255)[..., :channels]  # every range is linear in the grey level
    return opset13.add(opset13.multiply(pixels, scale.astype(np.float32)), black[..., :channels].astype(np.float32))


def _standardized(pixels, size: int):
    """As `pixels.standardize`."""
    from openvino import opset13

    axes = opset13.constant([1, 2, 3])
    centred = opset13.subtract(pixels, opset13.reduce_mean(pixels, axes, True))
    variance = opset13.reduce_mean(opset13.multiply(centred, centred), axes, True)
    return opset13.divide(centred, opset13.maximum(opset13.sqrt(variance), np.float32(1 / size)))


def _connected(encoder: "openvino.Model", image, pixels, *, channels_axis: int, spec: dict) -> "openvino.Model":
    """The graph of the pixels, then the encoder, then its output pooled to [?, D]."""
    import openvino
    from openvino import opset13

    parameter = encoder.get_parameters()[0]
    fed = opset13.transpose(pixels, [0, 3, 1, 2]) if channels_axis == 1 else pixels
    fed = opset13.convert(fed, parameter.get_element_type().get_type_name())
    features = _chosen(encoder, spec)
    for target in parameter.output(0).get_target_inputs():
        target.replace_source_output(fed.output(0))
    features = opset13.convert(pooled(features, channels_axis, spec), "f32")
    result = opset13.result(features)
    result.output(0).tensor.set_names({"features"})
    model = openvino.Model([result], [image], "encoder")
    try:
        # Whether the encoder takes any batch shows only here: some exports fix it to one image.
        model.reshape([1, *list(image.partial_shape)[1:]])
        shape = model.outputs[0].partial_shape
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{spec['path']} rejects one image of this size: {reason}") from error
    if len(shape) != 2 or shape[1].is_dynamic or shape[0].is_dynamic or shape[0].get_length() != 1:
        raise ValueError(f"{spec['path']} returns {shape} for one image, expected features [1, D]")
    return model


def _chosen(encoder: "openvino.Model", spec: dict):
    """The output of an encoder that a spec names, or its only one."""
    names = [sorted(one.names)[0] if one.names else str(number) for number, one in enumerate(encoder.outputs)]
    wanted = spec.get("output", 0 if len(names) == 1 else None)
    where = f"{spec['path']} has the outputs {names}"
    if wanted is None:
        raise ValueError(f'{where}; add "output", the name or number of the one with features')
    found = [n for n, one in enumerate(encoder.outputs) if wanted in (n, *one.names)]
    if not found:
        raise ValueError(f"{where}, not {wanted!r}")
    return encoder.outputs[found[0]].get_node().input_value(0)


def pooled(features, channels_axis: int, spec: dict):
    """An output of an encoder as [?, D]: the mean over space of a map, the first or the mean of tokens [?, T, D].

    Args:
        channels_axis: of the encoder's input, and so of its maps.

    Raises:
        ValueError: the spec's token does not suit the output.
    """
    from openvino import opset13

    shape, token = features.get_partial_shape(), spec.get("token")
    rank = None if shape.rank.is_dynamic else len(shape)
    if rank not in (2, 3, 4):
        raise ValueError(f"{spec['path']} returns {shape}, expected features [B, D], tokens [B, T, D] or a map")
    if rank != 3 and token:
        raise ValueError(f'{spec["path"]} returns {shape}, not a sequence of tokens; leave out "token"')
    if rank == 3 and not token:
        raise ValueError(f'{spec["path"]} returns tokens {shape}; add "token": "cls" or "mean" to the extractor')
    if rank == 2:
        return features
    if token == "cls":
        return opset13.gather(features, opset13.constant(0), opset13.constant(1))
    axes = [1] if rank == 3 else ([2, 3] if channels_axis == 1 else [1, 2])
    return opset13.reduce_mean(features, opset13.constant(axes), False)


def file_sha256(path: pathlib.Path, words: str) -> str:
    """SHA-256 of an ONNX file, of the files of weights beside it that it names, and of some words."""
    data = path.read_bytes()
    digest = hashlib.sha256(words.encode())
    digest.update(data)
    names = {data[found.end() : found.end() + found[1][0]].decode() for found in re.finditer(EXTERNAL, data, re.DOTALL)}
    for name in sorted(names):
        if pathlib.PurePath(name).name != name:
            raise ValueError(f"{path} names weights outside of its folder: {name!r}")
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()
