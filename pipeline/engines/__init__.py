"""Steps, engines and handlers on MONAI's and Ignite's own."""
