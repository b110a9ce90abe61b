"""Reward-model benchmarks: a file each, items to be scored and formulas over their rewards.

base.py        what a benchmark is; weighted means
reading.py     where its files lie, and its items out of their records
formulas.py    right pairs, best-of-K, areas under ROC curves
registry.py    all by name; the average of the seven

rewardbench, rewardbench2, ppe_preference, ppe_correctness, rmb, rm_bench, judgebench    the seven, in official schemas
plain.py       sets that have an adapter (data/sources/adapters), and any file of comparisons
"""
