"""Google's terms: operations, errors, quotas, why a VM stopped."""
