"""Tables that ship with vmctl."""
