"""What a publisher hands over: tables, lists, boxes, and images in any container."""
