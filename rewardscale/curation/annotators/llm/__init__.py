"""LLM judges behind any OpenAI-compatible endpoint: asked, paid within a budget, never paid twice."""
