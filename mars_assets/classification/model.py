"""The classifier: Prithvi's encoder, one pooled token, dropout, one linear unit."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from mars_assets.prithvi.model import PrithviEncoder


class CraterClassifier(nn.Module):
    """Whether a chip shows a crater, as a logit.

    Args:
        encoder: what turns a chip into tokens.
        pooling: the class token, or the mean of the patch tokens.
        dropout: of the pooled token.
        mask_ratio: share of the patches that training removes; the encoder does not see them. Evaluation removes none.
    """

    def __init__(
        self,
        encoder: PrithviEncoder,
        pooling: Literal["class_token", "mean"],
        dropout: float,
        mask_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.mask_ratio = mask_ratio
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.embed_dim, 1)

    def forward(self, chips: Tensor) -> Tensor:
        """Normalised chips (B, C, H, W) -> logits (B,)."""
        tokens = self.encoder(chips, self.mask_ratio if self.training else 0.0).tokens
        pooled = tokens[:, 0] if self.pooling == "class_token" else tokens[:, 1:].mean(dim=1)
        return self.head(self.dropout(pooled)).squeeze(-1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are a layer, as timm describes it for layer-wise rates. The norm belongs to the last block."""
        return {
            "stem": r"^encoder\.(?:cls_token|patch_embed)",
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }
