"""What the toy models of these tests read, and how large they are."""

TEXTS = [
    "storm", "", "the wind and the rain of the coast", "bread " * 100, "a knight takes a bishop", "comet", "rain",
    "violin and bow and string " * 4, "[PAD] and [MASK]",
]  # fmt: skip
SIZES = {"max_position_embeddings": 66, "pad_token_id": 0}
WIDTH = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64, **SIZES}
