"""The catalog of models (data, no torch) and the embedded model's weights."""
