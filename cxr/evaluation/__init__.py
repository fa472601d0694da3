"""From a predictions CSV to metrics, without TensorFlow."""
