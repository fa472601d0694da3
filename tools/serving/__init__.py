"""The page and the JSON endpoint of tools/serve.py."""
