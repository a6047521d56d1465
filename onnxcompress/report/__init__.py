"""Reports: a Run as terminal text, Markdown, JSON or HTML."""
