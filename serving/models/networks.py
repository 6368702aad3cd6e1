"""Networks that make feature maps of pictures, from nothing but torch and transformers: the architectures of
`image_nets.BACKBONES`. This very file is copied beside the weights of every picture student (`published`).

Shape legend: B rows, S pixels a side, C channels, F features, N tokens, H and W sides of a feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TRIED = 64  # pixels a side of the picture that a pretrained model's width is found with


class Separable(nn.Module):
    """`stages`, one block each."""

    def __init__(self, params: Any, channels: int) -> None:
        super().__init__()
        width = params.stem
        self.stem = unit(channels, width, 3, params.stem_stride)
        blocks = []
        for out, stride in zip(params.widths, params.strides, strict=True):
            blocks.append(nn.Sequential(unit(width, width, 3, stride, groups=width), unit(width, out, 1)))
            width = out
        self.stages, self.width = nn.ModuleList(blocks), width

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last block's feature map [B, C, H, W]."""
        x_BCHW: Tensor = self.stem(pixels_BCSS)
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return x_BCHW


def unit(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; the map keeps its side at stride 1."""
    convolution = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes (figure 2, eq. 2)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = unit(inside, out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        changed = inside != out or stride != 1
        projection = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = projection if changed else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map; sides halved at stride 2."""
        return torch.relu(self.second(self.first(x_BCHW)) + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """`stages` of blocks; the first block of each halves the map."""

    def __init__(self, params: Any, channels: int) -> None:
        super().__init__()
        width, stages = params.stem, []
        self.stem = unit(channels, width, 3)
        for out, depth in zip(params.widths, params.depths, strict=True):
            stages.append(nn.Sequential(Block(width, out, 2), *(Block(out, out, 1) for _ in range(depth - 1))))
            width = out
        self.stages, self.width = nn.ModuleList(stages), width

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last stage's feature map [B, C, H, W]."""
        x_BCHW: Tensor = self.stem(pixels_BCSS)
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return x_BCHW


class Pretrained(nn.Module):
    """`model` behind its preprocessing."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, params: Any, channels: int) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        auto_config: Any = AutoConfig
        auto: Any = AutoModel
        config = auto_config.for_model(**params.config)
        self.model = auto.from_config(config, dtype=torch.float32)
        # Models of tokens take one size alone; convolutions take any.
        tokens = hasattr(config, "patch_size") and not hasattr(config, "hidden_sizes")
        self.size, self.repeats = config.image_size if tokens else None, config.num_channels // channels
        self.told = {"mean_C11": params.mean[: config.num_channels], "std_C11": params.std[: config.num_channels]}
        for name, own in self.told.items():
            self.register_buffer(name, torch.tensor(own)[:, None, None], persistent=False)
        with torch.no_grad():  # families name their widths differently
            self.width = int(self.eval()(torch.zeros(1, channels, TRIED, TRIED)).shape[1])
        self.train()

    def normalised(self) -> None:
        """Write the preprocessing's numbers again: transformers makes networks without values, then reads a file that
        does not hold them."""
        for name, own in self.told.items():
            getattr(self, name).copy_(torch.tensor(own, device=getattr(self, name).device)[:, None, None])

    @property
    def stages(self) -> nn.ModuleList:
        """Its convolutional stages, none where it has no such part."""
        found: nn.ModuleList = getattr(getattr(self.model, "encoder", None), "stages", nn.ModuleList())
        return found

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """The last feature map [B, F, H, W] of pixels -1 to 1; of tokens, [B, F, N, 1]."""
        x_BCSS = pixels_BCSS.repeat(1, self.repeats, 1, 1)
        if self.size is not None and x_BCSS.shape[-1] != self.size:
            x_BCSS = nn.functional.interpolate(x_BCSS, (self.size, self.size), mode="bilinear", align_corners=False)
        x_BCSS = ((x_BCSS + 1) / 2 - self.mean_C11) / self.std_C11
        last: Tensor = self.model(pixel_values=x_BCSS).last_hidden_state
        return last if last.dim() == 4 else last.transpose(1, 2)[..., None]
