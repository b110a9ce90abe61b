"""Stages of a corpus build: exact and near duplicates, decontamination. Each is a list of `stages.Task`."""
