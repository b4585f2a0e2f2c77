"""Google's APIs; the only room that imports Google's libraries."""
