"""The planner: which accelerator, how many, how long, how much, and how sure, before money is spent.

Work and bytes come from the model's numbers (`maths/transformer.py`), rates from the chip's (`rates.py`), the time of a
step from both and the layout (`training.py`). What is fitted is in `constants.toml`; `trimtab validate` says how far
off it all is on published measurements.
"""
