"""What a bundle's configuration names and MONAI does not have; these files lie in ``scripts/`` of the bundle."""
