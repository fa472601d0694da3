"""simple_cnn trained by PyTorch, eager and channels last, for bench/train.py; run by the interpreter that has torch.

    python -m bench.torch_cnn 32          batches of 32 images from memory, on all cores
    python -m bench.torch_cnn 32 1        on one thread

Every line on standard input, "SIZE PRECISION STEPS", is answered with one line: the images that were trained on.
"""

import itertools
import sys
from collections.abc import Callable

import torch
from torch import nn

CHANNELS = (1, 16, 32, 64, 128, 256)  # those of Params()
FINDINGS = 14


class SimpleCNN(nn.Module):
    """The layers of cxr/networks/cnn.py and the logits: uint8 [B, 1, H, W] to [B, 14]."""

    def __init__(self) -> None:
        super().__init__()
        blocks = []
        for before, after in itertools.pairwise(CHANNELS):
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            blocks += [nn.BatchNorm2d(after, eps=1e-3), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], FINDINGS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Standardise each image and compute its logits."""
        pixels = images.float()
        variance, mean = torch.var_mean(pixels, (1, 2, 3), keepdim=True, unbiased=False)
        return self.body((pixels - mean) / variance.sqrt().clamp(min=pixels[0].numel() ** -0.5))


def trainer(size: int, precision: str, batch: int) -> Callable[[int], None]:
    """A function that trains for a number of steps on ten batches of noise in memory."""
    model = SimpleCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    images = torch.randint(0, 256, (10, batch, 1, size, size), dtype=torch.uint8)
    batches = [one.contiguous(memory_format=torch.channels_last) for one in images]
    labels = (torch.rand(batch, FINDINGS) < 0.1).float()

    def run(steps: int) -> None:
        for step in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(batches[step % 10])
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def main() -> None:
    """Answer every line when its steps are done."""
    batch, *threads = map(int, sys.argv[1:])
    if threads:
        torch.set_num_threads(*threads)
    trainers = {}
    for line in sys.stdin:
        size, precision, steps = line.split()
        if (size, precision) not in trainers:
            trainers[size, precision] = trainer(int(size), precision, batch)
        trainers[size, precision](int(steps))
        print(int(steps) * batch, flush=True)


if __name__ == "__main__":
    main()
