"""A dataset of TFRecords: the record format, shards, and how datasets are built, read and verified."""
