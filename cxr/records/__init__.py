"""A dataset of TFRecords: what a record holds, shards, building, reading and verifying."""
