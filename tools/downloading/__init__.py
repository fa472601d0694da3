"""What tools.download is made of."""
