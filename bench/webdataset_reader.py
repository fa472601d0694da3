"""Read WebDataset tars once for every line on standard input: FOLDER BATCH. Run by bench/input.py where torch is."""

import io
import pathlib
import sys

import numpy as np
import torch
import webdataset
from PIL import Image


def decode(sample: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """PNG bytes to a standardised float image [1, H, W], label bytes to a vector."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(sample["png"])))).float()
    image = (pixels - pixels.mean()) / pixels.std().clamp(min=1 / pixels.numel() ** 0.5)
    return image[None], torch.tensor(list(sample["cls"]), dtype=torch.float32)


def main() -> None:
    """Answer every line with the number of images read."""
    folder, batch = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = (
        webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).shuffle(1000).map(decode).batched(batch)
    )
    loader = torch.utils.data.DataLoader(samples, batch_size=None, num_workers=2, persistent_workers=True)
    for _ in sys.stdin:
        print(sum(len(labels) for _, labels in loader), flush=True)


if __name__ == "__main__":
    main()
