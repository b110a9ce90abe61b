"""From public sets to a corpus: stages over shards (docs/corpus.md)."""
