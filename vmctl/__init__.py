"""vmctl: your GPU work on Google Compute Engine, as if the machine stood under the desk."""

__version__ = "0.1.0"
