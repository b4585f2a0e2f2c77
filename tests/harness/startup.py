"""What no short command may import when it starts."""

HEAVY = ("googleapiclient", "google", "paramiko", "fabric", "torch", "starlette", "pathspec")
