"""ResNet-50 images/s in PyTorch, eager and frozen, in bfloat16: one line of JSON for every line on standard input.

Run by bench/extract.py where torch is. ResNet-50 v1.5 (He et al. 2016, stride in the 3x3), random weights.
"""

import json
import sys
import time

import torch
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
    """[B, 3, 224, 224] -> [B, 2048]."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@torch.no_grad()
def main() -> None:
    """Time the way that each line names, "eager" or "frozen"."""
    batch = int(sys.argv[1])
    images = torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    network = resnet50().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        traced = torch.jit.trace(network, images, check_trace=False)
    ways = {"eager": network, "frozen": torch.jit.freeze(traced)}
    for line in sys.stdin:
        run = ways[line.strip()]
        with torch.autocast("cpu", torch.bfloat16):
            start = time.perf_counter()
            for _ in range(2):
                run(images)
        print(json.dumps({"images": 2 * batch, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
