"""How fast this machine draws: pipeline, HTTP, socket, people who type, and other servers beside them.

`python -m benchmarks` measures; the table is for people, the JSON under `results/` for everything else.
`options` says what can be asked for, `suite` which part measures what, `peers` who runs beside us. The process
that you start imports no torch: models run in child processes (`targets`), servers in their own (`serving`),
and so do the typists (`typists`), so that measuring costs what is measured as little as it can.
"""
