"""Muse in its open form, aMUSEd: a masked transformer over image tokens, behind the verbs of `pipelines.pipeline`.

`sampling` is the rule of a step, `transformer` and `codec` the two networks, `pipeline.MusePipeline` the verbs,
`editing` what starts from a picture; `loading.load` makes one.
"""
