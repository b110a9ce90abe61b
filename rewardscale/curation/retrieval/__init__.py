"""Retrieval: which pairs to judge next, and which judged pairs to show beside them."""
