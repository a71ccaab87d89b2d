"""DeepLabv3 on a dilated ResNet-50, with the parameter names of torchvision's, so that its weights load.

Written here because torchvision cannot be relied on beside a CPU build of torch, and because it is short.

Reference:
    Chen L-C, Papandreou G, Schroff F, Adam H. Rethinking atrous convolution for semantic image
    segmentation. arXiv:1706.05587. ResNet: He et al., arXiv:1512.03385, with the stride on the 3 x 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside the identity; (B, C, h, w) -> (B, 4 width, h', w')."""

    def __init__(self, width_in: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x)))


class DilatedResNet50(nn.Module):
    """ResNet-50 whose last two stages keep the resolution: (B, 3, h, w) -> (B, 2048, h / 8, w / 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1, dilations=(1, 1))
        self.layer2 = _stage(256, 128, blocks=4, stride=2, dilations=(1, 1))
        # Where a stride became a dilation, the stage's first block still has the dilation before it.
        self.layer3 = _stage(512, 256, blocks=6, stride=1, dilations=(1, 2))
        self.layer4 = _stage(1024, 512, blocks=3, stride=1, dilations=(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> features (B, 2048, h / 8, w / 8)."""
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return features


def _stage(width_in: int, width: int, *, blocks: int, stride: int, dilations: tuple[int, int]) -> nn.Sequential:
    first = Bottleneck(width_in, width, stride=stride, dilation=dilations[0])
    rest = [Bottleneck(4 * width, width, stride=1, dilation=dilations[1]) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _conv(width_in: int, width: int, size: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(width_in, width, size, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


class AtrousPyramid(nn.Module):
    """Context at several dilations and of the whole picture: (B, 2048, h, w) -> (B, 256, h, w)."""

    def __init__(self, rates: Sequence[int] = (12, 24, 36)) -> None:
        super().__init__()
        branches = [nn.Sequential(*_conv(2048, 256, 1))]
        branches += [nn.Sequential(*_conv(2048, 256, 3, rate)) for rate in rates]
        branches.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv(2048, 256, 1)))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*_conv(256 * len(branches), 256, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches and project them."""
        parts = [branch(x) for branch in self.convs]
        parts[-1] = parts[-1].expand(-1, -1, *x.shape[-2:])
        projected: Tensor = self.project(torch.cat(parts, dim=1))
        return projected


class DeepLabV3(nn.Module):
    """(B, 3, h, w) -> logits (B, classes, h, w)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = DilatedResNet50()
        self.classifier = nn.Sequential(AtrousPyramid(), *_conv(256, 256, 3), nn.Conv2d(256, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the size of the input."""
        logits = self.classifier(self.backbone(x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
