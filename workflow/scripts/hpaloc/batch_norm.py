"""Batch norm of a batch that several processes share out."""

import torch
import torch.distributed as dist

from hpaloc.ranks import Ranks


class SharedBatchNorm(torch.nn.BatchNorm2d):
    """Normalises by the statistics of the whole batch, of which each process has a share.

    The numbers are those of one process with all images, up to the rounding of float32, hence so
    are gradients and running averages; the latter have the same bits in all processes. Shares may
    differ in size. (Where a batch has fewer images than processes, each has all of them, and the
    n / (n - 1) of the running variance counts them as often.) ``torch.nn.SyncBatchNorm`` makes the host wait for the device in every layer, to
    leave out processes without images (there are none here), and does not run on a CPU.
    """

    def __init__(self, like: torch.nn.BatchNorm2d, ranks: Ranks):
        super().__init__(like.num_features, like.eps, like.momentum, device="meta")
        self._parameters, self._buffers = like._parameters, like._buffers
        self.training = like.training
        self.ranks = ranks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        values = images.float()
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        row = torch.cat([mean, variance, mean.new_full((1,), len(images))])
        # A row for each process, added up: from all of them each has all.
        after = self.ranks.count - self.ranks.number - 1
        table = torch.nn.functional.pad(row[None], (0, 0, self.ranks.number, after))
        features = self.num_features
        means, variances, counts = _Sum.apply(table).split([features, features, 1], dim=1)
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        # Not the mean of squares less the square of the mean, which rounding ruins.
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        with torch.no_grad():
            pixels = counts.sum() * images[0, 0].numel()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * pixels / (pixels - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(images.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is that of what all of them made of it."""

    @staticmethod
    def forward(_: object, mine: torch.Tensor) -> torch.Tensor:
        return _summed(mine)

    @staticmethod
    def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(mine: torch.Tensor) -> torch.Tensor:
    everything = mine.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(everything)
    return everything


def share_batch_norm(network: torch.nn.Module, ranks: Ranks) -> None:
    """Puts a SharedBatchNorm in the place of every BatchNorm2d, with its parameters and buffers."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, SharedBatchNorm(child, ranks))
