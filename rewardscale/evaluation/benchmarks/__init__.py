"""Reward-model benchmarks: a file each, items to be scored and formulas over their rewards."""
