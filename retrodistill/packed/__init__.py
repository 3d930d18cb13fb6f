"""Transformer encoders without padding: texts laid end to end, for dense vectors, token vectors and pair logits."""
