"""Parts of tools.make_sample: the patients and radiographs of a made-up release."""
