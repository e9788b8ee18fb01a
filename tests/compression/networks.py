"""Networks and masks for the tests of `compress`."""

from __future__ import annotations

import copy

import torch
from torch import nn


def small_net(dtype=torch.float32, layer=nn.Linear):
    torch.manual_seed(0)
    layers = [nn.Flatten(), layer(16, 24), nn.ReLU(), layer(24, 8, bias=False), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def random_mask(model, density, whole=False):
    generator = torch.Generator().manual_seed(1)
    mask = {}
    for name, parameter in model.named_parameters():
        if name in ("1.weight", "3.weight"):
            keep = torch.rand(parameter.shape, generator=generator) < density
            mask[name] = keep[:1].expand_as(keep).clone() if whole else keep
    return mask


def masked(model, mask):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.masked_fill_(~mask.get(name, torch.ones_like(parameter).bool()), 0)
    return twin


def wide_net(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), layer(512, 512), nn.ReLU(), layer(512, 512))
