"""DICOM files made for tests."""

import io
import pathlib
import struct

import numpy as np
from PIL import Image
from pydicom import encaps, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset

RAMP = (np.arange(32 * 40).reshape(32, 40) * 3).astype(np.uint16)  # 32 high, 40 wide; 0, 3 ... 3837 of 4,095


def dicom_file(pixels=RAMP, *, bits=12, syntax=uid.ExplicitVRLittleEndian, frame=None, **elements):
    """The bytes of a DICOM file.

    Args:
        frame: compressed pixels that replace `pixels`.
        elements: further elements by keyword; None removes one.
    """
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.Modality, file.SamplesPerPixel, file.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated, file.BitsStored, file.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = encaps.encapsulate([frame]) if frame else pixels.tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lut(*values, first, bits):
    """A sequence with one look-up table, whose first value belongs to the stored value `first`."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", "US", list(values))
    return [item]


def lossless_jpeg(pixels):
    """A lossless JPEG (ITU-T T.81 annex H): each pixel minus its left neighbour, in column 0 minus the upper one."""
    values = pixels.astype(int)
    before = np.c_[np.r_[2048, values[:-1, 0]], values[:, :-1]]
    bits = ""
    for step in (values - before).ravel().tolist():
        size = abs(step).bit_length()
        bits += f"{size:05b}" + (f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else "")
    body = int(bits + "1" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8).replace(b"\xff", b"\xff\0")

    def segment(marker, content):
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    codes = segment(0xC4, bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)]))  # 17 codes of 5 bits: the sizes
    size = segment(0xC3, struct.pack(">BHHB", 12, *pixels.shape, 1) + b"\1\x11\0")
    return b"\xff\xd8" + codes + size + segment(0xDA, b"\1\1\0\1\0\0") + body + b"\xff\xd9"


def pydicom_file(name):
    """A real file from pydicom's own test data."""
    return pathlib.Path(get_testdata_file(name, download=False)).read_bytes()


def jpeg(pixels, kind="JPEG", **options):
    """Pixels compressed by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
