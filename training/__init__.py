"""How Onestroke's embedded model is made: `python -m training --help` lists the steps, in their order."""
