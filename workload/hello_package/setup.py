"""What pip has to know of the package."""

from setuptools import find_packages, setup

setup(name="hello-world", version="0.1", packages=find_packages(), python_requires=">=3.9")
