"""From the bytes of a DICOM file to the grey pixels that a radiologist's screen would show.

Only the pixels and the elements that control their display are read, no patient data and no private elements.
"""

import io
import struct

import numpy as np

from cxr.images.errors import ImageError, require_size

PREFIX = slice(128, 132), b"DICM"  # every DICOM file has these bytes in this place
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax: the whole file must be inflated before its size can be checked
INSTALL = "reading DICOM needs {}. Run: pip install -r requirements/dicom.txt"
DECODERS = {  # transfer syntax -> the only plugin of pydicom that may decode it
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pylibjpeg",  # JPEG extended
    "1.2.840.10008.1.2.4.57": "pylibjpeg",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "pylibjpeg",  # JPEG lossless, first order
    "1.2.840.10008.1.2.4.80": "pylibjpeg",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pylibjpeg",  # JPEG-LS
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
}
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG markers that declare a size (T.81, T.87)


def is_dicom(data: bytes) -> bool:
    """Whether these bytes are a DICOM file, by content."""
    return data[PREFIX[0]] == PREFIX[1]


def decode_dicom(data: bytes) -> np.ndarray:
    """Decode a single grey frame to uint8 [height, width]; larger is brighter.

    The modality LUT or rescale is applied, then the first VOI LUT or window. Without a window, 8 stored bits keep their
    range. More bits are stretched from the smallest to the largest value that is not padding: 16 stored bits often use
    only 12, and their whole range would leave 4 bits of grey. MONOCHROME1 is inverted.

    Colour is rejected: a colour DICOM is a screenshot or another kind of picture, not a radiograph.

    Raises:
        ImageError: not a single grey image, cut off, broken, implausibly large, or smaller than 32 pixels per side.
        ImportError: requirements/dicom.txt is not installed.
    """
    try:
        import pydicom
        from pydicom import pixels
    except ImportError as error:
        raise ImportError(INSTALL.format("pydicom")) from error
    if DEFLATED in data:
        raise ImageError("deflated DICOM, whose size cannot be checked before it is unpacked")
    try:
        with np.errstate(all="ignore"):
            file = pydicom.dcmread(io.BytesIO(data))
            _require_one_grey_frame(file)
            stored = pixels.pixel_array(file, decoding_plugin=_plugin(file))
            return _displayed(stored, file)
    except (ImageError, ImportError):
        raise
    except Exception as error:  # as in decode.decode_grey: one bad file must not stop a build
        reason = " ".join(str(error).split())[:200]
        raise ImageError(f"broken DICOM: {reason or type(error).__name__}") from error


def _require_one_grey_frame(file) -> None:
    """Raise ImageError unless the header describes one grey frame; the pixels are not decoded yet."""
    if "PixelData" not in file:
        raise ImageError(f"DICOM without pixel data (Modality {file.get('Modality')}): cut off, or not an image")
    frames, kind = int(file.get("NumberOfFrames") or 1), file.PhotometricInterpretation
    if frames != 1:
        raise ImageError(f"DICOM of {frames:,} frames, expected one radiograph")
    if file.SamplesPerPixel != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"colour DICOM ({kind}), expected a grey radiograph")
    if file.BitsAllocated not in (8, 16):
        raise ImageError(f"DICOM of {file.BitsAllocated} bits a pixel, expected 8 or 16")
    require_size(file.Columns, file.Rows)


def _plugin(file) -> str:
    """The plugin that decodes the pixels, "" for uncompressed ones. A JPEG for pylibjpeg is checked first."""
    from pydicom import encaps, pixels

    syntax = file.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return ""
    if syntax not in DECODERS:
        raise ImageError(f"DICOM compressed as {syntax.name}, expected JPEG, JPEG-LS, JPEG 2000 or RLE")
    plugin = DECODERS[syntax]
    if plugin not in pixels.get_decoder(syntax).available_plugins:
        raise ImportError(INSTALL.format(f"pylibjpeg for {syntax.name}"))
    if plugin == "pylibjpeg":
        _require_whole_jpeg(encaps.get_frame(file.PixelData, 0, number_of_frames=1), file.Columns, file.Rows)
    return plugin


def _require_whole_jpeg(frame: bytes, width: int, height: int) -> None:
    """Raise ImageError unless a JPEG or JPEG-LS has that size and its end marker.

    libjpeg fills in missing pixels, and allocates 16 GB for a frame that declares 65,535 x 65,535 pixels.
    """
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ImageError("DICOM whose JPEG is cut off")
    place = 2  # after the start marker follow segments of marker, length and content
    while frame[place] == 0xFF and frame[place + 1] not in START_OF_FRAME:
        place += 2 + int.from_bytes(frame[place + 2 : place + 4])
    declared = struct.unpack(">HH", frame[place + 5 : place + 9])
    if declared != (height, width):
        raise ImageError(f"DICOM of {width} x {height} pixels whose JPEG has {declared[1]} x {declared[0]}")


def _displayed(stored: np.ndarray, file) -> np.ndarray:
    """Grey values for display: uint8 of the shape of `stored`, 0 is black."""
    from pydicom import pixels

    for name in ("RescaleSlope", "RescaleIntercept"):
        if name in file and file[name].is_empty:  # an empty element counts as absent
            del file[name]
    values = pixels.apply_modality_lut(stored, file)
    if file.get("VOILUTSequence"):
        values = pixels.apply_voi(values, file)
        low, high = 0, 2 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif file.get("WindowCenter") is not None and file.get("WindowWidth"):
        values = pixels.apply_windowing(values, file)
        low, high = pixels.apply_windowing(np.array([-1e30, 1e30]), file)  # the values for black and white
    else:
        low, high = _range(stored, values, file)
    share = (values - float(low)) / (float(high) - float(low))
    if not np.isfinite(share).all():
        raise ImageError(f"DICOM without contrast: grey values from {low:g} to {high:g}")
    if file.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    share[_padding(stored, file)] = 0  # not part of the image, so black in every window
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _padding(stored: np.ndarray, file) -> np.ndarray:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2): bool of the shape of `stored`."""
    padding = file.get("PixelPaddingValue")
    if padding is None:
        return np.zeros(stored.shape, bool)
    limit = file.get("PixelPaddingRangeLimit")
    ends = padding, padding if limit is None else limit
    return (stored >= min(ends)) & (stored <= max(ends))


def _range(stored: np.ndarray, values: np.ndarray, file) -> tuple[float, float]:
    """The values for black and white if the file does not define them."""
    from pydicom import pixels

    if file.BitsStored <= 8:
        lowest = -(2 ** (file.BitsStored - 1)) if file.PixelRepresentation else 0
        ends = np.array([lowest, lowest + 2**file.BitsStored - 1], stored.dtype)
        return tuple(sorted(pixels.apply_modality_lut(ends, file)))
    used = values[~_padding(stored, file)]
    return (used.min(), used.max()) if used.size else (0, 1)
