"""Sources of pairs: one file each; `sweeps/datasets.py` chooses."""
