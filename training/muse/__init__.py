"""A small Muse of our own (Chang et al., arXiv 2301.00704), trained on the embedded model's art.

`pictures` is its world, `codec` its image tokens, `masked` the two masked transformers, `export` the folder that
diffusers and `onestroke serve` draw with, `sheets` what it draws.
"""
