"""From an NIH release to TFRecord shards."""
