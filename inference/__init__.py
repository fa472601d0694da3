"""What predict, export and serve share: a trained experiment that reads image files."""
