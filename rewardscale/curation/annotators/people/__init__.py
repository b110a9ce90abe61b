"""The built-in page on which people judge pairs: `serve`, and the backend that asks it. See docs/people.md."""
