"""Arguments in, drawings out: a command parses, calls one workflow, renders its result."""
