"""The PyTorch ways that bench/extract.py and bench/input.py compare with, run by the interpreter that has torch.

    python -m bench.torch_peers resnet 64                ResNet-50 in bfloat16; each line names a way: eager, frozen
    python -m bench.torch_peers webdataset FOLDER 32     one pass over the tars of a folder for each line

Every line on standard input is answered with one line of JSON: {"images", "seconds"}.
"""

import io
import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        same = channels == 4 * width and stride == 1
        projection = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.shortcut = nn.Identity() if same else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, 4 width, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 v1.5 (He et al. 2016, stride in the 3x3), random weights: [B, 3, 224, 224] -> [B, 2048]."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def resnet_ways(batch: int) -> Callable[[str], int]:
    """A function that runs two batches in the named way, "eager" or "frozen", and returns how many images they had."""
    images = torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    network = resnet50().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        traced = torch.jit.trace(network, images, check_trace=False)
    ways = {"eager": network, "frozen": torch.jit.freeze(traced)}

    def run(way: str) -> int:
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(2):
                ways[way](images)
        return 2 * batch

    return run


def decode(sample: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """PNG bytes to a standardised float image [1, H, W], label bytes to a vector."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(sample["png"])))).float()
    image = (pixels - pixels.mean()) / pixels.std().clamp(min=1 / pixels.numel() ** 0.5)
    return image[None], torch.tensor(list(sample["cls"]), dtype=torch.float32)


def webdataset_pass(folder: pathlib.Path, batch: int) -> Callable[[str], int]:
    """A function that reads the tars of a folder once, with two workers, and returns how many images they had."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).shuffle(1000).map(decode)
    loader = torch.utils.data.DataLoader(
        samples.batched(batch), batch_size=None, num_workers=2, persistent_workers=True
    )
    return lambda _: sum(len(labels) for _, labels in loader)


@torch.no_grad()
def main() -> None:
    """Answer every line with what was done and how long it took."""
    peer, *folder, batch = sys.argv[1:]
    run = resnet_ways(int(batch)) if peer == "resnet" else webdataset_pass(pathlib.Path(*folder), int(batch))
    for line in sys.stdin:
        start = time.perf_counter()
        images = run(line.strip())
        print(json.dumps({"images": images, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
