"""The pages that tools/report.py writes, their figures and pictures."""
