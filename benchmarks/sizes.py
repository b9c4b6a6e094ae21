"""The models that are measured."""

# name -> layers, width, heads; the feed-forward layer is four times as wide.
SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "base": (12, 768, 12)}
