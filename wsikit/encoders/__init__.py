"""Tile -> vector, frozen and pretrained: one family per file."""

from wsikit.encoders.card import Encoder, EncoderCard, Features, encoder_key
from wsikit.encoders.registry import ENCODERS, FAMILIES, create_encoder, encoder_card, list_encoders

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "Encoder",
    "EncoderCard",
    "Features",
    "create_encoder",
    "encoder_card",
    "encoder_key",
    "list_encoders",
]
