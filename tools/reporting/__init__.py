"""The pages that tools/report.py writes: figures, pictures, and what stands on them."""
