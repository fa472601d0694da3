"""The phantoms of the sample release."""
