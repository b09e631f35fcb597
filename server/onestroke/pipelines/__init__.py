"""Where torch lives: sampler tables, noise, text, UNet, decoder, image bytes, loading.

Start at `pipeline.Pipeline` (the verbs) and `loading.load` (which makes one). Nothing is imported here,
so that `import onestroke.pipelines` stays free of torch.
"""
