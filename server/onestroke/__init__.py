"""Onestroke: a real-time text-to-image inference server.

The house, from the roof to the ground; imports only run downwards:

    cli, app                      flags -> settings -> app; ray: the same as a Ray Serve application
    api                           one file per face: openai, raw, stream, ops, page
    sessions                      a typing session as pure logic
    scheduling                    backlog, policy, scheduler loop, admission
    workers                       where passes run: one process per device
    pipelines                     torch lives here and nowhere above
    models                        the catalog, files, the hub, the embedded weights
    metrics, settings, core, errors
"""

__version__ = "0.1.0"
