"""Models as data, without torch: the catalog, what an operator's words mean, files and what is in them, the hub.

Start at `catalog` (rows of the types in `specs`) and `choosing.choose`. Beside the modules lie the embedded model's
weights, the configurations of the original single-file layouts (`configs`) and CLIP's vocabulary (`clip`).
"""
