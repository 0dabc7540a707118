"""Class names of pictures: ``dbf predict``."""
