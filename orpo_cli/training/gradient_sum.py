"""Gradient sum over ranks with replicated weights (DDP), once a step, after its last micro-batch.

It takes the place of torch's DistributedDataParallel, which sums during the backward pass: here a rank may have no pairs in a
step or another number of micro-batches than the others, and a step can be repeated on all ranks until its gradients are summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist

from orpo_cli.training.agreement import Agreement

BUCKET_BYTES = 25 << 20  # DistributedDataParallel's


def average_gradients(parameters: Iterable[torch.nn.Parameter], agreement: Agreement) -> None:
    """Replace each gradient by its mean over ranks; a rank without one adds zero, and all without one keep none."""
    trained = [each for each in parameters if each.requires_grad]
    present = agreement.max([each.grad is not None for each in trained])
    for bucket in _buckets([each for each, has_gradient in zip(trained, present, strict=True) if has_gradient]):
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
        # A bucket of one tensor is summed in place.
        flat = gradients[0].flatten() if len(bucket) == 1 else torch.cat([each.flatten() for each in gradients])
        dist.all_reduce(flat)
        flat /= agreement.num_processes
        parts = torch.split(flat, [each.numel() for each in bucket])
        for parameter, part in zip(bucket, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def broadcast_weights(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give all ranks the trained weights of rank 0, which a random adapter may have drawn differently."""
    with torch.no_grad():
        for parameter in parameters:
            if parameter.requires_grad:
                dist.broadcast(parameter.data, src=0)


def _buckets(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters of one data type and device, up to ``BUCKET_BYTES``; a larger one has its own bucket."""
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        alike = not bucket or (parameter.dtype, parameter.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or size + parameter.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
