"""The training step, and engines and handlers built on those of MONAI and Ignite."""

import logging

# An error that ends a run is raised. Without a handler, Python would print Ignite's own two lines about it as well.
logging.getLogger("ignite").addHandler(logging.NullHandler())
