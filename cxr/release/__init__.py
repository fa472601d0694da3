"""A release as its publisher distributes it: tables, lists, boxes, and images in any container."""
