"""Any text-to-image pipeline of diffusers, behind the verbs of `pipelines.pipeline`: a picture is one call.

Its steps are not ours to interleave: a pass is one call over rows that ask for the same size, steps and guidance,
and rows join and leave between calls. `calls` says which pipelines can be called so, `loading` reads one,
`pipeline` has the verbs.
"""
