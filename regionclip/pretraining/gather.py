"""All ranks' rows on every rank, with gradients: moved to `openvocab.modeling.gather`, which GLIPv2 shares; the names stay here."""

from __future__ import annotations

from openvocab.modeling.gather import gather_sizes, gather_with_gradient

__all__ = ["gather_sizes", "gather_with_gradient"]
