"""The nouns of the pipeline: findings, data, networks, evaluation. The verbs are the scripts above this folder."""
