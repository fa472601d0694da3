"""Networks trained by PyTorch, eager and channels last, for bench/train.py; run by the interpreter that has torch.

    python -m bench.torch_training 32          batches of 32 images from memory, on all cores
    python -m bench.torch_training 32 1        on one thread

Every line on standard input, "NETWORK SIZE PRECISION STEPS", is answered with one line: the number of images trained.
"""

import itertools
import sys
from collections.abc import Callable

import torch
from torch import nn

CHANNELS = (1, 16, 32, 64, 128, 256)  # those of Params()
# MobileNet 0.25 (Howard et al. 2017, Table 1): channels and stride of each separable block, after 8 channels.
SEPARABLE = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
HIDDEN = (512, 256)  # of Params()
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


class MobileNet(nn.Module):
    """keras.applications.MobileNet(alpha=0.25) and the head of cxr/networks/head.py: uint8 [B, 1, H, W] to [B, 14]."""

    def __init__(self) -> None:
        super().__init__()
        body = self.convolution(3, 8, 3, 2)
        for (before, _), (after, stride) in itertools.pairwise(((8, 1), *SEPARABLE)):
            body += self.convolution(before, before, 3, stride, groups=before) + self.convolution(before, after, 1, 1)
        widths = (SEPARABLE[-1][0], *HIDDEN)
        head = [nn.BatchNorm1d(widths[0], eps=1e-3, affine=False)]
        for before, after in itertools.pairwise(widths):
            head += [nn.Linear(before, after), nn.ReLU()]
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.body = nn.Sequential(*body, *pooled, *head, nn.Linear(widths[-1], FINDINGS))

    @staticmethod
    def convolution(before: int, after: int, size: int, stride: int, groups: int = 1) -> list[nn.Module]:
        """A convolution with batch norm and ReLU6."""
        layer = nn.Conv2d(before, after, size, stride, padding=size // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(after, eps=1e-3), nn.ReLU6()]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale grey images to three channels in [-1, 1] and compute their logits."""
        return self.body((images.float() / 127.5 - 1).expand(-1, 3, -1, -1))


NETWORKS = {"simple_cnn": SimpleCNN, "mobilenet_025": MobileNet}


def trainer(network: str, size: int, precision: str, batch: int) -> Callable[[int], None]:
    """A function that trains for a number of steps on ten batches of noise in memory."""
    model = NETWORKS[network]().to(memory_format=torch.channels_last)
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
        network, size, precision, steps = line.split()
        if (network, size, precision) not in trainers:
            trainers[network, size, precision] = trainer(network, int(size), precision, batch)
        trainers[network, size, precision](int(steps))
        print(int(steps) * batch, flush=True)


if __name__ == "__main__":
    main()
