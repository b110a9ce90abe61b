"""One file a public set, or a family of them: facts alone. See rewardscale/data/sources/adapter.py."""
