"""Cloud Storage: buckets and the objects in them."""
