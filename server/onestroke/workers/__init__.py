"""Where passes run: one spawned process per device, a small protocol of dataclasses between."""
