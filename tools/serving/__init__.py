"""The web page and the JSON interface of tools/serve.py."""
