"""What the command's help says of circuits; it is shown without loading torch."""

NODE_SCORE_NAMES = ("relevance", "blend", "gradient×activation", "activation")
EDGE_SCORE_NAMES = (
    *("weight×activation", "signed", "gradient×activation", "weight×activation×gradient"),
    *("activation", "weight"),
)
NODE_SCORE, EDGE_SCORE = "relevance", "weight×activation"
"""The defaults, by the method's own definitions."""
GRANULARITIES = ("layers", "blocks")
TOP_K = 16
