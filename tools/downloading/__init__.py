"""Parts of tools.download."""
