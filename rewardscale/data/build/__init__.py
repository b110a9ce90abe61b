"""From public sets to a corpus, by stages over shards: normalise, exact, near, decontaminate, survivors, rows."""
