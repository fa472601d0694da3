"""From the bytes of image files to grey pixels."""
