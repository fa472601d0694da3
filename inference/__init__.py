"""What predict, localize, export and serve share: a trained experiment that reads images."""
