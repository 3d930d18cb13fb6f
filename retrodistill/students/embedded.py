"""What a student makes of texts while it is trained: tensors with gradients, of whichever kind it emits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """Vectors of some texts.

    Attributes:
        values: float32; one row a text, (texts, width), or where a text has several vectors those of all texts one
            after another, (vectors, width). A cross-encoder has one logit a pair, (pairs,).
        lengths: int64 (texts,), how many vectors each text has; None where each has one.
    """

    values: Tensor
    lengths: Tensor | None = None

    def leaf(self) -> Embedded:
        """The same values without their history, ready to collect a gradient."""
        return Embedded(self.values.detach().requires_grad_(), self.lengths)

    @staticmethod
    def join(parts: Sequence[Embedded], rows: Tensor) -> Embedded:
        """Chunks as one, in the order of the texts; gradients flow back into the chunks.

        Args:
            parts: chunks.
            rows: int64 (texts,), which text each row of the chunks is, the chunks taken one after another.
        """
        values, order = torch.cat([part.values for part in parts]), torch.argsort(rows).to(parts[0].values.device)
        lengths = [part.lengths for part in parts if part.lengths is not None]
        if not lengths:
            return Embedded(values[order])
        counts = torch.cat(lengths)
        starts = torch.cumsum(counts, 0) - counts
        counts, starts = counts[order], starts[order]
        # each vector's place: its text's start, plus how far it is into the text
        first = torch.repeat_interleave(starts - (torch.cumsum(counts, 0) - counts), counts)
        return Embedded(values[first + torch.arange(len(values), device=values.device)], counts)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Several vectors a text as a block (texts, most vectors, width), zeros behind the last, and its bool mask."""
        if self.lengths is None:
            raise ValueError("each text has one vector; there is nothing to pad")
        mask = torch.arange(int(self.lengths.max()), device=self.values.device) < self.lengths[:, None]
        block = self.values.new_zeros((*mask.shape, self.values.shape[-1]))
        return block.masked_scatter(mask[..., None], self.values), mask
