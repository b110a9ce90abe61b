"""Readers of published preference data.

read.py       where a source's files lie, and the judged comparisons of a part of them
adapter.py    what a source is; found by name in adapters/, a small file of facts a set
formats.py    the records of any file, whole or in parts; json_text, tables and compressed below it
shapes.py     a record to a judged comparison; turns.py conversations, labels.py which response is better
pairing.py    K responses to pairs

mmlu_pro_responses.py, ukpconvarg1.py    two sets as objectives with truth of their own
pairs.py                                 pairs of one's own for a fine-tuning run, checked against a tokenizer
"""
