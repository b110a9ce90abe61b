"""Who judges: people, LLM judges, reward models, and simulated ones of each."""
