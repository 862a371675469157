"""Steps, engines and handlers on MONAI's and Ignite's own."""

import logging

# An error that ends a run is raised; without a handler, Python would print Ignite's two lines about it as well.
logging.getLogger("ignite").addHandler(logging.NullHandler())
