"""Cloud Storage: buckets and objects, kept as plain files that machines may share."""
